"""The pipeline behind the peers: it runs all steps of whole requests, as diffusers does, over the same ONNX step.

It batches whole requests as well as possible: finished rows leave the batch, and the models of a batch run one after
the other. Its images have the bytes of ours.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bundle import loading
from service.engine.denoise import denoise, first_step
from service.engine.jobs import Job
from service.engine.placement import Placement
from service.engine.runtime import Array
from service.requests.encoding import encode
from service.requests.request import GenerateRequest
from service.requests.resolve import job_of, resolve
from service.runtimes.cpu import OrtRuntime
from service.settings import SHIPPED_BUNDLES

PNG = "image/png"


@dataclass(frozen=True)
class Tuning:
    """The settings of a peer, which `compare` passes to its process in the environment."""

    workers: int = 2  # processes with a pipeline each
    threads: int = 1  # of a network step
    max_batch: int = 4
    wait_s: float = 0.005  # longest wait for a batch to fill

    def environment(self) -> dict[str, str]:
        return {"PEER_TUNING": json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Tuning":
        return cls(**json.loads(os.environ.get("PEER_TUNING", "{}")))


class Pipeline:
    """Every shipped model, ready to run on the CPU."""

    def __init__(self, threads: int) -> None:
        self.bundles, _ = loading.load_all(SHIPPED_BUNDLES)
        self.runtimes = {name: OrtRuntime(bundle, threads) for name, bundle in self.bundles.items()}
        for name, bundle in self.bundles.items():
            self.runtimes[name].step(first_step(bundle, 1))

    def __call__(self, requests: Sequence[GenerateRequest]) -> list[bytes]:
        """A PNG for each request."""
        jobs = [self._job(request) for request in requests]
        pixels: dict[Job, Array] = {}
        for name in dict.fromkeys(job.method for job in jobs):
            own = [job for job in jobs if job.method == name]
            pixels |= zip(own, denoise(own, self.runtimes[name], len(own)), strict=True)
        return [encode(pixels[job][None], "png") for job in jobs]

    def _job(self, request: GenerateRequest) -> Job:
        bundle = self.bundles[request.method]
        model = Placement(bundle, "cpu", bundle.manifest.digest)
        return job_of(model, resolve(model, request), request, id="", submitted_s=0.0, answer_s=0.0)
