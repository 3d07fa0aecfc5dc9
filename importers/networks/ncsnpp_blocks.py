"""What the generator of a denoising diffusion GAN is built of. Attributes bear the names of the published weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, pad

EPS = 1e-6  # of the group norms


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """As many groups as channels / 4, but 32 at most."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=EPS, affine=affine)


class ModulatedNorm(nn.Module):
    """A group norm that a style (n, width) scales and shifts (Xiao et al. 2022, arXiv 2112.07804, appendix C)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.style = nn.Linear(width, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = scale * self.norm(x) + shift
        return result


class PixelLinear(nn.Module):
    """A linear map of the channels of each pixel, stored as a matrix W (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(inputs, outputs))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.W.T[:, :, None, None], self.b)


class Fir(nn.Module):
    """Halves or doubles a picture's sides behind a separable filter (Karras et al. 2020, arXiv 1912.04958): a depthwise
    convolution, which the original leaves to a CUDA extension. A `kernel` of length 0 means the mean of 2×2 pixels, and
    the nearest one."""

    def __init__(self, kernel: Sequence[float]) -> None:
        super().__init__()
        taps = torch.tensor(kernel, dtype=torch.float32, device="cpu")  # kept where a network is built on "meta"
        plane = torch.outer(taps, taps)
        self.length = len(kernel)
        self.plane: Tensor
        self.register_buffer("plane", plane / plane.sum(), persistent=False)

    def filter(self, x: Tensor, padding: int, stride: int) -> Tensor:
        """x with `padding` zeros on each axis, the odd one before it, convolved with the kernel."""
        before, after = (padding + 1) // 2, padding // 2
        weight = self.plane.flip(0, 1).expand(x.shape[1], 1, -1, -1)
        return conv2d(pad(x, (before, after, before, after)), weight, stride=stride, groups=x.shape[1])

    def down(self, x: Tensor) -> Tensor:
        """(n, C, H, W) → (n, C, H/2, W/2)."""
        if not self.length:
            return avg_pool2d(x, 2)
        return self.filter(x, self.length - 2, stride=2)

    def up(self, x: Tensor) -> Tensor:
        """(n, C, H, W) → (n, C, 2H, 2W)."""
        if not self.length:
            return interpolate(x, scale_factor=2.0, mode="nearest")
        before = self.length - 2 - (self.length - 1) // 2  # what the kernel adds there; behind, one more if odd
        weight = (4 * self.plane).expand(x.shape[1], 1, -1, -1)
        whole = conv_transpose2d(x, weight, stride=2, padding=before, groups=x.shape[1])
        return whole[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


class FilteredConv(nn.Module):
    """A 3×3 convolution that halves the sides, behind the filter."""

    def __init__(self, inputs: int, outputs: int, fir: Fir) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.fir = fir

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(self.fir.filter(x, self.fir.length, stride=1), self.weight, self.bias, stride=2)


class Shrink(nn.Module):
    """Halves the sides of a picture by the filter, or by a convolution to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, fir: Fir, *, convolves: bool) -> None:
        super().__init__()
        self.fir = fir
        self.Conv2d_0 = FilteredConv(inputs, outputs, fir) if convolves and fir.length else None
        self.Conv_0 = nn.Conv2d(inputs, outputs, 3, stride=2) if convolves and not fir.length else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, H, W) → (n, outputs, H/2, W/2)."""
        if self.Conv2d_0 is not None:
            return self.Conv2d_0(x)
        if self.Conv_0 is not None:
            return self.Conv_0(pad(x, (0, 1, 0, 1)))
        return self.fir.down(x)


class Enlarge(nn.Module):
    """Doubles the sides by the filter."""

    def __init__(self, fir: Fir) -> None:
        super().__init__()
        self.fir = fir

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) → (n, C, 2H, 2W)."""
        return self.fir.up(x)


class Combine(nn.Module):
    """Adds the shrunken input picture to the hidden channels, or puts it before them."""

    def __init__(self, inputs: int, channels: int, *, concatenates: bool) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(inputs, channels, 1)
        self.concatenates = concatenates

    def forward(self, picture: Tensor, hidden: Tensor) -> Tensor:
        picture = self.Conv_0(picture)
        return torch.cat([picture, hidden], dim=1) if self.concatenates else picture + hidden


class Attention(nn.Module):
    """Self-attention of one head over the pixels, beside a way past it."""

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = PixelLinear(channels, channels)
        self.NIN_1 = PixelLinear(channels, channels)
        self.NIN_2 = PixelLinear(channels, channels)
        self.NIN_3 = PixelLinear(channels, channels)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.GroupNorm_0(x)
        query, key, value = (part(hidden).flatten(2) for part in (self.NIN_0, self.NIN_1, self.NIN_2))
        weights = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(dim=2)
        mixed = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        result: Tensor = (x + self.NIN_3(mixed)) * self.gain
        return result


class PixelNorm(nn.Module):
    """Scales each row of (n, width) to a mean square of 1."""

    def forward(self, z: Tensor) -> Tensor:
        return z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
