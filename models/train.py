"""Trains a model: `./run train --family ddim --data FOLDER --output CHECKPOINT`. Stopped, it goes on where it was."""

import csv
import json
import math
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from tqdm import tqdm

from models import checkpoint, data, families
from models.ddim.plan import cosine_schedule
from models.sample import grid, sample

matplotlib.use("Agg")
from matplotlib import pyplot

STATE, HISTORY = "state.safetensors", "loss.csv"
EMA_DECAY = 0.9995
WARMUP_BATCHES = 500
MAX_GRADIENT_NORM = 1.0
PACKAGES = ("torch", "diffusers", "numpy", "safetensors")


class Settings(BaseSettings):
    """Train a model on a folder of idx files, a folder of images or a zip of one."""

    model_config = SettingsConfigDict(cli_parse_args=True, cli_kebab_case=True, cli_prog_name="./run train")

    family: str = Field("ddim", description="the folder under models/ to train")
    data: Path = Field(description="the data set")
    output: Path = Field(description="the checkpoint's folder; training goes on from what is there")
    name: str = Field("ddim", description="what callers will ask for as `method`")
    images: PositiveInt = Field(720_000, description="how many images to train on, counted with repeats")
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    label_dropout: float = Field(0.1, ge=0, le=1, description='how often a label is replaced by "no class"')
    size: PositiveInt = Field(32, description="height and width of the model's images; smaller ones are padded")
    channels: list[PositiveInt] = Field([32, 64, 96], description="the U-Net's channels, a number a level")
    timesteps: PositiveInt = 1000
    recommended_steps: PositiveInt = Field(20, description="the default `steps` of a request")
    seed: int = 0
    save_every: PositiveInt = Field(500, description="batches between two checkpoints")

    def cli_cmd(self) -> None:
        Training(self).run()


class Training:
    """The loop and its state; everything random is drawn from (seed, batch), so a resumed run repeats an unbroken one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        dataset = data.load(settings.data, "train")
        self.images = torch.from_numpy(data.to_model(dataset.images, settings.size))
        self.labels = torch.from_numpy(dataset.labels)
        self.card = checkpoint.Card(
            name=settings.name,
            family=settings.family,
            shape=tuple(self.images.shape[1:]),
            classes=dataset.classes,
            noise_schedule={"alphas_cumprod": cosine_schedule(settings.timesteps).tolist()},
            network={"channels": settings.channels},
            recommended_steps=settings.recommended_steps,
            training={
                **settings.model_dump(mode="json", exclude={"output", "data"}),
                "data_digest": dataset.digest,
                "packages": {name: version(name) for name in PACKAGES},
            },
        )
        torch.manual_seed(settings.seed)
        self.network = self.card.build()
        self.ema = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        self.loss = import_module(f"models.{settings.family}.loss").loss
        self.batches_done = 0
        self.history: list[tuple[int, float]] = []
        if (settings.output / STATE).exists():
            self._restore()

    def run(self) -> None:
        settings = self.settings
        batches = math.ceil(settings.images / settings.batch_size)
        seen = self.batches_done * settings.batch_size
        print(f"{sum(p.numel() for p in self.network.parameters()):,} parameters, {len(self.images):,} images", flush=True)
        bar = tqdm(total=batches * settings.batch_size, initial=seen, unit="image", unit_scale=True, smoothing=0.05)
        recent: list[float] = []
        with bar:
            for batch in range(self.batches_done, batches):
                recent.append(self._train_on(batch, batches))
                self.batches_done = batch + 1
                bar.update(settings.batch_size)
                if self.batches_done % 50 == 0:
                    self.history.append((self.batches_done, float(np.mean(recent[-50:]))))
                    bar.set_postfix(loss=f"{self.history[-1][1]:.4f}")
                if self.batches_done % settings.save_every == 0 or self.batches_done == batches:
                    recent.clear()
                    self._save()

    def _train_on(self, batch: int, batches: int) -> float:
        x, y, generator = self._batch(batch)
        warmup = min(1.0, (batch + 1) / WARMUP_BATCHES)
        decay = 0.5 * (1 + math.cos(math.pi * batch / batches))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warmup * decay
        loss: Tensor = self.loss(self.network, x, y, generator)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        rate = 1 - min(EMA_DECAY, (1 + batch) / (10 + batch))
        for name, value in self.network.state_dict().items():
            self.ema[name].lerp_(value, rate)
        return loss.item()

    def _batch(self, batch: int) -> tuple[Tensor, Tensor, Generator]:
        """The images and labels of a batch, an epoch being a permutation drawn from (seed, epoch)."""
        size, n = self.settings.batch_size, len(self.images)
        wanted = np.arange(batch * size, (batch + 1) * size)
        picked = np.concatenate([self._permutation(int(e))[wanted[wanted // n == e] % n] for e in np.unique(wanted // n)])
        generator = Generator().manual_seed(_seed(self.settings.seed, 1, batch))
        y = self.labels[picked].clone()
        y[torch.rand(len(y), generator=generator) < self.settings.label_dropout] = len(self.card.classes)
        return self.images[picked], y, generator

    def _permutation(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng(_seed(self.settings.seed, 0, epoch)).permutation(len(self.images))

    def _save(self) -> None:
        output = self.settings.output
        self.card.training["images_seen"] = self.batches_done * self.settings.batch_size
        checkpoint.save(output, self.card, self.ema)
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state.update({f"optimizer.{index}.{name}": value for name, value in moments.items()})
        state["batches_done"] = torch.tensor(self.batches_done)
        state["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(-1, 2)
        checkpoint.save_replacing(state, output / STATE)
        self._draw(output)

    def _restore(self) -> None:
        output = self.settings.output
        before = json.loads((output / checkpoint.CARD).read_text())
        _, ema = checkpoint.load(output)
        self.ema = {name: value.clone() for name, value in ema.state_dict().items()}
        state = load_file(output / STATE)
        changed = {
            key
            for key, value in self.card.training.items()
            if key not in ("packages", "images_seen", "save_every") and before["training"].get(key) != value
        }
        if changed:
            raise SystemExit(f"{output} was begun with other settings: {', '.join(sorted(changed))}")
        self.network.load_state_dict({k.removeprefix("network."): v for k, v in state.items() if k.startswith("network.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.batches_done = int(state["batches_done"])
        self.history = [(int(batch), loss) for batch, loss in state["history"].tolist()]

    def _draw(self, output: Path) -> None:
        """The loss so far as CSV and curve, and ten samples of each class from the EMA weights."""
        with (output / HISTORY).open("w", newline="") as file:
            csv.writer(file).writerows([("batch", "loss"), *self.history])
        figure, axes = pyplot.subplots(figsize=(7, 4))
        axes.plot(*zip(*self.history, strict=True) if self.history else ([], []))
        axes.set(xlabel="batch", ylabel="loss", yscale="log", title=self.card.name)
        figure.savefig(output / "loss.png", dpi=100)
        pyplot.close(figure)
        network = self.card.build()
        network.load_state_dict(self.ema)
        solver = next(iter(families.find(self.card.family).SOLVERS.values()))
        settings = {name: setting.default for name, setting in solver.settings.items()}
        plan = solver.plan(self.card.noise_schedule, self.card.recommended_steps, **settings)
        y = torch.arange(len(self.card.classes)).repeat_interleave(10)
        grid(sample(network.eval(), plan, y, self.card.shape, seed=0), columns=10).save(output / "samples.png")


def _seed(*key: int) -> int:
    """A 63-bit seed from a key of integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


if __name__ == "__main__":
    CliApp.run(Settings)
