"""What the other servers serve: a pipeline in diffusers' manner over the same ONNX step, all steps of a whole request.

It is as good as a batch of whole requests can be: rows that have finished leave the batch, and the models of a batch
run one after the other. Its images are ours, byte for byte.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bundle import manifest
from service.engine.jobs import Batch, Image, Job
from service.http.schemas import GenerateRequest
from service.requests.encoding import encode
from service.runtimes.cpu import OrtRuntime
from service.settings import SHIPPED_BUNDLES

PNG = "image/png"


@dataclass(frozen=True)
class Tuning:
    """What `compare` hands to a server's process by its environment."""

    workers: int = 2  # processes with a pipeline each
    threads: int = 1  # of a network step
    max_batch: int = 4
    wait_s: float = 0.005  # for a batch to fill

    def environment(self) -> dict[str, str]:
        return {"PEER_TUNING": json.dumps(asdict(self))}

    @classmethod
    def given(cls) -> "Tuning":
        return cls(**json.loads(os.environ.get("PEER_TUNING", "{}")))


class Pipeline:
    def __init__(self, threads: int) -> None:
        self.bundles, _ = manifest.load_all(SHIPPED_BUNDLES)
        self.runtimes = {name: OrtRuntime(loaded, threads) for name, loaded in self.bundles.items()}
        for name, loaded in self.bundles.items():
            self.runtimes[name].step(loaded.first_step(1))

    def __call__(self, asked: Sequence[GenerateRequest]) -> list[bytes]:
        """A PNG for each request."""
        jobs = [self._job(request) for request in asked]
        for name in dict.fromkeys(job.method for job in jobs):
            self._denoise([job.images[0] for job in jobs if job.method == name])
        return [encode(job.images[0].pixels[None], "png") for job in jobs]

    def _job(self, request: GenerateRequest) -> Job:
        served = self.bundles[request.method]
        return served.job(served.resolve(request), id="", submitted_s=0.0)

    def _denoise(self, images: list[Image]) -> None:
        runtime = self.runtimes[images[0].job.method]
        for image in images:
            image.begin()
        while images:
            batch = Batch(images[0].job.method, images)
            x, x0 = runtime.step(batch.inputs())
            pixels = iter(runtime.decode(x[batch.last]) if batch.last else ())
            for image, state, clean in zip(images, x, x0, strict=True):
                image.x, image.x0, image.step = state, clean, image.step + 1
                if image.finished:
                    image.pixels = next(pixels)
            images = [image for image in images if not image.finished]
