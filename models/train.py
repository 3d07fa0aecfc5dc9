"""Trains a model: `./run train --family ddim --data FOLDER --output CHECKPOINT`. Stopped, it goes on where it was."""

import csv
import json
import math
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from models import checkpoint, data, families
from models.sample import grid, sample

matplotlib.use("Agg")
from matplotlib import pyplot

STATE, HISTORY = "state.safetensors", "loss.csv"
EMA_DECAY = 0.9995
WARMUP_BATCHES = 500
HISTORY_EVERY = 50  # batches that a point of the loss curve is the mean of
MAY_CHANGE = {"images", "packages"}  # of a run's settings: more images make a run longer, its schedule with it
PACKAGES = ("torch", "diffusers", "numpy", "safetensors")


class Settings(BaseSettings):
    """Train a model on a folder of idx files, a folder of images or a zip of one."""

    model_config = SettingsConfigDict(env_prefix="TRILEMMA_TRAIN_", cli_kebab_case=True, cli_prog_name="./run train")

    family: str = Field("ddim", description="the folder under models/ to train")
    data: Path = Field(description="the data set")
    output: Path = Field(description="the checkpoint's folder; training goes on from what is there")
    start: Path | None = Field(None, description="a checkpoint to begin from: its weights, where name and shape match")
    name: str = Field("", description="what callers will ask for as `method`; default: the family's name")
    images: PositiveInt = Field(720_000, description="how many images to train on, counted with repeats")
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = Field(1e-3, description="at its peak; it warms up and falls to 0 as a cosine")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the products; bfloat16 takes 0.7 times as long where the processor has it"
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="cuda: a GPU, where a repeated run differs in its last bits"
    )
    label_dropout: float = Field(0.1, ge=0, le=1, description='how often a label is replaced by "no class"')
    size: PositiveInt = Field(32, description="height and width of the model's images; smaller ones are padded")
    network: dict[str, Any] = Field({}, description="the network's settings, as JSON, over the family's defaults")
    objective: dict[str, Any] = Field({}, description="the loss's settings, as JSON, over the family's defaults")
    recommended_steps: PositiveInt = Field(20, description="the default `steps` of a request")
    seed: int = 0
    save_every: PositiveInt = Field(500, description="batches between two checkpoints")

    def cli_cmd(self) -> None:
        Training(self).run()


class Objective(Protocol):
    """`models/FAMILY/loss.py` has an `Objective(network, learning_rate, **settings)` of this kind, the defaults of its
    settings, OBJECTIVE, those of the network's, NETWORK, and the noise schedule that it starts with, SCHEDULE."""

    modules: Mapping[str, nn.Module]  # all that is trained; "network" is the one that is exported
    optimizers: Mapping[str, Optimizer]

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        """Trains on a batch, x (n, C, H, W) in [−1, 1] and y (n,); returns the loss to show. All are on one device."""
        ...

    def schedule(self, network: nn.Module) -> dict[str, Any]:
        """The noise schedule of a network of this family, as the manifest carries it."""
        ...


