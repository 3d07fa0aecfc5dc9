"""LitServe with batching. https://lightning.ai/docs/litserve/features/batching"""

import sys
from typing import Any

import litserve
from fastapi import Response

from loadtests.peers.pipeline import PNG, Pipeline, Tuning
from service.requests.request import GenerateRequest


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.pipeline = Pipeline(Tuning.from_environment().threads)

    def decode_request(self, request: dict[str, Any], **_: Any) -> GenerateRequest:
        return GenerateRequest.model_validate(request)

    def batch(self, inputs: list[GenerateRequest]) -> list[GenerateRequest]:
        return inputs

    def predict(self, x: Any, **_: Any) -> Any:
        return self.pipeline(x) if isinstance(x, list) else self.pipeline([x])[0]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes, **_: Any) -> Response:
        return Response(output, media_type=PNG)


if __name__ == "__main__":
    tuning = Tuning.from_environment()
    api = Api(max_batch_size=tuning.max_batch, batch_timeout=tuning.wait_s, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=tuning.workers, timeout=30, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
