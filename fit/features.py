"""What tells images apart: activations of a small classifier of the teacher's own images, which needs no data.

It has no part in `evaluate.judge`, whose classifier has seen the real images.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, gelu

from service.engine.runtime import Array

EPOCHS, BATCH_SIZE, LEARNING_RATE = 20, 64, 3e-3
MAX_SHIFT = 2  # pixels, drawn for each batch
WIDTH, HIDDEN = 24, 96
CELLS = 4  # positions a side at which the activations of the first level count; half of these at the next


class Classifier(nn.Module):
    """Images (n, C, H, W) in [−1, 1] → logits (n, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = [channels, WIDTH, 2 * WIDTH, 3 * WIDTH, 4 * WIDTH]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.GELU())
            for inputs, outputs in pairwise(widths)
        )
        self.hidden = nn.Linear(widths[-1] * (CELLS // 2) ** 2, HIDDEN)
        self.head = nn.Linear(HIDDEN, classes)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Of the second and the third level, averaged over cells, and of the hidden layer, (n, numbers) each."""
        levels = []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        hidden = gelu(self.hidden(cells(x, CELLS // 2)))
        return [cells(levels[1], CELLS), cells(levels[2], CELLS // 2), hidden]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.activations(x)[-1])
        return logits


def cells(x: Tensor, side: int) -> Tensor:
    """(n, C, H, W) → (n, C·side²), averages."""
    return adaptive_avg_pool2d(x, side).flatten(1)


def trained(images: Array, labels: NDArray[np.int64], seed: int) -> Classifier:
    """A classifier of these images, in evaluation mode; the same for the same images and seed on one machine."""
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2)
    batches = -(-len(x) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in np.array_split(rng.permutation(len(x)), batches):
            shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2).tolist()
            loss = cross_entropy(classifier(x[rows].roll(shift, dims=(2, 3))), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


@torch.no_grad()
def features(classifier: Classifier, images: Array) -> list[Array]:
    """The activations of each kind, (n, numbers), of images (n, C, H, W)."""
    batches = [classifier.activations(batch) for batch in torch.from_numpy(images).split(200)]
    return [torch.cat(kind).numpy() for kind in zip(*batches, strict=True)]
