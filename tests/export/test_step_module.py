"""The step module against the design's two equations, a row at a time."""

import numpy as np
import torch
from torch import Tensor, nn

from export.step_module import COEFFICIENTS, StepModule


class Toy(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        out = torch.sin(x) + (t + y).view(-1, 1, 1, 1)
        return out if z is None else out + z.sum(dim=1).view(-1, 1, 1, 1)


def test_each_row_takes_the_step_of_its_own_coefficients_time_and_label() -> None:
    rng = np.random.default_rng(0)
    x, noise, x0_prev = rng.standard_normal((3, 5, 1, 4, 4))
    t, z = rng.random(5), rng.standard_normal((5, 2))
    y = np.arange(5)
    coefficients = rng.standard_normal((5, len(COEFFICIENTS)))
    coefficients[:, COEFFICIENTS.index("c")] = [0.5, 1, 2, np.inf, 0.1]
    arguments = [torch.from_numpy(values) for values in (x, t, y, noise, x0_prev, coefficients)]
    without_z = StepModule(Toy())(*arguments)
    with_z = StepModule(Toy())(*arguments, torch.from_numpy(z))
    for latent, (x_new, x0) in ((0 * z, without_z), (z, with_z)):
        for row, (P, Q, c, R, S, T, H, N) in enumerate(coefficients):
            out = np.sin(x[row]) + t[row] + y[row] + latent[row].sum()
            expected = np.clip(P * x[row] + Q * out, -c, c)
            np.testing.assert_allclose(x0[row], expected, rtol=1e-12)
            expected = R * x[row] + S * expected + T * out + H * x0_prev[row] + N * noise[row]
            np.testing.assert_allclose(x_new[row], expected, rtol=1e-12, atol=1e-14)
