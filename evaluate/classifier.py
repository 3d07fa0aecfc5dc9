"""Trains the classifier of a data set that measures generated images, and reads it again."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm

from evaluate.judge_networks import ColourClassifier, Cycle, GreyClassifier, Judging
from models import atomic, data
from models.checkpoint import halved, read_tensors, write_tensors
from models.data import Dataset

BATCH_SIZE = 128


def identity(dataset: Dataset, size: int, seed: int = 0) -> str:
    """What a classifier of `dataset` padded to `size` is called."""
    return f"{dataset.digest[:16]}-{size}" + (f"-{seed}" if seed else "")


def trained(dataset: Dataset, size: int, folder: Path, seed: int = 0) -> Judging:
    """A classifier of `dataset` padded to `size`, in evaluation mode; trained once, then read from the folder.

    Its weights are float16 in the file, and computed with in float32. Training on another machine gives other features,
    and Fréchet distances that differ by a factor. Compare only figures that were measured with the same file.
    """
    path = folder / f"classifier-{identity(dataset, size, seed)}.safetensors"
    channels = dataset.images.shape[1]
    network = GreyClassifier if channels == 1 else ColourClassifier
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for the initial weights and the dropout
        classifier = network(channels, size, len(dataset.classes))
        if not path.exists():
            train(classifier, dataset, size, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.replace(path, lambda partial: write_tensors(halved(classifier.state_dict()), partial))
    classifier.load_state_dict(read_tensors(path))
    return classifier.eval()


def train(classifier: Judging, dataset: Dataset, size: int, seed: int) -> None:
    """Trains in place, cycle by cycle; order, shifts and mirroring are drawn from the seed."""
    images, labels = torch.from_numpy(data.to_model(dataset.images, size)), torch.from_numpy(dataset.labels)
    rng = np.random.default_rng(seed)
    # In which bfloat16 takes two thirds of the time; PyTorch's stubs do not know the argument.
    classifier.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for cycle in classifier.CYCLES:
        train_cycle(classifier, cycle, images, labels, rng)


def train_cycle(classifier: Judging, cycle: Cycle, images: Tensor, labels: Tensor, rng: np.random.Generator) -> None:
    """Trains on every image as often as the cycle has epochs."""
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=cycle.weight_decay)
    batches = cycle.epochs * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cycle.rate, total_steps=batches)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(cycle.epochs)])
    for picked in tqdm(np.array_split(order, batches), desc="classifier", unit="batch"):
        shown = moved(images[picked], rng, classifier.MAX_SHIFT)
        if classifier.FLIPS:
            mirrored = torch.from_numpy(rng.random(len(shown)) < 0.5)
            shown[mirrored] = shown[mirrored].flip(3)
        with torch.autocast("cpu", torch.bfloat16):
            logits = classifier(shown)
        loss = cross_entropy(logits.float(), labels[picked], label_smoothing=classifier.SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def moved(images: Tensor, rng: np.random.Generator, most: int) -> Tensor:
    """Images (n, C, size, size), each moved by up to `most` pixels; the edge's mirror image comes in. Channels last."""
    n, _, size, _ = images.shape
    padded = pad(images, (most,) * 4, mode="reflect")

    def places() -> NDArray[np.int64]:
        return rng.integers(0, 2 * most + 1, size=(n, 1)) + np.arange(size)

    rows, columns = places(), places()
    picked: Tensor = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


@torch.no_grad()
def features(classifier: Judging, images: Tensor) -> Tensor:
    """The inputs of the last layer, (n, width), for images (n, C, size, size)."""
    return torch.cat([classifier.features(batch) for batch in images.split(500)])


@torch.no_grad()
def predict(classifier: Judging, images: Tensor) -> Tensor:
    """The predicted classes, (n,) int64, of images (n, C, size, size)."""
    return torch.cat([classifier(batch).argmax(dim=1) for batch in images.split(500)])
