"""The Open Inference Protocol, version 2, over REST, as KServe and Triton have it.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from service.engine.placement import Placement
from service.errors import NotJson, UnknownVersion, quoted
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
from service.requests.encoding import RAW
from service.requests.generation import Generation

EXTENSIONS = ["binary_tensor_data", "model_configuration"]
PLATFORM = "onnxruntime_onnx"
VERSION = "1"  # of each model: a bundle has one at a time, and its digest says which


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
    return Server(name="trilemma", version=request.app.version, extensions=EXTENSIONS)


@router.post("/repository/index")
async def index(state: State, body: IndexRequest = EVERY) -> list[IndexEntry]:
    """Every model of the bundle folder, also refused ones."""
    readiness = state.models.readiness()
    entries = [IndexEntry(name=name, version=VERSION, state="READY", reason="") for name in readiness.methods] + [
        IndexEntry(
            name=name, version=VERSION, state="UNAVAILABLE", reason="taken out of service after repeated failures"
        )
        for name in readiness.out_of_service
    ]
    refused = [
        IndexEntry(name=name, version=VERSION, state="UNAVAILABLE", reason=reason)
        for name, reason in readiness.failed_bundles.items()
    ]
    return [entry for entry in entries + refused if entry.state == "READY" or not body.ready]


async def find(state: State, model: str) -> Placement:
    """Raises Unavailable or UnknownMethod."""
    return state.models.find(model)


async def versioned(model: str, version: str) -> None:
    """Raises UnknownVersion."""
    if version != VERSION:
        raise UnknownVersion(model, version, [VERSION])


Found = Annotated[Placement, Depends(find)]
models = APIRouter()


@models.get("")
async def metadata(model: Found) -> ModelMetadata:
    """Inputs, all optional, and output of a model."""
    return ModelMetadata(
        name=model.name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[
            TensorMetadata(name=name, datatype=datatypes[0], shape=[1])
            for name, datatypes in oip_tensors.inputs(model).items()
        ],
        outputs=[TensorMetadata(name=oip_tensors.OUTPUT, datatype="FP32", shape=[-1, *model.bundle.manifest.shape])],
    )


@models.get("/config")
async def config(model: Found) -> ModelConfig:
    """Inputs and output of a model, in Triton's form."""
    types = {name: datatypes[0].replace("BYTES", "STRING") for name, datatypes in oip_tensors.inputs(model).items()}
    images = TensorConfig(name=oip_tensors.OUTPUT, data_type="TYPE_FP32", dims=[-1, *model.bundle.manifest.shape])
    return ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        input=[
            TensorConfig(name=name, data_type=f"TYPE_{type}", dims=[1], optional=True) for name, type in types.items()
        ],
        output=[images],
    )


@models.get("/ready", responses={503: {"model": ModelReady}})
async def model_ready(state: State, model: Found, response: Response) -> ModelReady:
    """Readiness of one model."""
    is_ready = model.digest not in state.engine.out_of_service
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
    with responses.renaming(lambda field: field.removeprefix("settings.")):  # each is an input of its own
        generation = Generation.begin(state, origin, generate_request, RAW)
        result = await generation.result()
    shape = (generation.sampling.n, *model.bundle.manifest.shape)
    images = np.frombuffer(result.files[0], dtype="<f4").reshape(shape)
    parameters = {"seed": generation.sampling.seed, "digest": generation.model.digest}
    pieces, headers = await responses.written(
        result.files, lambda: oip_tensors.answer(body, model.name, VERSION, origin.id, images, parameters)
    )
    return responses.InPieces(pieces, {**responses.result_headers(generation, result), **headers})


router.include_router(models, prefix="/models/{model}")
router.include_router(models, prefix="/models/{model}/versions/{version}", dependencies=[Depends(versioned)])
