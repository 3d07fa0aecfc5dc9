"""The bound on the likelihood, against the trainer's own, against normal distributions of PyTorch and SciPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator
from torch.distributions import Normal, kl_divergence

from models import families
from models.bound import LEVELS, ContinuousBound, DiscreteBound, log_mass, standard_error
from models.gaussian.chain import Chain
from models.schedules import cosine_schedule
from models.step import Step, update
from models.vdm import loss
from models.vdm.network import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 4, 4)
T = 50
VARIANCES = ("fixed_small", "fixed_large", "learned_range", "learned")


def images(n: int) -> np.ndarray:
    """Of whole pixel values, black and white among them."""
    values = np.random.default_rng(0).integers(0, LEVELS, (n, *SHAPE))
    values[:, 0, 0], values[:, 0, 1] = 0, LEVELS - 1
    return values / 127.5 - 1


def chain(variance: str, prediction: str = "epsilon") -> Chain:
    return Chain(cosine_schedule(T), np.arange(float(T)), prediction, variance, np.inf, {})


def network(x: Any, t: Any) -> Any:
    """Some function of the state and the time; in PyTorch or in NumPy."""
    return x * 0.7 + 0.1 * (t / 20 + x * 0.5) ** 2


class Toy(torch.nn.Module):
    """Takes the place of `models.vdm.network.Network`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.schedule = Schedule(width=32).double()

    def forward(self, z: torch.Tensor, gamma: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return network(z, gamma.view(-1, 1, 1, 1))


def test_a_continuous_term_is_the_trainers_own_at_the_same_time_with_the_same_noise() -> None:
    toy, x, count = Toy(), torch.from_numpy(images(1)), 64
    knots = toy.schedule(torch.linspace(0, 1, 100_001, dtype=torch.float64)).detach().numpy()
    bound, start = ContinuousBound(knots), 0.37
    terms = bound.terms(start, count)
    u = torch.from_numpy((start + np.arange(count)) / count)
    eps = torch.randn(count, *SHAPE, generator=Generator().manual_seed(0), dtype=torch.float64)
    h, dh = toy.schedule.unit(u)
    with torch.no_grad():
        expected = loss._continuous(toy, x.expand(count, *SHAPE), u, eps, h, dh).numpy()
    for k, row in enumerate(terms.table.astype(np.float64)):
        step = Step(*row)
        state = terms.alpha[k] * x[0].numpy() + terms.sigma[k] * eps[k].numpy()
        x_new, x0 = update(step, state, network(state, step.t), 0.0, 1.0)
        assert bound.nats(terms, k, x[0].numpy(), x0, x_new) == pytest.approx(expected[k], rel=1e-4)


def test_the_prior_and_the_mean_reconstruction_are_the_trainers() -> None:
    toy, x = Toy(), torch.from_numpy(images(1))
    with torch.no_grad():
        toy.schedule.gamma_0.fill_(-9.0)  # so that neighbouring values are mistaken for each other
        drawn = [loss._prior_and_reconstruction(toy, x, generator) for generator in generators(2000)]
        knots = toy.schedule(torch.linspace(0, 1, 101, dtype=torch.float64)).numpy()
    reconstruction = np.array([each[1].item() for each in drawn])
    parts = ContinuousBound(knots).parts(x[0].numpy(), np.array([1.0, 3.0]))
    assert parts.prior == pytest.approx(drawn[0][0].item(), rel=1e-5)
    assert parts.reconstruction > 1
    assert parts.reconstruction == pytest.approx(reconstruction.mean(), abs=4 * reconstruction.std() / math.sqrt(2000))
    assert parts.diffusion == 2


def generators(count: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("variance", VARIANCES)
def test_a_discrete_term_is_the_divergence_of_two_normal_distributions(variance: str, prediction: str) -> None:
    # Ho et al. 2020, eqs. 6, 7 and 11, and Nichol & Dhariwal 2021, eq. 15, written out with PyTorch's distributions.
    bound, image = DiscreteBound(chain(variance, prediction)), images(1)[0]
    terms = bound.terms(0.5, bound.most)
    rng = np.random.default_rng(1)
    abar = cosine_schedule(T)
    v = rng.uniform(0, 1, SHAPE)
    for k, row in enumerate(terms.table.astype(np.float64)[: bound.most]):
        t = int(terms.timesteps[k])
        state = math.sqrt(abar[t]) * image + math.sqrt(1 - abar[t]) * rng.standard_normal(SHAPE)
        step = Step(*row)
        x_new, x0 = update(step, state, network(state, step.t), 0.0, np.exp(step.log_std_from_v * v))
        got = bound.nats(terms, k, image, x0, x_new)
        beta = 1 - abar[t] / abar[t - 1]
        posterior = (1 - abar[t - 1]) / (1 - abar[t]) * beta
        log_variance = {
            "fixed_small": np.log(posterior),
            "fixed_large": np.log(beta),
            "learned_range": v * np.log(beta) + (1 - v) * np.log(posterior),
            "learned": 2 * v - 1,  # the network's own output
        }[variance]
        from_x0, from_x = math.sqrt(abar[t - 1]) * beta / (1 - abar[t]), math.sqrt(1 - beta) * (1 - abar[t - 1])
        from_x /= 1 - abar[t]
        q = Normal(torch.from_numpy(from_x0 * image + from_x * state), math.sqrt(posterior))
        p = Normal(torch.from_numpy(from_x0 * x0 + from_x * state), torch.as_tensor(np.exp(0.5 * log_variance)))
        assert got / terms.weight[k] == pytest.approx(kl_divergence(q, p).sum().item(), rel=1e-4, abs=1e-6)
    assert sorted(terms.timesteps[: bound.most]) == list(range(1, T))
    assert terms.weight[: bound.most].mean() == bound.most  # so that the mean of all is their sum


def test_the_reconstruction_is_the_mass_of_a_pixels_interval_under_the_first_steps_variance() -> None:
    bound, image = DiscreteBound(chain("fixed_small")), images(1)[0]
    terms = bound.terms(0.5, 3)
    abar = cosine_schedule(T)
    variance = (1 - abar[0]) / (1 - abar[1]) * (1 - abar[1] / abar[0])  # of the step before, as in OpenAI's code
    mean = image + np.random.default_rng(2).normal(0, 0.02, SHAPE)
    p = stats.norm(mean, math.sqrt(variance))
    low, high = np.where(image == -1, -np.inf, image - 1 / 255), np.where(image == 1, np.inf, image + 1 / 255)
    expected = -np.log(p.cdf(high) - p.cdf(low)).sum()
    assert list(terms.timesteps[3:]) == [0, 0]
    assert bound.nats(terms, 4, image, mean, np.ones(SHAPE)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("z", [0.0, 3.0, -3.0, 20.0, -30.0, 300.0, -300.0])
def test_masses_keep_their_digits_far_from_the_mean(z: float) -> None:
    std = 0.005
    inside = 0.2 / 255 - 0 * z
    black, grey = (
        log_mass(np.array(-1.0), np.array(-1 + z * std), np.array(std)),
        log_mass(np.array(inside), np.array(inside + z * std), np.array(std)),
    )
    edge = 1 / 255 / std
    assert black == pytest.approx(stats.norm.logcdf(edge - z), rel=1e-3 if abs(z) > 30 else 1e-9, abs=1e-12)
    upper, lower = stats.norm.logcdf(edge - abs(z)), stats.norm.logcdf(-edge - abs(z))
    expected = upper + np.log1p(-np.exp(lower - upper))
    assert grey == pytest.approx(expected, rel=1e-3 if abs(z) > 30 else 1e-9)


@pytest.mark.parametrize("count", [1, 3, 16, T - 2, T - 1])
def test_the_mean_over_all_starts_is_the_sum_over_all_timesteps(count: int) -> None:
    bound = DiscreteBound(chain("fixed_small"))
    values = np.random.default_rng(3).uniform(size=T)
    starts, estimates = 5000, []
    for start in (np.arange(starts) + 0.5) / starts:
        terms = bound.terms(start, count)
        estimates.append(np.mean(terms.weight[:count] * values[terms.timesteps[:count]]))
    assert np.mean(estimates) == pytest.approx(values[1:].sum(), rel=2e-3)


def test_the_mean_over_all_starts_is_the_integral_over_time() -> None:
    knots = np.cumsum(np.random.default_rng(4).uniform(0.1, 1, 21)) - 13
    bound, starts = ContinuousBound(knots), 2000
    totals = []
    for start in (np.arange(starts) + 0.5) / starts:
        terms = bound.terms(start, 3)
        gamma = terms.table[:, 0].astype(np.float64)
        totals.append(np.mean(terms.weight * np.exp(gamma) * np.cos(gamma)))  # ½·γ'·cos γ
    assert np.mean(totals) == pytest.approx(0.5 * (np.sin(knots[-1]) - np.sin(knots[0])), abs=1e-3)


@pytest.mark.parametrize("slope", [0.0, 3.0, -30.0])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_the_standard_error_is_the_deviation_of_the_mean_or_more_where_that_depends_on_time_alone(
    count: int, slope: float
) -> None:
    rng = np.random.default_rng(5)
    u = (rng.random((4000, 1)) + np.arange(count)) / count
    values = slope * u + rng.standard_normal(u.shape)
    claimed = math.sqrt(np.mean([standard_error(each) ** 2 for each in values]))
    assert 0.95 < claimed / values.mean(axis=1).std() < (1.1 if abs(slope) < 10 and count > 2 else 2)


def test_one_term_has_no_standard_error() -> None:
    assert math.isnan(standard_error(np.array([1.0])))


@pytest.mark.parametrize("family", ["ddgan", "latent", "karras"])
def test_families_without_a_bound_have_none(family: str) -> None:
    assert families.bound(family, {}) is None


def test_a_chain_that_ends_in_pure_noise_has_no_bound() -> None:
    schedule = {"format": "ddim", "prediction": "v", "variance": "fixed_small"}
    assert families.bound("gaussian", {**schedule, "alphas_cumprod": [0.9, 0.5, 0.0]}) is None
    assert families.bound("gaussian", {**schedule, "alphas_cumprod": [0.9, 0.5, 0.5]}) is None
    assert families.bound("gaussian", {**schedule, "alphas_cumprod": [0.9, 0.5, 0.1]}) is not None
    assert families.bound("gaussian", {**schedule, "format": "dit", "alphas_cumprod": [0.9, 0.5, 0.1]}) is None
