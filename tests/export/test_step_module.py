"""The step module against the design's two equations, a row at a time."""

import numpy as np
import torch
from torch import Tensor, nn

from export.step_module import COEFFICIENTS, PLAIN, StepModule, Wiring


class Toy(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        out = torch.sin(x) + (t + y).view(-1, 1, 1, 1)
        return out if z is None else out + z.sum(dim=1).view(-1, 1, 1, 1)


def test_each_row_takes_the_step_of_its_own_coefficients_time_and_label() -> None:
    rng = np.random.default_rng(0)
    x, noise, x0_prev = rng.standard_normal((3, 5, 1, 4, 4))
    t, z = rng.random(5), rng.standard_normal((5, 2))
    y = np.arange(5)
    coefficients = rng.standard_normal((5, PLAIN.columns))
    coefficients[:, COEFFICIENTS.index("clip")] = [0.5, 1, 2, np.inf, 0.1]
    arguments = [torch.from_numpy(values) for values in (x, t, y, noise, x0_prev, coefficients)]
    without_z = StepModule(Toy())(*arguments)
    with_z = StepModule(Toy())(*arguments, torch.from_numpy(z))
    for style, (x_new, x0) in ((0 * z, without_z), (z, with_z)):
        for row, (P, Q, c, R, S, T, H, N) in enumerate(coefficients):
            out = np.sin(x[row]) + t[row] + y[row] + style[row].sum()
            expected = np.clip(P * x[row] + Q * out, -c, c)
            np.testing.assert_allclose(x0[row], expected, rtol=1e-12)
            expected = R * x[row] + S * expected + T * out + H * x0_prev[row] + N * noise[row]
            np.testing.assert_allclose(x_new[row], expected, rtol=1e-12, atol=1e-14)


class Variance(nn.Module):
    """Gives its input, and then the labels as a variance in [−1, 1]."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat((x, torch.ones_like(x) * y.view(-1, 1, 1, 1)), dim=1)


def test_a_learned_variance_lies_between_the_two_of_its_row() -> None:
    """Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15: log Σ = v·log β + (1 − v)·log β̃."""
    beta, beta_tilde = 0.3, 0.1
    noise = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    row = {"noise_std": beta_tilde**0.5, "log_std_from_v": 0.5 * np.log(beta / beta_tilde), "clip": 1.0}
    wiring = Wiring(learned_variance=True)
    values = [row.get(name, 0.0) for name in COEFFICIENTS[: wiring.columns]]
    coefficients = torch.tensor([values] * 3, dtype=torch.float64)
    zero, t, y = torch.zeros_like(noise), torch.zeros(3), torch.tensor([-1, 0, 1])
    x_new, _ = StepModule(Variance(), wiring)(zero, t, y, noise, zero, coefficients)
    expected = [beta_tilde, (beta * beta_tilde) ** 0.5, beta]
    np.testing.assert_allclose(x_new[:, 0, 0, 0] ** 2, expected, rtol=1e-12)


def test_guidance_weighs_a_row_and_its_pair_and_leaves_the_others_as_they_are() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((5, 4, 2, 2)))
    t, y, zero = torch.zeros(5), torch.tensor([3, 9, 1, 2, 9]), torch.zeros_like(x)
    coefficients = torch.zeros(5, PLAIN.columns, dtype=torch.float64)
    coefficients[:, COEFFICIENTS.index("x_from_out")] = 1
    pair, weights = torch.tensor([1, 0, 2, 4, 3]), torch.tensor([[3.0, -2], [-2, 3], [1, 0], [0, 1], [0, 1]])
    out = Toy()(x, t, y)
    for channels in (None, 3):
        step = StepModule(Toy(), Wiring(guidance=True, guided_channels=channels))
        x_new, _ = step(x, t, y, zero, zero, coefficients, pair=pair, weights=weights)
        torch.testing.assert_close(x_new[0, :3], (out[1] + 3 * (out[0] - out[1]))[:3])
        torch.testing.assert_close(x_new[:2, :3], (3 * out[:1] - 2 * out[1:2])[:, :3].expand(2, -1, -1, -1))
        assert torch.equal(x_new[2], out[2])
        torch.testing.assert_close(x_new[3, :3], out[4, :3])
        torch.testing.assert_close(x_new[0, 3:], out[0, 3:] if channels else (3 * out[0] - 2 * out[1])[3:])


class Before(nn.Module):
    """Gives the channels before the last."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x[:, :-1]


def test_self_conditioning_puts_the_last_x0_before_x() -> None:
    x, x0_prev = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 5.0)
    coefficients = torch.zeros(2, PLAIN.columns)
    coefficients[:, COEFFICIENTS.index("x_from_out")] = 1
    step = StepModule(Before(), Wiring(self_condition=True))
    x_new, _ = step(x, torch.zeros(2), torch.zeros(2), x, x0_prev, coefficients)
    assert torch.equal(x_new, x0_prev)


def test_a_preconditioned_network_gets_x_by_its_rows_column() -> None:
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    t, y, zero = torch.zeros(3), torch.tensor([1, 2, 0]), torch.zeros_like(x)
    wiring = Wiring(preconditioned=True)
    coefficients = torch.zeros(3, wiring.columns, dtype=torch.float64)
    coefficients[:, COEFFICIENTS.index("x_from_out")] = 1
    coefficients[:, COEFFICIENTS.index("network_from_x")] = torch.tensor([0.5, 1, 80])
    x_new, _ = StepModule(Toy(), wiring)(x, t, y, zero, zero, coefficients)
    scaled = torch.stack((x[0] / 2, x[1], 80 * x[2]))
    assert torch.equal(x_new, Toy()(scaled, t, y))


def test_older_graphs_have_the_columns_that_they_had() -> None:
    assert PLAIN.columns == 8
    assert Wiring(learned_variance=True).columns == 9
    assert Wiring(preconditioned=True).columns == len(COEFFICIENTS) - 2 == 10  # the older x0 are mixed outside
