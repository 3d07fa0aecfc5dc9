"""`./run bench import`: from `./run import` to an image over HTTP, in seconds and memory. Prints a table for the docs.

The checkpoints have the published layout and random weights. Each part is a process of its own, as a person starts it.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import httpx
import torch

from importers.networks.openai_unet import Heads, Layout, UNet
from importers.storage import Storage
from loadtests.machine import machine
from loadtests.server_process import REPOSITORY, free_port, wait_until_ready

MODEL, STEPS = "model", 20
CIFAR10: Mapping[str, Any] = {  # of google/ddpm-cifar10-32
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


def cifar10(folder: Path) -> tuple[Path, int]:
    """A folder of diffusers as google/ddpm-cifar10-32, and its number of weights."""
    unet: Any = diffusers.UNet2DModel(**CIFAR10)
    pipeline: Any = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler())
    pipeline.save_pretrained(folder / "ddpm-cifar10-32")
    return folder / "ddpm-cifar10-32", unet.num_parameters()


def imagenet64(folder: Path) -> tuple[Path, int]:
    """A file of improved-diffusion, for which a card is published, and its number of weights."""
    unet = UNet(Layout(3, 6, 128, (128, 256, 384, 512), 3, (False, False, True, True)), Heads(4, 4))
    path = folder / "imagenet64_uncond_100M_1500K.pt"
    torch.save(unet.state_dict(), path)
    return path, sum(parameter.numel() for parameter in unet.parameters())


PUBLISHED: Mapping[str, Callable[[Path], tuple[Path, int]]] = {"cifar10": cifar10, "imagenet64": imagenet64}


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench import", description="Measure an import, and its first image.")
    parser.add_argument("model", choices=PUBLISHED, nargs="?", default="cifar10")
    parser.add_argument("--storage", type=Storage, choices=list(Storage), default=Storage.FLOAT32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, weights = PUBLISHED[arguments.model](Path(folder))
        bundles = Path(folder) / "bundles"
        rows = [imported(source, bundles / MODEL, arguments.storage), *served(bundles)]
        size = sum(path.stat().st_size for path in bundles.glob("*/*"))
    print(f"\n{weights / 1e6:.1f} million weights, a bundle of {size / 2**20:.0f} MiB, on {machine()}\n")
    print("| | seconds | peak memory, MiB |\n|---|--:|--:|")
    rows.append(Row("all of it", sum(row.seconds for row in rows), max(row.peak_bytes for row in rows)))
    for row in rows:
        print(f"| {row.what} | {row.seconds:.1f} | {row.peak_bytes / 2**20:.0f} |")


class Row(NamedTuple):
    what: str
    seconds: float
    peak_bytes: int


def imported(source: Path, target: Path, storage: Storage) -> Row:
    start_s = time.perf_counter()
    options = ["-o", target, "--name", target.name, "--storage", storage]
    with started("-m", "importers", source, *options) as process:
        peak_bytes = ended(process)
    return Row(f"`./run import {source.name} --storage {storage}`", time.perf_counter() - start_s, peak_bytes)


def served(bundles: Path) -> list[Row]:
    """From the start of the service to the image."""
    port, start_s = free_port(), time.perf_counter()
    with started("-m", "service", "--port", port, "--bundles", bundles, "--log-level", "warning") as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        ready_s, ready_bytes = time.perf_counter(), peak_of(process)
        request = {"method": MODEL, "steps": STEPS, "seed": 1}
        httpx.post(f"{url}/generate", json=request, headers={"Accept": "image/png"}, timeout=600).raise_for_status()
        image_s, image_bytes = time.perf_counter(), peak_of(process)
        process.terminate()
        largest_bytes = ended(process)
    return [
        Row("`./run serve`, until `/readyz` gives 200; the service", ready_s - start_s, ready_bytes),
        Row(f"the image, of {STEPS} steps; the service", image_s - ready_s, image_bytes),
        Row("the service's largest process, of itself and its trial of the graph", 0.0, largest_bytes),
    ]


@contextlib.contextmanager
def started(*arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of this Python; it is ended on leaving."""
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: "subprocess.Popen[bytes]") -> int:
    """Waits for the process: the peak memory of it, or of a process that it waited for, in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -15):
        raise SystemExit(f"it ended with {process.returncode}")
    return usage.ru_maxrss * 1024


def peak_of(process: "subprocess.Popen[bytes]") -> int:
    """The most memory that a running process had so far, in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
