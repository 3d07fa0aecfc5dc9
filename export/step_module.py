"""The step as one module: the network and the update that follows it, for export into one graph."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.step import Step, update

COEFFICIENTS = Step._fields[1:]  # the columns of the graph's `coefficients`; t is an input of its own


@dataclass(frozen=True)
class Wiring:
    """How the step uses a network, beyond out = network(x, t, y)."""

    learned_variance: bool = False  # the network gives 2·C channels: out, then the variance in [−1, 1]
    guidance: bool = False  # rows come in pairs, one of the class and one of no class
    guided_channels: int | None = None  # guidance changes the first of out's channels alone; None: all
    self_condition: bool = False  # the network takes the x0 of the step before, ahead of x in the channels
    preconditioned: bool = False  # the network takes network_from_x·x

    @property
    def columns(self) -> int:
        """How many of COEFFICIENTS the graph has: those of older graphs, unless it needs more."""
        if self.preconditioned:
            return COEFFICIENTS.index("network_from_x") + 1
        return COEFFICIENTS.index("noise_std") + 1 + self.learned_variance


PLAIN = Wiring()


class DecodeModule(nn.Module):
    """x (n, C, H, W) float32, states at the end of their plans → their images (n, C, H, W) in [−1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.network.decode(x)  # type: ignore[operator]  # a module's attribute may be a tensor
        return images


class EncodeModule(nn.Module):
    """Images (n, C, H, W) float32 in [−1, 1] → their states x (n, C, H, W) at the end of a plan."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.network.encode(images)  # type: ignore[operator]  # a module's attribute may be a tensor
        return x


class StepModule(nn.Module):
    """(x, t, y, noise, x0_prev, coefficients, and what the network needs more) → (x_new, x0).

    x, noise, x0_prev and both outputs (n, C, H, W) float32; t (n,) float32; y (n,) int64, the number of classes
    meaning "no class"; coefficients (n, `Wiring.columns`) float32, a row's `Step` without t; z (n, z_dim) float32.

    With guidance also pair (n,) int64 and weights (n, 2) float32: row i's out becomes weights[i, 0]·out[i] +
    weights[i, 1]·out[pair[i]] (Ho and Salimans 2022, arXiv 2207.12598, eq. 6). A row without guidance names itself and
    has the weights 1 and 0. But for pairs, rows are independent.
    """

    def __init__(self, network: nn.Module, wiring: Wiring = PLAIN) -> None:
        super().__init__()
        self.network = network
        self.wiring = wiring

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        noise: Tensor,
        x0_prev: Tensor,
        coefficients: Tensor,
        z: Tensor | None = None,
        pair: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        columns = coefficients.view(-1, self.wiring.columns, 1, 1).split(1, dim=1)
        k = Step(t, *columns)  # type: ignore[arg-type]  # tensors stand where a plan has floats
        x_in = k.network_from_x * x if self.wiring.preconditioned else x
        if self.wiring.self_condition:
            x_in = torch.cat((x0_prev, x_in), dim=1)
        out = self.network(x_in, t, y) if z is None else self.network(x_in, t, y, z)
        if self.wiring.learned_variance:
            out, variance = out.chunk(2, dim=1)
            noise = noise * torch.exp(k.log_std_from_v * (variance + 1) / 2)
        if pair is not None and weights is not None:
            out = self.guided(out, pair, weights)
        x_new, x0 = update(k, x, out, x0_prev, noise)
        return x_new, x0

    def guided(self, out: Tensor, pair: Tensor, weights: Tensor) -> Tensor:
        own, others = weights.view(-1, 2, 1, 1).split(1, dim=1)
        guided = own * out + others * out.index_select(0, pair)
        channels = self.wiring.guided_channels
        return guided if channels is None else torch.cat((guided[:, :channels], out[:, channels:]), dim=1)
