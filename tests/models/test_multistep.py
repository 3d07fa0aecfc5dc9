"""The solvers that read several earlier x0: against diffusers, quadrature of the papers' integrals, and laws."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpmsolver_multistep, scheduling_unipc_multistep
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from models import discrete, families, multistep
from models.karras import plan as karras
from models.multistep import Ends
from models.schedules import Vector, log_snr_grid, log_snr_timesteps
from models.solvers import heun
from models.step import HISTORY, Plan, update, with_history
from tests.models.test_karras import EDM, rising
from tests.models.test_solvers import ABAR, COUNTS, SCHEDULE, STEP

SHAPE = (2, 1, 4, 4)
MULTISTEP = {"dpmpp_3m": multistep.dpmpp_3m, "unipc": multistep.unipc, "deis": multistep.deis}

# diffusers makes a NumPy array of a tensor in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def run(plan: Plan, network: Callable[[Any, float], Any], x: Any) -> list[Any]:
    """x after each step, without fresh noise."""
    earlier: list[Any] = []
    xs = []
    for row in plan:
        k, x0_prev = with_history(row, earlier[: len(HISTORY)])
        x, x0 = update(k, x, network(x, k.t), x0_prev, 0 * x)
        earlier.insert(0, x0)
        xs.append(x)
    return xs


@pytest.fixture
def diffusers_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' code as it is, with float64 wherever it says float32."""
    for module in (scheduling_dpmsolver_multistep, scheduling_unipc_multistep):
        monkeypatch.setattr(module, "torch", SimpleNamespace(**{**vars(torch), "float32": torch.float64}))
        monkeypatch.setattr(module, "np", SimpleNamespace(**{**vars(np), "float32": np.float64}))