class Training:
    """The loop and its state. All that is random comes from (seed, batch): a resumed run repeats an unbroken one."""

    def __init__(self, settings: Settings) -> None:
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("--device cuda: PyTorch finds no GPU")
        self.settings = settings
        dataset = data.load(settings.data, "train")
        self.images = torch.from_numpy(data.to_model(dataset.images, settings.size)).to(settings.device)
        self.labels = torch.from_numpy(dataset.labels).to(settings.device)
        family = import_module(f"models.{settings.family}.loss")
        objective = {**family.OBJECTIVE, **settings.objective}
        self.card = checkpoint.Card(
            name=settings.name or settings.family,
            family=settings.family,
            shape=(self.images.shape[1], settings.size, settings.size),
            classes=dataset.classes,
            noise_schedule=family.SCHEDULE,
            network={**family.NETWORK, **settings.network},
            recommended_steps=settings.recommended_steps,
            training={
                **settings.model_dump(mode="json", exclude={"output", "data", "start", "save_every"}),
                "start": settings.start and checkpoint.digest(settings.start),
                "objective": objective,
                "data_digest": dataset.digest,
                "packages": {name: version(name) for name in PACKAGES},
            },
        )
        torch.manual_seed(settings.seed)
        network = self.card.build()
        if settings.start:
            checkpoint.load_matching(network, settings.start)
        network.to(settings.device)
        self.objective: Objective = family.Objective(network, settings.learning_rate, **objective)
        self.ema = {k: v.clone() for k, v in self.objective.modules["network"].state_dict().items()}
        self.batches_done = 0
        self.history: list[tuple[int, float]] = []
        self._recent: list[float] = []
        # A state without a card is from a run that died in its first save.
        if (settings.output / STATE).exists() and (settings.output / checkpoint.CARD).exists():
            self._restore()

    def run(self) -> None:
        """Trains to the end, with a checkpoint and a picture now and then."""
        size = self.settings.batch_size
        batches = math.ceil(self.settings.images / size)
        parameters = sum(p.numel() for p in self.objective.modules["network"].parameters())
        print(f"{parameters:,} parameters, {len(self.images):,} images", flush=True)
        done = self.batches_done * size
        with tqdm(total=batches * size, initial=done, unit="image", unit_scale=True, smoothing=0.05) as bar:
            for batch in range(self.batches_done, batches):
                self._train_on(batch, batches)
                bar.update(size)
                if self.history:
                    bar.set_postfix(loss=f"{self.history[-1][1]:.4f}", refresh=False)
                if self.batches_done % self.settings.save_every == 0 or self.batches_done == batches:
                    self._save()

    def _train_on(self, batch: int, batches: int) -> None:
        warmup = min(1.0, (batch + 1) / WARMUP_BATCHES)
        rate = self.settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * batch / batches))
        for optimizer in self.objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        mixed = self.settings.precision == "bfloat16"  # the weights themselves stay float32
        with torch.autocast(self.settings.device, torch.bfloat16, enabled=mixed):
            loss = self.objective.step(*self._batch(batch))
        self._recent.append(loss)
        weight = 1 - min(EMA_DECAY, (1 + batch) / (10 + batch))
        network = self.objective.modules["network"]
        averaged = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        for name, value in network.state_dict().items():
            if name in averaged:
                self.ema[name].lerp_(value, weight)
            else:  # what is not trained, or not any more, must be the network's own
                self.ema[name].copy_(value)
        self.batches_done = batch + 1
        if self.batches_done % HISTORY_EVERY == 0:
            self.history.append((self.batches_done, float(np.mean(self._recent))))
            self._recent.clear()

    def _batch(self, batch: int) -> tuple[Tensor, Tensor, Generator]:
        """The images and labels of a batch, an epoch being a permutation drawn from (seed, epoch)."""
        size, n = self.settings.batch_size, len(self.images)
        wanted = np.arange(batch * size, (batch + 1) * size)
        epochs = wanted // n
        picked = np.concatenate([self._permutation(int(e))[wanted[epochs == e] % n] for e in np.unique(epochs)])
        generator = Generator(self.images.device).manual_seed(_seed(self.settings.seed, 1, batch))
        y = self.labels[picked].clone()
        dropped = torch.rand(len(y), generator=generator, device=y.device) < self.settings.label_dropout
        y[dropped] = len(self.card.classes)
        return self.images[picked], y, generator

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng(_seed(self.settings.seed, 0, epoch)).permutation(len(self.images))

    def _ema_network(self) -> nn.Module:
        network = self.card.build()
        network.load_state_dict(self.ema)
        return network.eval()

    def _save(self) -> None:
        """The state first, the checkpoint's card last: a crash between two files leaves a run that goes on."""
        output = self.settings.output
        output.mkdir(parents=True, exist_ok=True)
        state = {f"ema.{name}": value for name, value in self.ema.items()}
        for part, module in self.objective.modules.items():
            state |= {f"module.{part}.{name}": value for name, value in module.state_dict().items()}
        for part, optimizer in self.objective.optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{part}.{index}.{name}": value for name, value in moments.items()}
        state["batches_done"] = torch.tensor(self.batches_done)
        state["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(-1, 2)
        state["recent"] = torch.tensor(self._recent, dtype=torch.float64)
        network = self._ema_network()
        self.card.noise_schedule = self.objective.schedule(network)
        self.card.training["images_seen"] = self.batches_done * self.settings.batch_size
        checkpoint.save_replacing(state, output / STATE)
        checkpoint.save(output, self.card, self.ema)
        self._draw(network)

    def _restore(self) -> None:
        output = self.settings.output
        before = json.loads((output / checkpoint.CARD).read_text())["training"]
        given = self.card.training
        changed = sorted(key for key in given if key not in MAY_CHANGE and before.get(key) != given[key])
        if changed:
            raise SystemExit(f"{output} was begun with other settings ({', '.join(changed)}): choose another output")
        state = load_file(output / STATE)
        self.ema = {name: value.to(self.images.device) for name, value in _below("ema", state).items()}
        for part, module in self.objective.modules.items():
            module.load_state_dict(_below(f"module.{part}", state))
        for part, optimizer in self.objective.optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(f"optimizer.{part}", state).items():
                index, _, name = key.partition(".")
                moments.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.batches_done = int(state["batches_done"])
        self.history = [(int(batch), loss) for batch, loss in state["history"].tolist()]
        self._recent = state["recent"].tolist()

    def _draw(self, network: nn.Module) -> None:
        """The loss so far as CSV and curve, and ten samples of each class."""
        output = self.settings.output
        with (output / HISTORY).open("w", newline="") as file:
            csv.writer(file).writerows([("batch", "loss"), *self.history])
        figure, axes = pyplot.subplots(figsize=(7, 4))
        axes.plot([batch for batch, _ in self.history], [loss for _, loss in self.history])
        axes.set(xlabel="batch", ylabel="loss", yscale="log", title=self.card.name)
        figure.savefig(output / "loss.png", dpi=100)
        pyplot.close(figure)
        plan = families.default_plan(self.card.family, self.card.noise_schedule, self.card.recommended_steps)
        y = torch.arange(len(self.card.classes)).repeat_interleave(10)
        images = sample(network, plan, y, self.card.state_shape, self.card.latent, seed=0)
        if self.card.decodes:
            with torch.no_grad():
                images = network.decode(images)  # type: ignore[operator]  # a module's attribute may be a tensor
        grid(images, columns=10).save(output / "samples.png")


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of `state` under `prefix.`, by the rest of their names."""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}


def _seed(*key: int) -> int:
    """A 63-bit seed from a key of integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


if __name__ == "__main__":
    CliApp.run(Settings)
