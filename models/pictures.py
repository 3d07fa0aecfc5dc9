"""What a training looks like so far: its loss as CSV and curve, and a few samples of each class."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import nn

from models import families
from models.checkpoint import Card
from models.sample import grid, sample

matplotlib.use("Agg")
from matplotlib import pyplot

SAMPLES = 10  # of a class
MOST_CLASSES = 20  # that samples are drawn of


def draw_history(folder: Path, title: str, history: Sequence[tuple[int, float]]) -> None:
    """`loss.csv` and `loss.png` from pairs of batch and mean loss."""
    with (folder / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("batch", "loss"), *history])
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot([batch for batch, _ in history], [loss for _, loss in history])
    axes.set(xlabel="batch", ylabel="loss", yscale="log", title=title)
    figure.savefig(folder / "loss.png", dpi=100)
    pyplot.close(figure)


def draw_samples(folder: Path, card: Card, network: nn.Module) -> None:
    """`samples.png`: a line a class, by the family's default solver."""
    plan = families.default_plan(card.family, card.noise_schedule, card.recommended_steps)
    y = torch.arange(min(len(card.classes), MOST_CLASSES)).repeat_interleave(SAMPLES)
    images = sample(network, plan, y, card.state_shape, card.latent, seed=0)
    if card.decodes:
        with torch.no_grad():
            images = network.decode(images)  # type: ignore[operator]  # a module's attribute may be a tensor
    grid(images, columns=SAMPLES).save(folder / "samples.png")
