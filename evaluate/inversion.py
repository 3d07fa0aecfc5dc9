"""`python -m evaluate.inversion --data FOLDER`: how far images come back from where they are taken backwards.

For each model that can be run backwards, the root mean square error of `--images` test images, as a share of the
pixels' range: from the image to x_T and back, with the same number of steps, and the class of the image.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.loading import Bundle, load_all
from evaluate.options import REPOSITORY
from models import data
from service.engine.runtime import Array, StepInputs
from service.runtimes.cpu import OrtRuntime

ROWS = 20  # of a batch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluate.inversion", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data set of the models")
    parser.add_argument("--bundles", type=Path, default=REPOSITORY / "bundles")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    test = data.load(options.data, "test")
    print("| model | steps | mean RMS | largest RMS | of all pixels |\n|---|--:|--:|--:|--:|")
    for name, bundle in load_all(options.bundles)[0].items():
        if bundle.inverter is not None and not bundle.decodes:
            images = data.to_model(test.images[: options.images], bundle.manifest.shape[1])
            errors = there_and_back(bundle, images, test.labels[: options.images], options.steps)
            rms = np.sqrt(errors)
            together = np.sqrt(errors.mean())
            print(f"| {name} | {options.steps} | {rms.mean():.4f} | {rms.max():.4f} | {together:.4f} |")


def there_and_back(bundle: Bundle, images: Array, labels: NDArray[np.int64], steps: int) -> NDArray[np.float64]:
    """Of each image (n, C, H, W) in [−1, 1], the mean square error as a share of the range."""
    assert bundle.inverter is not None
    runtime = OrtRuntime(bundle, threads=1)
    errors: list[float] = []
    for at in range(0, len(images), ROWS):
        x, y = images[at : at + ROWS], labels[at : at + ROWS]
        noise = run(runtime, bundle.inverse_coefficients(steps), x, y)
        back = run(runtime, bundle.coefficients(steps, *bundle.inverter), noise, y)
        errors += ((back.clip(-1, 1) - x) ** 2).mean(axis=(1, 2, 3)).tolist()
    return np.array(errors) / 4


def run(runtime: OrtRuntime, table: Array, x: Array, y: NDArray[np.int64]) -> Array:
    """All steps of a table for these rows, without fresh noise."""
    x0_prev = np.zeros_like(x)
    for step in table:
        rows = np.tile(step, (len(x), 1))
        inputs = StepInputs(x=x, t=rows[:, 0], y=y, noise=np.zeros_like(x), x0_prev=x0_prev, coefficients=rows[:, 1:])
        x_new, x0 = runtime.step(inputs)
        x, x0_prev = x_new.array, x0.array
    return x


if __name__ == "__main__":
    main()
