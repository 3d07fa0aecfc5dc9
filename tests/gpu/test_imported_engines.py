"""Engines of imported models, whose graphs take more than the shipped ones', over a fake GPU: the images of the CPU."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from bundle import gpu_manifest
from bundle.loading import Bundle, load
from export import accuracy
from export.gpu_bundle import BuildOptions, build
from importers import __main__ as command
from importers import bundle as bundles
from service.engine.denoise import denoise
from service.engine.jobs import Job
from service.runtimes import choice
from service.runtimes.choice import Cuda
from service.runtimes.cpu import OrtRuntime
from tests.gpu.fake import FakeDriver, InFakeMemory
from tests.importers import parity
from tests.importers.test_diffusers_folder import saved, unet
from tests.service.engine.conftest import job, new_engine, run

BUCKETS = (2, 8)
CLASSES = ["ant", "bee"]  # and a row of the table for none


def imported(folder: Path, source: Path, *options: str, **card: Any) -> Bundle:
    """A bundle with engines in fp32, whose graph computes what the bundle's does."""
    (folder / "card.json").write_text(json.dumps(card))
    arguments = [str(source), "-o", str(folder / "bundle"), "--card", str(folder / "card.json"), *options]
    command.run(command.parser().parse_args(arguments))
    few = load(folder / "bundle").manifest.model_copy(update={"recommended_steps": 2})
    few.write(folder / "bundle")
    bundle = load(folder / "bundle")
    build(bundle, BuildOptions("cuda", "fp32", buckets=BUCKETS))
    return bundle


def noise_levels(folder: Path) -> Bundle:
    return imported(folder, parity.path("edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl"), format="edm")


def learned_variance(folder: Path) -> Bundle:
    flags = json.loads(parity.path("id_cosine32_config.json").read_text())["args"]
    source = parity.path("id_cosine32.pt")
    return imported(folder, source, "--storage", "float16", format="improved-diffusion", settings=flags)


def pairs(folder: Path) -> Bundle:
    small = {"block_out_channels": (32,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = unet(num_class_embeds=len(CLASSES) + 1, sample_size=(8, 16), **small)
    source = saved(folder / "published", network, diffusers.DDIMScheduler())
    return imported(folder, source, format="diffusers", classes=CLASSES)


def images(bundle: Bundle, runtime: Any, jobs: list[Job]) -> list[Any]:
    """The images of jobs that share batches."""
    engine = new_engine({bundle.manifest.digest: runtime}, max_batch=8, max_queued_images=64)
    engine.start()

    async def together() -> list[Job]:
        return await asyncio.gather(*(run(engine, each) for each in jobs))

    results = asyncio.run(together())
    engine.stop()
    return [np.stack([image.pixels for image in result.images]) for result in results]


@pytest.mark.parametrize("model", [noise_levels, learned_variance, pairs])
def test_an_imported_model_gives_the_same_bytes_through_the_runtime_of_a_gpu(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(accuracy, "IMAGES", 2)
    monkeypatch.setattr(bundles, "EXTERNAL_BYTES", 1000)  # so that the weights lie in a file beside the graph
    monkeypatch.setattr(choice, "open_driver", lambda: driver)
    monkeypatch.setattr(choice, "OrtCudaNetwork", InFakeMemory)
    monkeypatch.setattr(InFakeMemory, "driver", driver, raising=False)
    bundle = model(tmp_path)
    assert "step.data" in bundle.manifest.files

    def jobs() -> list[Job]:
        labels = [{"class_label": 1}, {}] if bundle.manifest.classes else [{}, {}]
        plain = [job(bundle, seed=seed, n=n, steps=3, **labels[seed]) for seed, n in enumerate((3, 1))]
        if not bundle.manifest.guidance:
            return plain
        return [replace(plain[0], guidance=3.0, no_label=len(CLASSES)), *plain]

    cpu = OrtRuntime(bundle, threads=1)
    expected = [denoise([each], cpu, max_batch=2) for each in jobs()]
    for agree in (None, True):  # batches padded to 8 rows, and of 2 or 8
        folder, engines = gpu_manifest.load(bundle)
        engines.buckets_agree = agree
        engines.write(folder)
        device = Cuda(driver, images=64, max_batch=8, required=True)
        computed = images(bundle, device.open(device.place(bundle), threads=1), jobs())
        for actual, pixels in zip(computed, expected, strict=True):
            np.testing.assert_array_equal(actual, pixels)
