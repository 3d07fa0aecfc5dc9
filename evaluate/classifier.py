"""A small convolutional classifier of the real images, which measures the classes of generated ones."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from models import atomic, data
from models.checkpoint import read_tensors, write_tensors
from models.data import Dataset

EPOCHS = 5
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
MAX_SHIFT = 2  # pixels, drawn for each batch: the classifier must not depend on images being centred


class Classifier(nn.Module):
    """Images (n, C, size, size) in [−1, 1] → logits (n, classes); `features` gives the inputs of the last layer."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *block(channels, 24),
            *block(24, 48),
            *block(48, 96),
            nn.Flatten(),
            nn.Linear(96 * (size // 8) ** 2, 128),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """A convolution that halves height and width."""
    return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def identity(dataset: Dataset, size: int) -> str:
    """What a classifier of `dataset` padded to `size` is called."""
    return f"{dataset.digest[:16]}-{size}"


def trained(dataset: Dataset, size: int, folder: Path) -> Classifier:
    """A classifier of `dataset` padded to `size`, in evaluation mode; trained once, then read from the folder.

    Training on another machine gives other features, and Fréchet distances that differ by a factor. Compare only
    figures that were measured with the same file.
    """
    path = folder / f"classifier-{identity(dataset, size)}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for the initial weights and the dropout
        classifier = Classifier(dataset.images.shape[1], size, len(dataset.classes))
        if not path.exists():
            train(classifier, dataset, size)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.replace(path, lambda partial: write_tensors(classifier.state_dict(), partial))
    classifier.load_state_dict(read_tensors(path))
    return classifier.eval()


def train(classifier: Classifier, dataset: Dataset, size: int) -> None:
    """Trains in place on every image EPOCHS times; order and shifts are drawn from a fixed seed."""
    images, labels = torch.from_numpy(data.to_model(dataset.images, size)), torch.from_numpy(dataset.labels)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2)
    batches = EPOCHS * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=batches)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(EPOCHS)])
    classifier.train()
    for picked in tqdm(np.array_split(order, batches), desc="classifier", unit="batch"):
        shift = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=2).tolist()
        loss = cross_entropy(classifier(images[picked].roll(shift, dims=(2, 3))), labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def features(classifier: Classifier, images: Tensor) -> Tensor:
    """The inputs of the last layer, (n, 128), for images (n, C, size, size)."""
    return torch.cat([classifier.features(batch) for batch in images.split(500)])


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor) -> Tensor:
    """The predicted classes, (n,) int64, of images (n, C, size, size)."""
    return torch.cat([classifier(batch).argmax(dim=1) for batch in images.split(500)])
