"""Ray Serve with @serve.batch. https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html"""

import asyncio
import signal
import sys

import ray
from fastapi import Response
from ray import serve
from starlette.requests import Request

from loadtests.peers.pipeline import PNG, Pipeline, Tuning
from service.requests.request import GenerateRequest

tuning = Tuning.from_environment()


class Replica:
    def __init__(self) -> None:
        self.pipeline = Pipeline(tuning.threads)

    @serve.batch(max_batch_size=tuning.max_batch, batch_wait_timeout_s=tuning.wait_s)
    async def batched(self, requests: list[GenerateRequest]) -> list[bytes]:
        return await asyncio.to_thread(self.pipeline, requests)

    async def __call__(self, request: Request) -> Response:
        body = GenerateRequest.model_validate(await request.json())
        return Response(await self.batched(body), media_type=PNG)


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level="warning", runtime_env={"env_vars": tuning.environment()})
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=quiet)
    deployed = serve.deployment(num_replicas=tuning.workers, max_ongoing_requests=1000)(Replica)
    serve.run(deployed.bind(), route_prefix="/generate", logging_config=quiet)
    signal.pause()
