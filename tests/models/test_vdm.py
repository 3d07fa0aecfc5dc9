"""The variational diffusion model: its posterior, its learned schedule, its bound and what trains the schedule."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from models.solvers import ancestral
from models.step import update
from models.vdm.loss import Bound, backward, bound
from models.vdm.network import GAMMA_MAX, GAMMA_MIN, KNOTS, Network, Schedule, alpha_sigma
from models.vdm.plan import SOLVERS, ancestral_plan, max_steps

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 1, 1)
BATCHES = 48


@pytest.fixture
def schedule() -> Schedule:
    torch.manual_seed(0)
    bent = Schedule(width=64)
    with torch.no_grad():
        bent.w2.fill_(12)  # a steep rise in the middle; the start of training is nearly straight
        bent.b2.fill_(-6)
        bent.w3.fill_(-1)
    return bent


@pytest.mark.parametrize("steps", [1, 3, 50, 1000])
def test_an_ancestral_step_is_the_gaussian_posterior_of_the_paper(steps: int) -> None:
    # Kingma et al. 2021, eqs. 25 to 29: α_{t|s} = α_t/α_s and σ²_{t|s} = σ_t² − α_{t|s}²·σ_s².
    gamma = np.linspace(GAMMA_MAX, GAMMA_MIN, steps + 1)
    alpha, variance = np.sqrt(1 / (1 + np.exp(gamma))), 1 / (1 + np.exp(-gamma))
    alpha_t, alpha_s, variance_t, variance_s = alpha[:-1], alpha[1:], variance[:-1], variance[1:]
    alpha_ts = alpha_t / alpha_s
    variance_ts = -variance_s * np.expm1(gamma[1:] - gamma[:-1]) * (variance_t / variance_s)
    from_x = alpha_ts * variance_s / variance_t
    from_x0 = alpha_s * variance_ts / variance_t
    deviation = np.sqrt(variance_ts * variance_s / variance_t)
    plan = ancestral(gamma[:-1], gamma[1:])
    scale = np.append(np.ones(steps - 1), 1 / alpha_s[-1])  # the last step's pixels are z_0/α_0
    np.testing.assert_allclose([k.x_from_x for k in plan], scale * from_x, rtol=1e-10)
    np.testing.assert_allclose([k.x_from_x0 for k in plan], scale * from_x0, rtol=1e-10)
    np.testing.assert_allclose([k.noise_std for k in plan], scale * deviation, rtol=1e-10)


def test_a_plan_visits_even_times_of_the_manifests_schedule() -> None:
    knots = {"gamma": (np.linspace(0, 1, KNOTS) ** 2 * 18 - 13).tolist()}
    assert max_steps(knots) == KNOTS - 1
    np.testing.assert_allclose([k.t for k in ancestral_plan(knots, 4)], np.array([1, 0.75, 0.5, 0.25]) ** 2 * 18 - 13)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_recovers_the_image_from_its_exact_noise(solver: str) -> None:
    knots = {"gamma": np.linspace(GAMMA_MIN, GAMMA_MAX, KNOTS).tolist()}
    settings = {name: setting.default for name, setting in SOLVERS[solver].settings.items()}
    rng = np.random.default_rng(0)
    image, x = rng.uniform(-1, 1, 64), rng.standard_normal(64)
    x0 = np.zeros(64)
    for k in SOLVERS[solver].plan(knots, 20, **settings):
        alpha, sigma = math.sqrt(1 / (1 + math.exp(k.t))), math.sqrt(1 / (1 + math.exp(-k.t)))
        eps = (x - alpha * image) / sigma
        x, x0 = update(k, x, eps, x0, rng.standard_normal(64))
        np.testing.assert_allclose(x0, image, atol=1e-9)
    np.testing.assert_allclose(x, image, atol=6 * math.exp(GAMMA_MIN / 2))


def test_the_schedule_rises_between_its_endpoints_with_the_slope_it_gives(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    gamma = schedule.double()(t)
    assert (gamma.diff() > 0).all()
    assert gamma[0].item() == pytest.approx(GAMMA_MIN)
    assert gamma[-1].item() == pytest.approx(GAMMA_MAX)
    h, slope = schedule.unit(t)
    step = 1e-6
    numeric = (schedule.unit(t + step)[0] - schedule.unit(t - step)[0]) / (2 * step)
    torch.testing.assert_close(slope, numeric, rtol=1e-6, atol=1e-6)
    assert (h - t).abs().max() > 0.01  # it is not a straight line


class PointMasses(nn.Module):
    """The exact noise prediction where the data are images of all −1 or all +1, equally often."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, z: Tensor, gamma: Tensor, _: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(gamma)
        mean = torch.tanh((alpha / sigma**2 * z).sum(dim=(1, 2, 3), keepdim=True))
        return (z - alpha * mean) / sigma


