"""The networks that judge images: classifiers of the real ones, each with the recipe of its training."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class Cycle(NamedTuple):
    """The learning rate rises to `rate` and falls to 0 (warm restarts: Loshchilov & Hutter 2017, arXiv 1608.03983)."""

    epochs: int
    rate: float
    weight_decay: float


class Judging(nn.Module):
    """Images (n, C, size, size) in [−1, 1] → logits (n, classes); `features` gives the inputs of the last layer."""

    CYCLES: ClassVar[Sequence[Cycle]]
    SMOOTHING: ClassVar[float] = 0.0  # of the labels
    MAX_SHIFT: ClassVar[int]  # pixels: the classifier must not depend on images being centred
    FLIPS: ClassVar[bool] = False  # whether an image may be mirrored

    features: nn.Module
    head: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class GreyClassifier(Judging):
    """Three convolutions, enough for digits and clothes."""

    CYCLES, MAX_SHIFT = (Cycle(5, 2e-3, 1e-2),), 2

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *halving(channels, 24),
            *halving(24, 48),
            *halving(48, 96),
            nn.Flatten(),
            nn.Linear(96 * (size // 8) ** 2, 128),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, classes))


class ColourClassifier(Judging):
    """A residual network of 1.9 M weights, for photographs."""

    CYCLES, SMOOTHING, MAX_SHIFT, FLIPS = (Cycle(10, 5e-3, 1e-2), Cycle(6, 3e-3, 0.2)), 0.1, 3, True

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *convolution(channels, 32),
            *convolution(32, 64),
            nn.MaxPool2d(2),
            Residual(64),
            *convolution(64, 128),
            nn.MaxPool2d(2),
            Residual(128),
            *convolution(128, 256),
            nn.MaxPool2d(2),
            Residual(256),
            nn.AvgPool2d(size // 8),
            nn.Flatten(),
        )
        self.head = nn.Linear(256, classes)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*convolution(channels, channels), *convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        sum_: Tensor = x + self.inner(x)
        return sum_


def halving(inputs: int, outputs: int) -> list[nn.Module]:
    """A convolution that halves height and width."""
    return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """A convolution that keeps height and width."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
