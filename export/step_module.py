"""The step as one module: the network and the update that follows it, for export into one graph."""

from torch import Tensor, nn

from models.step import Step, update

COEFFICIENTS = Step._fields[1:]  # P … N, the columns of the graph's `coefficients`; t is an input of its own


class DecodeModule(nn.Module):
    """x (n, C, H, W) float32, states at the end of their plans → their images (n, C, H, W) in [−1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = self.network.decode(x)  # type: ignore[operator]  # a module's attribute may be a tensor
        return images


class StepModule(nn.Module):
    """(x, t, y, noise, x0_prev, coefficients, and z where the network takes one) → (x_new, x0); rows are independent.

    x, noise, x0_prev and both outputs (n, C, H, W) float32; t (n,) float32; y (n,) int64, the number of classes
    meaning "no class"; coefficients (n, 8) float32, a row's `Step` without t; z (n, latent) float32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        noise: Tensor,
        x0_prev: Tensor,
        coefficients: Tensor,
        z: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        columns = coefficients.view(-1, len(COEFFICIENTS), 1, 1).split(1, dim=1)
        k = Step(t, *columns)  # type: ignore[arg-type]  # tensors stand where a plan has floats
        out = self.network(x, t, y) if z is None else self.network(x, t, y, z)
        x_new, x0 = update(k, x, out, x0_prev, noise)
        return x_new, x0
