"""Sampling follows the plan, and the grid puts each image where it belongs."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.discrete import ddim_plan, dpmpp_2m_plan
from models.sample import grid, sample
from models.schedules import cosine_schedule
from models.step import Plan

ABAR = cosine_schedule(100)
SCHEDULE = {"alphas_cumprod": ABAR.tolist()}
SHAPE = (1, 4, 4)
LABELS = torch.tensor([0, 1, 2])


class Knowing(nn.Module):
    """Knows the image of each label, a grey of y/2 − 1/2, and so the noise in x; `latents` are the z it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.latents: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor, *z: Tensor) -> Tensor:
        self.latents += z
        abar = torch.from_numpy(ABAR)[t.long()].float().view(-1, 1, 1, 1)
        return (x - abar.sqrt() * (y / 2 - 0.5).view(-1, 1, 1, 1)) / (1 - abar).sqrt()


@pytest.mark.parametrize(
    "plan",
    [ddim_plan(SCHEDULE, 1, eta=0.0), ddim_plan(SCHEDULE, 10, eta=1.0), dpmpp_2m_plan(SCHEDULE, 7)],
    ids=["ddim in 1", "ddpm in 10", "dpmpp_2m in 7"],
)
def test_a_network_that_knows_the_image_samples_it(plan: Plan) -> None:
    images = sample(Knowing(), plan, LABELS, SHAPE, latent=0, seed=0)
    expected = (LABELS / 2 - 0.5).view(-1, 1, 1, 1).expand(3, *SHAPE)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


def test_a_run_broken_off_is_on_the_line_from_its_first_noise_to_the_image() -> None:
    # Which a wrong x0 of the step before would leave.
    plan = dpmpp_2m_plan(SCHEDULE, 10)
    images = sample(Knowing(), Plan(plan[:6]), LABELS, SHAPE, latent=0, seed=5)
    start = torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(5))
    abar_start, abar_end = ABAR[99], ABAR[int(plan[6].t)]  # where the seventh would begin
    x0 = (LABELS / 2 - 0.5).view(-1, 1, 1, 1)
    eps = (start - abar_start**0.5 * x0) / (1 - abar_start) ** 0.5
    torch.testing.assert_close(images, abar_end**0.5 * x0 + (1 - abar_end) ** 0.5 * eps, rtol=0, atol=1e-4)


def test_the_same_seed_gives_the_same_images_whatever_the_global_state() -> None:
    plan = ddim_plan(SCHEDULE, 10, eta=1.0)[:5]  # broken off, so that noise is left in the images
    torch.manual_seed(1)
    first = sample(Knowing(), Plan(plan), LABELS, SHAPE, latent=0, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, sample(Knowing(), Plan(plan), LABELS, SHAPE, latent=0, seed=3))
    assert not torch.allclose(first, sample(Knowing(), Plan(plan), LABELS, SHAPE, latent=0, seed=4))


def test_a_network_with_a_latent_gets_a_fresh_one_every_step() -> None:
    network = Knowing()
    sample(network, ddim_plan(SCHEDULE, 4, eta=0.0), LABELS, SHAPE, latent=5, seed=0)
    assert [tuple(z.shape) for z in network.latents] == [(3, 5)] * 4
    assert len(set(torch.stack(network.latents).flatten().tolist())) == 4 * 3 * 5


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_the_grid_lays_images_out_row_by_row(channels: int, mode: str) -> None:
    images = torch.rand((6, channels, 3, 2), generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = grid(images, columns=2)
    assert picture.mode == mode
    assert picture.size == (2 * 2, 3 * 3)
    pixels = np.asarray(picture).reshape(9, 4, channels)
    for i, image in enumerate(images.numpy()):
        row, column = divmod(i, 2)
        tile = pixels[3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
        np.testing.assert_allclose(tile / 127.5 - 1, image.transpose(1, 2, 0), rtol=0, atol=0.5 / 127.5 + 1e-6)


def test_the_grid_clips_what_is_beyond_black_and_white() -> None:
    pixels = np.asarray(grid(torch.tensor([-1.5, -1.0, 0.0, 1.0, 7.0]).view(1, 1, 1, 5), columns=1))
    assert pixels.ravel().tolist() == [0, 0, 128, 255, 255]
