"""The Open Inference Protocol, version 2, over REST, as KServe and Triton have it.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from service.engine.placement import Placement
from service.errors import NotJson, quoted
from service.http import oip_tensors, responses
from service.http.oip_schemas import (
    Error,
    IndexEntry,
    IndexRequest,
    InferResponse,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Ready,
    Server,
    TensorConfig,
    TensorMetadata,
)
from service.http.routes import RequestOrigin, State
from service.requests import inference

EXTENSIONS = ["binary_tensor_data", "model_configuration"]
EVERY = IndexRequest()
ERROR: dict[str, Any] = {"description": "An error", "model": Error}
BODIES = ("application/json", "application/octet-stream")
BINARY = {BODIES[1]: {"schema": {"type": "string", "format": "binary"}}}
INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {BODIES[0]: {"schema": {"$ref": "#/components/schemas/InferRequest"}}, **BINARY},
    }
}
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], responses={"4XX": ERROR, "5XX": ERROR})


@router.get("/health/live", responses={503: {"model": Live}})
async def live(state: State, response: Response) -> Live:
    """Liveness: 503 if the engine has stopped."""
    alive = state.models.readiness().status != "engine stopped"
    response.status_code = 200 if alive else 503
    return Live(live=alive)


@router.get("/health/ready", responses={503: {"model": Ready}})
async def ready(state: State, response: Response) -> Ready:
    """Readiness: whether requests are served."""
    is_ready = state.models.readiness().status == "ready"
    response.status_code = 200 if is_ready else 503
    return Ready(ready=is_ready)


@router.get("")
async def server(request: Request) -> Server:
    """Name, version and extensions of the server."""
    return Server(name=inference.SERVER, version=request.app.version, extensions=EXTENSIONS)


@router.post("/repository/index")
async def index(state: State, body: IndexRequest = EVERY) -> list[IndexEntry]:
    """Every model of the bundle folder, also refused ones."""
    entries = inference.index(state.models.readiness(), body.ready)
    return [IndexEntry.model_validate(entry._asdict()) for entry in entries]


async def find(state: State, model: str) -> Placement:
    """Raises Unavailable or UnknownMethod."""
    return state.models.find(model)


async def versioned(model: str, version: str) -> None:
    """Raises UnknownVersion."""
    inference.require_version(model, version)


Found = Annotated[Placement, Depends(find)]
models = APIRouter()


@models.get("")
async def metadata(model: Found) -> ModelMetadata:
    """Inputs, all optional, and output of a model."""
    return ModelMetadata(
        name=model.name,
        versions=[inference.VERSION],
        platform=inference.PLATFORM,
        inputs=[
            TensorMetadata(name=name, datatype=datatypes[0], shape=[1])
            for name, datatypes in inference.inputs(model).items()
        ],
        outputs=[TensorMetadata(name=inference.OUTPUT, datatype="FP32", shape=inference.output_shape(model))],
    )


@models.get("/config")
async def config(model: Found) -> ModelConfig:
    """Inputs and output of a model, in Triton's form."""
    types = {name: datatypes[0].replace("BYTES", "STRING") for name, datatypes in inference.inputs(model).items()}
    images = TensorConfig(name=inference.OUTPUT, data_type="TYPE_FP32", dims=inference.output_shape(model))
    return ModelConfig(
        name=model.name,
        platform=inference.PLATFORM,
        backend=inference.BACKEND,
        input=[
            TensorConfig(name=name, data_type=f"TYPE_{type}", dims=[1], optional=True) for name, type in types.items()
        ],
        output=[images],
    )


@models.get("/ready", responses={503: {"model": ModelReady}})
async def model_ready(state: State, model: Found, response: Response) -> ModelReady:
    """Readiness of one model."""
    is_ready = inference.is_ready(state, model)
    response.status_code = 200 if is_ready else 503
    return ModelReady(name=model.name, ready=is_ready)


@models.post("/infer", response_model=InferResponse, responses={200: {"content": BINARY}}, openapi_extra=INFER)
async def infer(request: Request, state: State, origin: RequestOrigin, model: Found) -> Response:
    """Generate images: float32 (n, C, H, W) in [−1, 1]. The parameters of the answer have the seed."""
    content_type = request.headers.get("content-type", BODIES[0])  # tritonclient sends none
    if content_type.partition(";")[0].strip().lower() not in BODIES:
        raise NotJson(f"the content type is {quoted(content_type)}; send {' or '.join(BODIES)}")
    header_length = request.headers.get(oip_tensors.HEADER_LENGTH)
    body, generate_request = oip_tensors.parse(model, await request.body(), header_length)
    generation = inference.begin(state, origin, generate_request)
    result = await inference.result(generation)
    shape = (generation.sampling.n, *model.bundle.manifest.shape)
    images = np.frombuffer(result.files[0], dtype="<f4").reshape(shape)
    parameters = inference.parameters(generation)
    pieces, headers = await responses.written(
        result.files, lambda: oip_tensors.answer(body, model.name, origin.id, images, parameters)
    )
    return responses.InPieces(pieces, {**responses.result_headers(generation, result), **headers})


router.include_router(models, prefix="/models/{model}")
router.include_router(models, prefix="/models/{model}/versions/{version}", dependencies=[Depends(versioned)])
