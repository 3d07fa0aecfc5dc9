"""Quality by precision: `python -m export.precision_quality --data FOLDER` prints a table of the shipped models.

Each model draws the same images in each precision, emulated on the CPU: default requests, with the classes of the test
set. The judge of `./run evaluate` compares them with the test set, which takes PyTorch.
"""

import argparse
import os
import tempfile
from pathlib import Path

import onnx
import torch

from bundle import loading
from bundle.gpu_manifest import PRECISIONS, Precision
from bundle.loading import Bundle
from evaluate.judge import Judge
from export.accuracy import emulated, images
from export.precision import convert
from models import data
from service.runtimes.cpu import OrtRuntime
from service.settings import SHIPPED_BUNDLES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.precision_quality", description=str(__doc__).split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data set that the models were trained on")
    parser.add_argument("--images", type=int, default=500, help="images a model and precision")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the trained classifier")
    arguments = parser.parse_args()
    train, test = data.load(arguments.data, "train"), data.load(arguments.data, "test")
    print("| | of the class asked for | Fréchet distance | precision | recall |\n|---|--:|--:|--:|--:|")
    for loaded in loading.load_all(SHIPPED_BUNDLES)[0].values():
        judge = Judge(train, test, loaded.manifest.shape[-1], arguments.images, arguments.cache)
        for precision in PRECISIONS:
            print(line(loaded, precision, judge), flush=True)


def line(loaded: Bundle, precision: Precision, judge: Judge) -> str:
    """The table's row of one model in one precision."""
    manifest, labels = loaded.manifest, judge.labels
    with tempfile.TemporaryDirectory() as folder:
        models = {name: convert(onnx.load(loaded.folder / name), precision) for name in manifest.files}
        runtime = OrtRuntime(emulated(loaded, models, precision, Path(folder)), os.cpu_count() or 1)
    solver, steps = next(iter(loaded.family.SOLVERS)), manifest.recommended_steps
    generated = torch.from_numpy(images(loaded, runtime, solver, steps, labels.tolist()))
    quality = judge.measure(generated, torch.from_numpy(labels))
    return (
        f"| {manifest.name}, {solver}, {steps} steps, {precision} | {quality.class_agreement:.1%} | "
        f"{quality.frechet_distance:.3f} | {quality.precision:.3f} | {quality.recall:.3f} |"
    )


if __name__ == "__main__":
    main()
