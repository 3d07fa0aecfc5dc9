"""A whole image from the service against diffusers' samplers and PyTorch, from the same noise."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor

from bundle.loading import Bundle
from models import checkpoint
from models.schedules import log_snr_timesteps
from service.engine import noise
from tests.conftest import CHECKPOINT
from tests.contracts.conftest import serving

STEPS, SEED, LABEL, IMAGES = 20, 11, 3, 4
SOLVERS: list[dict[str, Any]] = [
    {"eta": 0.0},
    {"eta": 0.5},
    {"eta": 1.0},
    {"solver": "dpmpp_2m"},
    {"solver": "dpmpp_3m"},
    {"solver": "unipc"},
]
MULTISTEP: dict[str, tuple[Any, int]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, 2),
    "dpmpp_3m": (DPMSolverMultistepScheduler, 3),
    "unipc": (UniPCMultistepScheduler, 3),
}
TOLERANCE = 1e-4  # of values in [−1, 1]: 8-bit levels are 8e-3 apart


def served() -> list[NDArray[np.float32]]:
    """The service's images (n, C, H, W), a request a solver, all at once."""
    request = {"method": "ddim", "steps": STEPS, "seed": SEED, "class_label": LABEL, "n": IMAGES}

    async def ask() -> list[bytes]:
        async with serving(methods=["ddim"]) as client:
            posts = [
                client.post("/generate", json={**request, **solver}, headers={"Accept": "application/x-npy"})
                for solver in SOLVERS
            ]
            return [answer.raise_for_status().content for answer in await asyncio.gather(*posts)]

    return [np.load(io.BytesIO(content), allow_pickle=False) for content in asyncio.run(ask())]


def reference(bundle: Bundle, solver: dict[str, Any]) -> NDArray[np.float32]:
    """The same images by diffusers' sampler, the network in PyTorch from the checkpoint."""
    alphas_cumprod = np.array(bundle.manifest.noise_schedule["alphas_cumprod"])
    betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    scheduler: Any
    if "eta" in solver:
        scheduler = DDIMScheduler(
            trained_betas=betas, timestep_spacing="trailing", clip_sample=True, set_alpha_to_one=True
        )
        scheduler.set_timesteps(STEPS)
    else:
        # Its thresholding, held at 1, is the clip of x0.
        kind, order = MULTISTEP[solver["solver"]]
        scheduler = kind(
            trained_betas=betas, thresholding=True, sample_max_value=1.0, solver_order=order, final_sigmas_type="zero"
        )
        timesteps = log_snr_timesteps(alphas_cumprod, STEPS)
        scheduler.set_timesteps(STEPS)
        scheduler.timesteps = torch.from_numpy(timesteps)
        scheduler.sigmas = torch.from_numpy(np.append(np.sqrt(1 / alphas_cumprod[timesteps] - 1), 0.0)).float()
    _, network = checkpoint.load(CHECKPOINT)

    def drawn(stream: int) -> Tensor:
        images = [noise.normal(SEED, index, stream, bundle.manifest.shape) for index in range(IMAGES)]
        return torch.from_numpy(np.stack(images))

    x = drawn(noise.INITIAL)
    for k, t in enumerate(scheduler.timesteps.tolist()):
        with torch.no_grad():
            out = network(x, torch.full((IMAGES,), float(t)), torch.full((IMAGES,), LABEL))
        if "eta" in solver:
            noise_k = drawn(k + 1)
            x = scheduler.step(out, t, x, solver["eta"], use_clipped_model_output=True, variance_noise=noise_k)[0]
        else:
            x = scheduler.step(out, t, x).prev_sample
    return x.numpy()


# DPMSolverMultistepScheduler makes a NumPy array of a tensor in a way that NumPy 2 deprecates.
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_the_images_are_those_that_diffusers_and_pytorch_make(shipped: Bundle) -> None:
    for solver, images in zip(SOLVERS, served(), strict=True):
        assert images.shape == (IMAGES, *shipped.manifest.shape)
        np.testing.assert_allclose(images, reference(shipped, solver), rtol=0, atol=TOLERANCE, err_msg=str(solver))
