"""Writes a bundle: exports the step graph of a checkpoint, simplifies it, checks it against PyTorch, signs the files."""

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from numpy.typing import NDArray
from torch import nn

from export.step import COEFFICIENTS, StepModule
from models import checkpoint
from models.checkpoint import Card
from service.bundle import FORMAT_VERSION, MANIFEST, STEP, Bundle, File, Manifest, Parity
from service.core import Inputs
from service.runtime import OrtRuntime

OPSET = 20
TOLERANCE = 1e-4  # on x_new and x0, whose values lie in about [−4, 4]
BATCH_SIZES = (1, 2, 5, 16)
PACKAGES = ("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime")


class ExportError(Exception):
    """The checkpoint cannot be exported; the message says why."""


def export(source: Path, target: Path) -> Manifest:
    """Exports the checkpoint folder `source` to the bundle folder `target`, which is replaced whole.

    Raises ExportError if the graph differs from PyTorch by more than TOLERANCE at any of BATCH_SIZES.
    """
    card, network = checkpoint.load(source)
    module = StepModule(network).eval()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        folder = Path(scratch)
        onnx.save(trace(module, random_inputs(card, 2, seed=0)), folder / STEP)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=card.name,
            family=card.family,
            shape=card.shape,
            classes=card.classes,
            noise_schedule=card.noise_schedule,
            recommended_steps=card.recommended_steps,
            opset=OPSET,
            dtype="float32",
            files={STEP: describe(folder / STEP)},
            parity=Parity(tolerance=TOLERANCE, largest_difference=0.0, batch_sizes=list(BATCH_SIZES)),
            checkpoint={
                "sha256": describe(source / checkpoint.WEIGHTS).sha256,
                "training": card.training,
                "exported_with": {name: version(name) for name in PACKAGES},
            },
        )
        manifest.parity.largest_difference = largest_difference(module, card, Bundle(folder, manifest))
        if not manifest.parity.largest_difference <= TOLERANCE:
            raise ExportError(f"the graph is off PyTorch by {manifest.parity.largest_difference}, more than {TOLERANCE}")
        write_manifest(folder, manifest)
        replace(folder, target)
    return manifest


def trace(module: nn.Module, inputs: Inputs) -> onnx.ModelProto:
    """The module as a simplified ONNX graph, dynamic in the batch axis only."""
    rows = torch.export.Dim("rows", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module,
            tuple(map(torch.from_numpy, inputs.values())),
            input_names=list(inputs),
            output_names=["x_new", "x0"],
            opset_version=OPSET,
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    slim: onnx.ModelProto = onnxslim.slim(program.model_proto)
    onnx.checker.check_model(slim, full_check=True)
    return slim


def random_inputs(card: Card, rows: int, seed: int) -> Inputs:
    """Inputs of the step graph as it may meet them, in the order of `StepModule.forward`."""
    rng = np.random.default_rng(seed)

    def normal() -> NDArray[np.float32]:
        return rng.standard_normal((rows, *card.shape), dtype=np.float32)

    timesteps = len(card.noise_schedule["alphas_cumprod"])
    return {
        "x": normal(),
        "t": rng.integers(timesteps, size=rows).astype(np.float32),
        "y": rng.integers(len(card.classes) + 1, size=rows),
        "noise": normal(),
        "x0_prev": normal(),
        "coefficients": rng.random((rows, len(COEFFICIENTS)), dtype=np.float32),
    }


def largest_difference(module: nn.Module, card: Card, bundle: Bundle) -> float:
    """The largest |difference| between the graph's outputs and PyTorch's over BATCH_SIZES."""
    runtime = OrtRuntime(bundle, threads=torch.get_num_threads())
    largest = 0.0
    for rows in BATCH_SIZES:
        inputs = random_inputs(card, rows, seed=rows)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, inputs.values()))
        for got, wanted in zip(runtime.step(inputs), expected, strict=True):
            largest = max(largest, float(np.abs(got - wanted.numpy()).max()))
    return largest


def describe(path: Path) -> File:
    content = path.read_bytes()
    return File(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces the folder's manifest in one move."""
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
    partial.replace(folder / MANIFEST)


def replace(folder: Path, target: Path) -> None:
    """Puts `folder` where `target` is."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
