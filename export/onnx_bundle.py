"""Exports a checkpoint to a bundle: traces its graphs, simplifies them, and checks them against PyTorch."""

import json
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from numpy.typing import NDArray
from torch import nn

from bundle.gpu_manifest import TARGETS
from bundle.loading import Bundle, sha256
from bundle.manifest import DECODE, ENCODE, FORMAT_VERSION, MANIFEST, SHARED, STEP, Dataset, File, Manifest, Parity
from export.fuse import fuse
from export.replacement import replacing
from export.shared_weights import share
from export.step_module import PLAIN, DecodeModule, EncodeModule, StepModule
from models import checkpoint, families
from models.checkpoint import Card
from service.engine.runtime import StepInputs
from service.runtimes.cpu import OrtRuntime

Arrays = dict[str, NDArray[Any]]  # the inputs of a graph, by name

OPSET = 20
TOLERANCE = 1e-4  # on x_new, x0 and images, whose values lie in about [−4, 4]
BATCH_SIZES = (1, 2, 5, 16)
PACKAGES = ("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime")


class ExportError(ValueError):
    """The checkpoint cannot be exported; the message says why."""


def export(source: Path, target: Path) -> Manifest:
    """Exports the checkpoint folder `source` to the bundle folder `target`; an error keeps what `target` was.

    Raises ExportError if the graph differs from PyTorch by more than TOLERANCE at any of BATCH_SIZES. Raises NotOurs if
    `target` exists and is not a bundle.
    """
    card, network = checkpoint.load(source)
    with replacing(target.resolve(), is_of_bundle) as partial:
        shutil.copyfile(source / checkpoint.WEIGHTS, partial / SHARED)
        for name, graph in graphs(card, fuse(network)):
            share(graph, partial / SHARED)
            onnx.save(graph, partial / name)
        manifest = describe(card, partial)
        difference = largest_difference(network, card, Bundle(partial, manifest))
        if not difference <= TOLERANCE:
            raise ExportError(f"the graph differs from PyTorch by {difference}, more than {TOLERANCE}")
        manifest.parity.largest_difference = difference
        manifest.write(partial)
    return manifest


def graphs(card: Card, network: nn.Module) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graphs of a bundle, by the name of their file."""
    example = random_inputs(card, 2, seed=0)
    yield STEP, trace(StepModule(network).eval(), example, ["x_new", "x0"])
    if card.decodes:
        yield DECODE, trace(DecodeModule(network).eval(), {"x": example["x"]}, ["images"])
        yield ENCODE, trace(EncodeModule(network).eval(), {"images": random_images(card, 2, seed=0)}, ["x"])


def is_of_bundle(path: Path) -> bool:
    """Whether this entry of a folder is one of a bundle: graphs, engines, timings, and a manifest of ours."""
    if path.name == MANIFEST:
        try:
            return "format_version" in json.loads(path.read_bytes())
        except (OSError, ValueError, TypeError):
            return False
    return path.suffix in (".onnx", ".data", ".cache") or path.name in {
        SHARED,
        *TARGETS,
        *(f".{target}.partial" for target in TARGETS),
    }


def describe(card: Card, folder: Path) -> Manifest:
    """The manifest of the exported files in `folder`; nothing is measured yet."""
    return Manifest(
        format_version=FORMAT_VERSION,
        name=card.name,
        family=card.family,
        shape=card.shape,
        state_shape=card.state_shape,
        classes=card.classes,
        z_dim=card.latent,
        noise_schedule=card.noise_schedule,
        recommended_steps=card.recommended_steps,
        opset=OPSET,
        dtype="float32",
        files={
            path.name: File(sha256=sha256(path), bytes=path.stat().st_size)
            for path in sorted([*folder.glob("*.onnx"), folder / SHARED])
        },
        parity=Parity(tolerance=TOLERANCE, largest_difference=0.0, batch_sizes=list(BATCH_SIZES)),
        dataset=dataset(card),
        checkpoint={
            "sha256": sha256(folder / SHARED),
            "training": card.training,
            "exported_with": {name: version(name) for name in PACKAGES},
        },
    )


def dataset(card: Card) -> Dataset | None:
    """The data that the checkpoint was trained on: by its digest, if it has no name."""
    digest = str(card.training.get("data_digest", ""))
    name = str(card.training.get("dataset", digest[:12]))
    return Dataset(name=name, digest=digest) if name else None


def trace(module: nn.Module, inputs: Arrays, outputs: list[str]) -> onnx.ModelProto:
    """The module as a simplified ONNX graph, dynamic in the batch axis only."""
    # The graph itself has no limit. diffusers copies a tensor of 64 rows or more before it resizes it: a trace for any
    # number of rows would be refused, and made again.
    rows = torch.export.Dim("rows", min=1, max=63)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module,
            kwargs={name: torch.from_numpy(array) for name, array in inputs.items()},
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes={name: {0: rows} for name in inputs},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    slim: onnx.ModelProto = onnxslim.slim(program.model_proto)
    onnx.checker.check_model(slim, full_check=True)
    return slim


def random_inputs(card: Card, rows: int, seed: int) -> Arrays:
    """Random inputs of the step graph for `rows` rows, in the order of `StepModule.forward`."""
    rng = np.random.default_rng(seed)

    def normal() -> NDArray[np.float32]:
        return rng.standard_normal((rows, *card.state_shape), dtype=np.float32)

    every_step = families.find(card.family).max_steps(card.noise_schedule)
    plan = families.default_plan(card.family, card.noise_schedule, every_step)
    inputs: Arrays = {
        "x": normal(),
        "t": rng.choice([k.t for k in plan], size=rows).astype(np.float32),
        "y": rng.integers(len(card.classes) + 1, size=rows),
        "noise": normal(),
        "x0_prev": normal(),
        "coefficients": rng.random((rows, PLAIN.columns), dtype=np.float32),
    }
    if card.latent:
        inputs["z"] = rng.standard_normal((rows, card.latent), dtype=np.float32)
    return inputs


def random_images(card: Card, rows: int, seed: int) -> NDArray[np.float32]:
    """Random images (rows, C, H, W) in [−1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (rows, *card.shape)).astype(np.float32)


def largest_difference(network: nn.Module, card: Card, bundle: Bundle) -> float:
    """The largest |difference| between the graphs' outputs and PyTorch's over BATCH_SIZES."""
    runtime = OrtRuntime(bundle, threads=torch.get_num_threads())
    differences = []
    for rows in BATCH_SIZES:
        inputs = random_inputs(card, rows, seed=rows)
        x_new, x0 = runtime.step(StepInputs(**inputs))
        outputs = [x_new.array, x0.array]
        with torch.no_grad():
            expected = [*StepModule(network)(*map(torch.from_numpy, inputs.values()))]
            if card.decodes:
                images = random_images(card, rows, seed=rows)
                outputs += [runtime.decode(x0), np.stack([runtime.encode(image) for image in images])]
                expected += [DecodeModule(network)(expected[1]), EncodeModule(network)(torch.from_numpy(images))]
        differences += [np.abs(a - b.numpy()).max() for a, b in zip(outputs, expected, strict=True)]
    return float(np.max(differences))  # unlike max(), it keeps a NaN
