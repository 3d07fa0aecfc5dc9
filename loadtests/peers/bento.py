"""BentoML with adaptive batching. https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html"""

import base64
import os
import sys

import bentoml

from loadtests.peers.pipeline import Pipeline, Tuning
from service.requests.request import GenerateRequest

tuning = Tuning.from_environment()


@bentoml.service(workers=tuning.workers, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Bento:
    def __init__(self) -> None:
        self.pipeline = Pipeline(tuning.threads)

    @bentoml.api(batchable=True, max_batch_size=tuning.max_batch, max_latency_ms=20_000, route="/generate")
    def generate(self, requests: list[GenerateRequest]) -> list[str]:
        return [base64.b64encode(png).decode() for png in self.pipeline(requests)]


if __name__ == "__main__":
    program = os.path.join(os.path.dirname(sys.executable), "bentoml")
    os.execv(program, [program, "serve", "loadtests.peers.bento:Bento", "--host", "127.0.0.1", "--port", sys.argv[1]])  # noqa: S606
