"""The bodies of the Open Inference Protocol. A member that is not supported is refused, not dropped."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_ITEMS = 64  # of a list; pydantic would go through any number of wrong ones, and has three errors for each

Size = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


# --- requests ---------------------------------------------------------------------------------------------------------


class TensorParameters(Wire):
    binary_data_size: Annotated[Size | None, Field(description="size of the tensor in the binary part, bytes")] = None


class InputTensor(Wire):
    name: str
    shape: Annotated[list[Size], Field(max_length=MAX_ITEMS)]
    datatype: str
    parameters: TensorParameters = TensorParameters()
    data: Annotated[list[int | float | str], Field(max_length=MAX_ITEMS)] | None = None


class OutputParameters(Wire):
    binary_data: bool | None = None


class OutputTensor(Wire):
    name: Literal["images"]
    parameters: OutputParameters = OutputParameters()


class RequestParameters(Wire):
    binary_data_output: bool = False


class InferRequest(Wire):
    """Inputs, each optional: `steps`, `seed`, `class_label`, `n`, `index`, `solver`, `guidance`, `deadline_ms`,
    `priority`, and the settings of the model's solvers by their names, such as `eta`. A model's metadata lists them.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "steps", "shape": [1], "datatype": "INT32", "data": [20]},
                        {"name": "seed", "shape": [1], "datatype": "UINT64", "data": [7]},
                        {"name": "class_label", "shape": [1], "datatype": "INT32", "data": [3]},
                    ]
                }
            ]
        }
    )

    id: Annotated[str, Field(max_length=256)] = ""
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(max_length=MAX_ITEMS)] = []
    outputs: Annotated[list[OutputTensor], Field(max_length=MAX_ITEMS)] = []

    @property
    def wants_binary(self) -> bool:
        for output in self.outputs:
            if output.parameters.binary_data is not None:
                return output.parameters.binary_data
        return self.parameters.binary_data_output


class IndexRequest(Wire):
    ready: Annotated[bool, Field(description="only models that are ready")] = False


# --- answers ----------------------------------------------------------------------------------------------------------


class Error(BaseModel):
    error: str


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class Server(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    name: str
    data_type: str
    dims: list[int]
    optional: bool = False


class ModelConfig(BaseModel):
    name: str
    platform: str
    backend: str
    max_batch_size: int = 0  # rows are batched here, step by step; a request has no such dimension
    input: list[TensorConfig]
    output: list[TensorConfig]


class ModelReady(BaseModel):
    name: str
    ready: bool


class OutputData(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[float] = []


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Any]
    outputs: list[OutputData]


class IndexEntry(BaseModel):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str
