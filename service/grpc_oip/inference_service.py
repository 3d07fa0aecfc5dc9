"""The Open Inference Protocol's calls, as service/http/oip.py has them over REST."""

from typing import Any

import grpc

from service.engine.placement import Placement
from service.grpc_oip.infer import begin, find, images
from service.grpc_oip.infer_stream import InferStreams
from service.grpc_oip.messages import SERVICE, message
from service.grpc_oip.rpc import Context, Rpcs
from service.requests import inference
from service.requests.generation import Origin
from service.requests.state import ServiceState

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]
PROBES = ("ServerLive", "ServerReady")


class InferenceService:
    """Each call gets its message, where that comes from, and the call's own time, and returns a message."""

    def __init__(self, state: ServiceState, rpcs: Rpcs, streams: InferStreams, version: str) -> None:
        self.state = state
        self.rpcs = rpcs
        self.streams = streams
        self.version = version

    def handlers(self) -> grpc.GenericRpcHandler:
        unary = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "ModelConfig": self.model_config,
            "RepositoryIndex": self.repository_index,
        }
        handlers = {
            name: self.rpcs.unary(f"/{SERVICE.full_name}/{name}", message(f"{name}Request"), answer, name in PROBES)
            for name, answer in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self.streams.handle)
        return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)

    async def server_live(self, *_: Any) -> Any:
        return message("ServerLiveResponse")(live=self.state.models.readiness().status != "engine stopped")

    async def server_ready(self, *_: Any) -> Any:
        return message("ServerReadyResponse")(ready=self.state.models.readiness().status == "ready")

    async def model_ready(self, request: Any, *_: Any) -> Any:
        return message("ModelReadyResponse")(ready=inference.is_ready(self.state, self._find(request)))

    async def server_metadata(self, *_: Any) -> Any:
        response = message("ServerMetadataResponse")
        return response(name=inference.SERVER, version=self.version, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, *_: Any) -> Any:
        model = self._find(request)
        response = message("ModelMetadataResponse")(name=model.name, platform=inference.PLATFORM)
        response.versions.append(inference.VERSION)
        for name, datatypes in inference.inputs(model).items():
            response.inputs.add(name=name, datatype=datatypes[0], shape=[1])
        response.outputs.add(name=inference.OUTPUT, datatype="FP32", shape=inference.output_shape(model))
        return response

    async def model_config(self, request: Any, *_: Any) -> Any:
        model = self._find(request)
        config = message("ModelConfig")(name=model.name, platform=inference.PLATFORM, backend=inference.BACKEND)
        for name, datatypes in inference.inputs(model).items():
            datatype = f"TYPE_{datatypes[0].replace('BYTES', 'STRING')}"
            config.input.add(name=name, data_type=datatype, dims=[1], optional=True)
        config.output.add(name=inference.OUTPUT, data_type="TYPE_FP32", dims=inference.output_shape(model))
        return message("ModelConfigResponse")(config=config)

    async def repository_index(self, request: Any, *_: Any) -> Any:
        entries = inference.index(self.state.models.readiness(), request.ready)
        return message("RepositoryIndexResponse")(models=[entry._asdict() for entry in entries])

    async def model_infer(self, request: Any, origin: Origin, context: Context) -> Any:
        generation = begin(self.state, origin, request, context.time_remaining())
        result = await inference.result(generation)
        return images(generation, request.id, result.files, {})

    def _find(self, request: Any) -> Placement:
        return find(self.state, request.name, request.version)