def point_masses(n: int) -> Tensor:
    return torch.where(torch.arange(n) % 2 == 0, -1.0, 1.0).view(-1, 1, 1, 1).expand(n, *SHAPE)


def estimate(network: nn.Module, timesteps: int | None, seed: int = 0) -> tuple[float, float]:
    """The diffusion term and its standard error, over many batches."""
    x, generator = point_masses(4096), Generator().manual_seed(seed)
    y = torch.zeros(len(x), dtype=torch.int64)
    with torch.no_grad():
        means = [bound(network, x, y, generator, timesteps=timesteps).diffusion.mean() for _ in range(BATCHES)]  # type: ignore[arg-type]
    values = torch.stack(means)
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def test_the_continuous_bound_does_not_depend_on_the_schedule_between_its_endpoints(schedule: Schedule) -> None:
    straight = Schedule(width=64)
    with torch.no_grad():
        straight.w3.fill_(-50)
    times = torch.linspace(0, 1, 11)
    assert (schedule(times) - straight(times)).abs().max() > 1  # two schedules indeed
    (a, error_a), (b, error_b) = estimate(PointMasses(schedule), None), estimate(PointMasses(straight), None, seed=1)
    assert abs(a - b) < 4 * math.hypot(error_a, error_b)
    assert math.hypot(error_a, error_b) < 0.05 * a


def test_the_bound_falls_as_timesteps_are_added_towards_the_continuous_one(schedule: Schedule) -> None:
    estimates = [estimate(PointMasses(schedule), timesteps) for timesteps in (4, 16, 64, None)]
    for (coarse, error_coarse), (fine, error_fine) in pairwise(estimates):
        assert fine < coarse + 3 * math.hypot(error_coarse, error_fine)
    assert estimates[0][0] > estimates[-1][0] + 10 * estimates[0][1]


def test_the_exact_bound_of_two_point_masses_is_one_bit() -> None:
    schedule = Schedule(width=8)
    with torch.no_grad():
        schedule.gamma_1.fill_(9)  # where the prior forgets which of the two it was
    x, generator = point_masses(4096), Generator().manual_seed(0)
    y = torch.zeros(len(x), dtype=torch.int64)
    with torch.no_grad():
        batches = [bound(PointMasses(schedule), x, y, generator) for _ in range(BATCHES)]  # type: ignore[arg-type]
    totals = torch.stack([sum(term.mean() for term in batch) for batch in batches])
    error = totals.std().item() / math.sqrt(len(totals))
    assert error < 0.02
    assert abs(totals.mean().item() - 1) < 4 * error


def tiny_network() -> Network:
    torch.manual_seed(0)
    network = Network(shape=(1, 8, 8), classes=2, schedule={}, channels=[8, 32], fourier=True)
    with torch.no_grad():
        network.schedule.w3.copy_(torch.randn(len(network.schedule.w3)))
    return network


def gradients(network: Network, compute: Callable[[], Tensor]) -> dict[str, Tensor]:
    network.zero_grad()
    compute().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_the_schedules_shape_follows_the_bounds_variance_and_all_else_the_bound() -> None:
    network = tiny_network()
    x, y = torch.randint(0, 256, (8, 1, 8, 8)) / 127.5 - 1, torch.zeros(8, dtype=torch.int64)
    backward(network, x, y, Generator().manual_seed(3))
    actual = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    def terms() -> Bound:
        return bound(network, x, y, Generator().manual_seed(3))

    ends_only = gradients(network, lambda: terms().diffusion.mean())
    variance = gradients(network, lambda: terms().diffusion.square().mean())
    for name, gradient in actual.items():
        if name.startswith("schedule.gamma"):
            continue  # theirs has the prior and reconstruction terms too
        expected = variance if name.startswith("schedule.") else ends_only
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
    assert actual["schedule.gamma_0"] != 0
    assert actual["schedule.gamma_1"] != 0