@pytest.mark.usefixtures("diffusers_in_float64")
@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        (discrete.dpmpp_3m_plan, diffusers.DPMSolverMultistepScheduler),
        (discrete.unipc_plan, diffusers.UniPCMultistepScheduler),
    ],
    ids=["dpmpp_3m", "unipc"],
)
def test_each_step_of_third_order_equals_that_of_diffusers(plan: Callable[..., Plan], kind: Any, steps: int) -> None:
    timesteps = log_snr_timesteps(ABAR, steps)
    # Its thresholding with sample_max_value = 1, the default, is clipping to [-1, 1].
    betas = 1 - ABAR / np.append(1.0, ABAR[:-1])
    scheduler = kind(trained_betas=betas, solver_order=3, thresholding=True, final_sigmas_type="zero")
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.from_numpy(timesteps)
    scheduler.sigmas = torch.from_numpy(np.append(np.sqrt((1 - ABAR) / ABAR)[timesteps], 0.0))

    def network(x: Any, t: float) -> Any:
        return torch.sin(1.3 * x + t)

    x = expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(steps)).double()
    for t, ours in zip(timesteps.tolist(), run(plan(SCHEDULE, steps), network, x), strict=True):
        expected = scheduler.step(network(expected, t), t, expected).prev_sample
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 9])
def test_the_weights_of_deis_are_its_papers_integrals(steps: int) -> None:
    """C_ij = ∫ e^(λ − λ_s)·∏_{k≠j} (λ − λ_k)/(λ_j − λ_k) dλ from λ_t to λ_s, α_s times it in data prediction."""
    _, abar_t, abar_s = log_snr_grid(SCHEDULE["alphas_cumprod"], steps)
    at = np.log(abar_t / (1 - abar_t)) / 2
    for i, k in enumerate(discrete.deis_plan(SCHEDULE, steps)[:-1]):
        nodes = at[i::-1][: min(4, i + 1, steps - i)]
        for j, actual in enumerate((k.x_from_x0, *(getattr(k, name) for name in HISTORY))):
            expected = 0.0
            if j < len(nodes):
                others = np.delete(nodes, j)
                expected, _ = integrate.quad(
                    lambda u, others=others, node=nodes[j], end=at[i + 1]: (
                        np.exp(u - end) * np.prod((u - others) / (node - others))
                    ),
                    at[i],
                    at[i + 1],
                    epsabs=1e-13,
                )
            assert actual == pytest.approx(np.sqrt(abar_s[i]) * expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", MULTISTEP)
def test_models_of_noise_levels_take_the_same_steps_in_x_over_alpha(name: str) -> None:
    sigma = rising(7)
    ends = np.append(sigma[1:], 0.0)
    alpha_t, alpha_s = 1 / np.sqrt(1 + sigma**2), 1 / np.sqrt(1 + ends**2)
    columns = MULTISTEP[name](Ends(alpha_t, alpha_t * sigma, alpha_s, alpha_s * ends))
    plan = karras.SOLVERS[name].plan(EDM, 7)
    for k, i in zip(plan[1:], range(1, 7), strict=True):
        for column in ("x_from_x0", *HISTORY):
            assert getattr(k, column) == pytest.approx(columns[column][i] / alpha_s[i], rel=1e-9, abs=1e-12)
        assert k.x_from_x == pytest.approx(columns["x_from_x"][i] * alpha_t[i] / alpha_s[i], rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_heun_is_algorithm_1_of_edm_in_x_over_alpha(steps: int) -> None:
    t, abar_t, abar_s = log_snr_grid(SCHEDULE["alphas_cumprod"], steps)
    levels = np.append(np.sqrt((1 - abar_t) / abar_t), 0.0)
    alphas = np.append(np.sqrt(abar_t), 1.0)

    def network(x: Any, time: float) -> Any:
        return np.sin(1.3 * x + time)

    def slope(x: Any, i: int) -> Any:
        """dx̃/dσ at level i, with D clipped, of x̃ = x/α."""
        level = levels[i]
        return (x - (x - level * network(x * alphas[i], float(t[i]))).clip(-1, 1)) / level

    start = np.random.default_rng(0).normal(size=SHAPE)
    x = start / alphas[0]
    for i in range(steps):
        first = slope(x, i)
        euler = x + (levels[i + 1] - levels[i]) * first
        x = x + (levels[i + 1] - levels[i]) * (first + slope(euler, i + 1)) / 2 if levels[i + 1] else euler
    plan = heun(t, abar_t, abar_s)
    assert len(plan) == 2 * steps - 1
    np.testing.assert_allclose(run(plan, network, start)[-1], x, rtol=1e-8, atol=1e-9)


# --- laws ----------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(sorted(MULTISTEP)),
    st.lists(st.floats(1e-3, 1 - 1e-3), min_size=1, max_size=30, unique=True),
    st.floats(-1, 1),
)
def test_a_constant_x0_keeps_its_share_at_every_step(name: str, levels: list[float], x0: float) -> None:
    abar_t = np.sort(np.array(levels))
    if (np.diff(np.log(abar_t / (1 - abar_t))) < 1e-3).any():
        return  # steps of no length: their weights are of any size
    abar_s = np.append(abar_t[1:], 1.0)
    ends = Ends(*(np.sqrt(column) for column in (abar_t, 1 - abar_t, abar_s, 1 - abar_s)))
    columns = MULTISTEP[name](ends)
    x = ends.alpha_t * x0 + ends.sigma_t * 0.7
    history = columns["x_from_x0"] + sum(columns[each] for each in HISTORY)
    np.testing.assert_allclose(
        columns["x_from_x"] * x + history * x0, ends.alpha_s * x0 + ends.sigma_s * 0.7, atol=1e-7
    )


def test_a_plan_that_loses_a_share_of_a_constant_x0_is_rejected() -> None:
    alpha_t, alpha_s = np.array([0.5, 0.8]), np.array([0.8, 1.0])
    rows = [STEP._replace(x_from_x=0.5, x_from_x0=0.55), STEP._replace(x_from_x=0, x_from_x0=1.2, x_from_x0_prev=-0.2)]
    assert len(Plan(rows, signal=(alpha_t, alpha_s))) == 2
    with pytest.raises(ValueError, match=r"step 1 makes 1\.\d+ of a constant x0, in place of α_s = 1\.0"):
        Plan([rows[0], rows[1]._replace(x_from_x0_prev=-0.1)], signal=(alpha_t, alpha_s))


@pytest.mark.parametrize(("name", "first"), [(name, i + 1) for i, name in enumerate(HISTORY)])
def test_a_plan_reads_no_x0_from_before_its_first_step(name: str, first: int) -> None:
    rows = [STEP] * 5
    for i in range(5):
        plan = [*rows[:i], STEP._replace(**{name: 0.1}), *rows[i + 1 :]]
        if i >= first:
            assert Plan(plan)[i] == plan[i]
        else:
            with pytest.raises(ValueError, match=f"step {i} has no x0 {first} steps before it, yet {name}"):
                Plan(plan)


@pytest.mark.parametrize("family", ["ddim", "vdm", "latent"])
def test_families_of_predicted_noise_have_the_solvers(family: str) -> None:
    assert {*MULTISTEP, "heun"} <= families.find(family).SOLVERS.keys()


def test_a_plan_of_the_most_steps_is_finite() -> None:
    for name in MULTISTEP:
        table: Vector = np.array(discrete.solvers(default_eta=0.0)[name].plan(SCHEDULE, len(ABAR)))
        assert np.isfinite(table).all()
        assert np.abs(table[:, -2:]).max() < 10
