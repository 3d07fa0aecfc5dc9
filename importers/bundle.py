"""Writes an imported model as a bundle: its graphs, its manifest, and how near they are to the network in PyTorch."""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from bundle.loading import Bundle, sha256
from bundle.manifest import DECODE, FORMAT_VERSION, STEP, WEIGHTS, Dataset, File, Manifest, Parity
from bundle.sampling_check import check_sampling
from export import replacement
from export.onnx_bundle import OPSET, PACKAGES, Arrays, is_of_bundle, trace
from export.step_module import DecodeModule, StepModule, Wiring
from importers.imported import Imported
from importers.noise_schedule import Sampling, sampling
from importers.problems import ImportProblem
from importers.storage import Storage, halve

Report = Callable[[Bundle, StepModule, Storage], dict[str, Any]]
EXTERNAL_BYTES = 64 * 2**20  # a graph with more weights has them in a file beside it


def wiring(model: Imported) -> Wiring:
    """How the step uses this network."""
    guided = model.settings.get("guided_channels")
    return Wiring(
        learned_variance=model.variance in ("learned", "learned_range"),
        guidance=bool(model.classes) and model.unconditional,
        guided_channels=guided if isinstance(guided, int) else None,
        self_condition=model.self_condition,
        preconditioned=model.prediction == "F",
    )


def step_module(model: Imported) -> StepModule:
    """The step in PyTorch, as it is exported."""
    return StepModule(model.network, wiring(model)).eval()


def write_graphs(model: Imported, folder: Path) -> None:
    """Writes `step.onnx`, `decode.onnx` where the model has a decoder, and the weights of large ones beside them."""
    example = example_inputs(model, wiring(model))
    with torch.no_grad():
        save(trace(step_module(model), example, ["x_new", "x0"]), folder / STEP)
        if model.decoder is not None:
            decoder = DecodeModule(model.decoder)  # type: ignore[arg-type]  # every decoder here is a module
            save(trace(decoder.eval(), {"x": example["x"]}, ["images"]), folder / DECODE)


def save(graph: onnx.ModelProto, path: Path) -> None:
    large = graph.ByteSize() > EXTERNAL_BYTES
    onnx.save(graph, path, save_as_external_data=large, location=WEIGHTS[path.name] if large else None)


def round_graphs(folder: Path) -> None:
    """Stores the weights of the graphs in `folder` as float16."""
    for path in sorted(folder.glob("*.onnx")):
        graph = onnx.load(path)
        (folder / WEIGHTS[path.name]).unlink(missing_ok=True)
        halve(graph)
        save(graph, path)


def example_inputs(model: Imported, wires: Wiring) -> Arrays:
    """Two rows of what `StepModule.forward` takes, in its order."""
    rng, rows = np.random.default_rng(0), 2
    state = (rows, *model.state_shape)
    inputs: Arrays = {
        "x": rng.standard_normal(state, dtype=np.float32),
        "t": np.ones(rows, dtype=np.float32),
        "y": np.zeros(rows, dtype=np.int64),
        "noise": rng.standard_normal(state, dtype=np.float32),
        "x0_prev": rng.standard_normal(state, dtype=np.float32),
        "coefficients": rng.random((rows, wires.columns), dtype=np.float32),
    }
    if model.latent:
        inputs["z"] = rng.standard_normal((rows, model.latent), dtype=np.float32)
    if wires.guidance:
        inputs["pair"] = np.arange(rows)[::-1].copy()
        inputs["weights"] = rng.random((rows, 2), dtype=np.float32)
    return inputs


def describe(model: Imported, chosen: Sampling, name: str, source: Path, folder: Path) -> Manifest:
    """The manifest of the graphs in `folder`. Raises ImportProblem if the model cannot be sampled."""
    data = str(model.facts.get("data") or "")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        family=chosen.family,
        shape=model.shape,
        state_shape=model.state_shape,
        classes=list(model.classes),
        z_dim=model.latent,
        noise_schedule=chosen.noise_schedule,
        recommended_steps=chosen.steps,
        guidance=wiring(model).guidance,
        opset=OPSET,
        dtype="float32",
        files=listed(folder),
        parity=Parity(tolerance=0.0, largest_difference=0.0, batch_sizes=[2]),
        dataset=Dataset(name=data[:100]) if data else None,
        checkpoint={
            "sha256": digests(source),
            "format": str(model.format),
            "facts": {key: str(value) for key, value in model.facts.items() if value},
            "exported_with": {package: version(package) for package in PACKAGES},
        },
    )
    try:
        check_sampling(manifest)
    except ValueError as error:
        raise ImportProblem(f"{source.name}: its sampler makes no plan ({error})") from error
    return manifest


def listed(folder: Path) -> dict[str, File]:
    """The bundle's files, as its manifest lists them."""
    return {path.name: File(sha256=sha256(path), bytes=path.stat().st_size) for path in sorted(folder.iterdir())}


def digests(source: Path) -> dict[str, str]:
    """SHA-256 of the published file, or of each file of the folder."""
    if source.is_file():
        return {source.name: sha256(source)}
    return {str(path.relative_to(source)): sha256(path) for path in sorted(source.rglob("*")) if path.is_file()}


def name_of(source: Path) -> str:
    """A name for the model, by the file's or the folder's."""
    stem = source.name if source.is_dir() else source.stem
    return re.sub(r"[^a-z0-9_.-]+", "-", stem.lower()).strip("-._")[:64] or "model"


def write(model: Imported, storage: Storage, source: Path, target: Path, name: str, report: Report) -> Manifest:
    """Writes the bundle folder `target`, which appears only if `report` raises nothing.

    `report` gives what the manifest keeps of the comparison; for float16 it is called before the rounding too. Raises
    ImportProblem, and NotOurs for a folder in the way that is no bundle.
    """
    target = target.resolve()
    chosen = sampling(model)
    with replacement.replacing(target, is_of_bundle) as partial:
        write_graphs(model, partial)
        manifest, step = describe(model, chosen, name, source, partial), step_module(model)
        kept = report(Bundle(partial, manifest), step, Storage.FLOAT32)
        if storage == Storage.FLOAT16:
            round_graphs(partial)
            manifest.files = listed(partial)
            kept = {"before_rounding": kept, **report(Bundle(partial, manifest), step, storage)}
        manifest.checkpoint |= {"storage": storage, **kept}
        manifest.write(partial)
    return manifest
