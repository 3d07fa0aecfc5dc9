"""The latent family: its two losses, its stages, and Langevin dynamics against what it should sample."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from models.discrete import ddim_plan
from models.latent import loss
from models.latent.loss import SCHEDULE, Objective, autoencoder_loss
from models.latent.measures import evaluate
from models.latent.network import Network
from models.latent.plan import langevin_plan
from models.step import update

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH = 8
SIZES: dict[str, int] = {"width": 8, "tokens_width": 16, "blocks": 2}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network(shape=(1, 16, 16), classes=2, schedule=SCHEDULE, state_shape=(3, 4, 4), **SIZES)


class Halving(nn.Module):
    """An autoencoder of numbers: e(x) = x/2 + 1, g(z) = 3z."""

    def encoder(self, x: Tensor) -> Tensor:
        return x / 2 + 1

    def decoder(self, z: Tensor) -> Tensor:
        return 3 * z


def test_the_autoencoders_loss_is_latent_consistency_plus_alpha_times_reconstruction() -> None:
    x = torch.rand(5, 1, 2, 2, generator=Generator().manual_seed(0))
    value = autoencoder_loss(Halving(), x, 7.0, Generator().manual_seed(1))  # type: ignore[arg-type]
    z = torch.randn(x.shape, generator=Generator().manual_seed(1))
    consistency = (z - (3 * z / 2 + 1)).square().mean()
    reconstruction = (3 * (x / 2 + 1) - x).square().mean()
    assert value.item() == pytest.approx((consistency + 7 * reconstruction).item(), rel=1e-6)


def test_the_evaluation_has_the_losss_terms_in_batches_of_any_size(network: Network) -> None:
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    measured = evaluate(network, x, torch.zeros(3, dtype=torch.int64))["autoencoder"]
    expected = [autoencoder_loss(network, x, alpha, Generator().manual_seed(0)).item() for alpha in (0.0, 1.0)]
    assert measured["consistency"] == pytest.approx(expected[0], rel=1e-4)
    assert measured["reconstruction"] == pytest.approx(expected[1] - expected[0], rel=1e-3)


def test_a_latent_that_does_not_fit_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="1/4 of an image's"):
        Network(shape=(1, 16, 16), classes=2, schedule=SCHEDULE, state_shape=(3, 8, 8), **SIZES)


def test_the_autoencoder_is_trained_measured_and_then_frozen(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MOMENTS_IMAGES", 2 * BATCH)
    objective = Objective(network, 1e-3, alpha=10.0, autoencoder_images=2 * BATCH)
    generator = Generator().manual_seed(0)
    x, y = torch.rand(BATCH, 1, 16, 16, generator=generator) * 2 - 1, torch.zeros(BATCH, dtype=torch.int64)
    parts = {"autoencoder": objective.autoencoder, "mixer": network.mixer}

    def changed_by_a_step() -> list[str]:
        before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
        objective.step(x, y, generator)
        return [
            name
            for name, part in parts.items()
            if any((a != b).any() for a, b in zip(before[name], part.parameters(), strict=True))
        ]

    assert [changed_by_a_step() for _ in range(6)] == [["autoencoder"]] * 2 + [[]] * 2 + [["mixer"]] * 2
    with torch.no_grad():
        latents = network.encode(x)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4)
    assert objective.schedule(network)["clip"] == pytest.approx(latents.abs().max().item(), rel=1e-4)


def test_the_solvers_clip_at_the_latents_bound() -> None:
    assert {k.clip for k in ddim_plan({**SCHEDULE, "clip": 4.5}, 3, eta=0.0)} == {4.5}


def test_a_langevin_step_is_drift_along_the_score_and_noise() -> None:
    plan = langevin_plan({**SCHEDULE, "clip": np.inf}, 10, step_size=0.5)
    abar = np.array(SCHEDULE["alphas_cumprod"])
    rng = np.random.default_rng(0)
    z, eps, noise = rng.standard_normal((3, 5))
    for k, after in pairwise(plan):
        alpha, sigma = np.sqrt(abar[int(k.t)]), np.sqrt(1 - abar[int(k.t)])
        eta = 0.5 * sigma**2
        moved = z + eta * (-eps / sigma) + np.sqrt(2 * eta) * noise
        got, x0 = update(k, z, eps, np.zeros(5), noise)
        np.testing.assert_allclose(got, moved * np.sqrt(abar[int(after.t)]) / alpha, rtol=1e-9)
        np.testing.assert_allclose(x0, (z - sigma * eps) / alpha, rtol=1e-9)
    last, x0 = update(plan[-1], z, eps, np.zeros(5), noise)
    np.testing.assert_array_equal(last, x0)


def test_with_the_exact_score_langevin_dynamics_sample_the_data() -> None:
    mean, deviation = 0.7, 0.4  # of data that are normal: the score at each noise level is known
    abar = np.array(SCHEDULE["alphas_cumprod"])
    rng = np.random.default_rng(0)
    z: Any = rng.standard_normal(20_000)
    x0: Any = np.zeros_like(z)
    for k in langevin_plan({**SCHEDULE, "clip": np.inf}, 1000, step_size=0.5):
        alpha, sigma = np.sqrt(abar[int(k.t)]), np.sqrt(1 - abar[int(k.t)])
        eps = sigma * (z - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)
        z, x0 = update(k, z, eps, x0, rng.standard_normal(len(z)))
    assert z.mean() == pytest.approx(mean, abs=0.02)
    assert z.std() == pytest.approx(deviation, rel=0.05)
