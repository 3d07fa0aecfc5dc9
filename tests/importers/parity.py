"""The recorded outputs of the official code, and how near to them is near enough."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray

from importers.imported import Imported

FOLDER = Path(__file__).parents[3] / "shared" / "parity"  # beside the checkout
RMS, MAXIMUM = 1e-5, 2e-4  # of the array's standard deviation


def path(name: str) -> Path:
    """A parity file. Skips the test, or the module, where the folder is missing: it is too large for the repository."""
    if not FOLDER.is_dir():
        pytest.skip(f"the parity files are not beside the checkout ({FOLDER})", allow_module_level=True)
    return FOLDER / name


def arrays(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of a parity file."""
    with np.load(path(name)) as file:
        return dict(file)


def assert_near(actual: ArrayLike, expected: NDArray[Any]) -> None:
    """Off by at most RMS and MAXIMUM of the standard deviation of `expected`."""
    error = np.asarray(actual, dtype=np.float64) - expected
    assert error.shape == expected.shape
    assert np.sqrt(np.mean(error**2)) <= RMS * expected.std()
    assert np.abs(error).max() <= MAXIMUM * expected.std()


@torch.inference_mode()
def output(model: Imported, x: ArrayLike, t: ArrayLike, y: ArrayLike | None = None, *extra: ArrayLike) -> NDArray[Any]:
    """The network's output. `t` is a number, or one a row; `y` is left out for "no class"."""
    states = torch.as_tensor(np.asarray(x), dtype=torch.float32)
    times = torch.as_tensor(np.broadcast_to(t, len(states)).copy(), dtype=torch.float32)
    labels = np.full(len(states), len(model.classes)) if y is None else np.asarray(y)
    out: torch.Tensor = model.network(states, times, torch.as_tensor(labels), *map(torch.as_tensor, extra))
    return out.numpy()


def denoised(model: Imported, x: NDArray[Any], sigma: ArrayLike, y: ArrayLike | None = None) -> NDArray[Any]:
    """D(x, σ) of a preconditioned network; `sigma` is a number, or one a row."""
    pre = model.schedule.preconditioning
    sigmas = np.broadcast_to(np.asarray(sigma, dtype=np.float64), len(x))

    def column(values: NDArray[Any]) -> NDArray[Any]:
        return values[:, None, None, None]

    out = output(model, column(pre.c_in(sigmas)) * x, pre.c_noise(sigmas), y)[:, : x.shape[1]]
    blend: NDArray[Any] = column(pre.c_skip(sigmas)) * x + column(pre.c_out(sigmas)) * out
    return blend
