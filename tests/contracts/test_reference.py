"""A whole image from the service against diffusers' samplers and PyTorch, from the same noise."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from numpy.typing import NDArray

from models import checkpoint
from service import noise
from service.bundle import Bundle
from tests.conftest import CHECKPOINT
from tests.contracts.conftest import serving

STEPS = 20
SEED = 11
LABELS = (0, 3, 7)


def reference(bundle: Bundle, label: int, solver: dict[str, Any]) -> NDArray[np.float32]:
    """The image of SEED by diffusers' sampler, the network in PyTorch from the checkpoint."""
    alphas_cumprod = np.array(bundle.manifest.noise_schedule["alphas_cumprod"])
    betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    common: dict[str, Any] = {"trained_betas": betas, "timestep_spacing": "trailing"}
    scheduler: Any
    if "eta" in solver:
        scheduler = DDIMScheduler(**common, clip_sample=True, set_alpha_to_one=True)
    else:
        # Its thresholding, held at 1, is the clip of x0.
        scheduler = DPMSolverMultistepScheduler(**common, thresholding=True, sample_max_value=1.0)
    scheduler.set_timesteps(STEPS)
    _, network = checkpoint.load(CHECKPOINT)
    shape = bundle.manifest.shape
    x = torch.from_numpy(noise.normal(SEED, 0, noise.INITIAL, shape))[None]
    for k, t in enumerate(scheduler.timesteps.tolist()):
        with torch.no_grad():
            out = network(x, torch.tensor([float(t)]), torch.tensor([label]))
        if "eta" in solver:
            fresh = torch.from_numpy(noise.normal(SEED, 0, k + 1, shape))[None]
            x = scheduler.step(out, t, x, eta=solver["eta"], variance_noise=fresh).prev_sample
        else:
            x = scheduler.step(out, t, x).prev_sample
    return x[0].numpy()


def served(label: int, solver: dict[str, Any]) -> NDArray[np.float32]:
    request = {"method": "ddim", "steps": STEPS, "seed": SEED, "class_label": label, **solver}

    async def ask() -> bytes:
        async with serving() as client:
            answer = await client.post("/generate", json=request, headers={"Accept": "application/x-npy"})
        assert answer.status_code == 200, answer.text
        return answer.content

    images: NDArray[np.float32] = np.load(io.BytesIO(asyncio.run(ask())), allow_pickle=False)
    return images[0]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize(
    "solver",
    [{"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0}, {"solver": "dpmpp_2m"}],
    ids=["ddim", "eta", "ddpm", "dpmpp_2m"],
)
@pytest.mark.parametrize("label", LABELS)
def test_an_image_is_the_one_that_diffusers_and_pytorch_make(
    shipped: Bundle, label: int, solver: dict[str, Any]
) -> None:
    difference = np.abs(served(label, solver) - reference(shipped, label, solver))
    print("DIFF", label, solver, difference.max(), difference.mean())
    assert difference.max() < 0.01
