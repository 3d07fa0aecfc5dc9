"""Trains a model. Stopped, it goes on where it was: all that is random comes from (seed, batch)."""

import contextlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from models import atomic, checkpoint, data, pictures, training_card
from models.failures import Interrupted, TrainError
from models.memory import check_fits
from models.stop_signals import stop_signals
from models.train import Settings
from models.training_state import STATE, State, locked

EMA_DECAY = 0.9995
WARMUP_BATCHES = 500
HISTORY_EVERY = 50  # batches that a point of the loss curve is the mean of
MAY_CHANGE = {"images", "packages"}  # of a run's settings: more images make a run longer, its schedule with it


class Objective(Protocol):
    """`models/FAMILY/loss.py` has an `Objective(network, learning_rate, **settings)` of this kind, and the defaults:
    OBJECTIVE of its settings, SCHEDULE of the noise schedule that training starts with, RECOMMENDED_STEPS of a
    request, and `network_settings(size)`, the network's for images of size × size."""

    modules: Mapping[str, nn.Module]  # all that is trained; "network" is the one that is exported
    optimizers: Mapping[str, Optimizer]

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        """Trains on a batch, x (n, C, H, W) in [−1, 1] and y (n,); returns the loss to show. All are on one device."""
        ...

    def schedule(self, network: nn.Module) -> dict[str, Any]:
        """The noise schedule of a network of this family, as the manifest carries it."""
        ...


class Training:
    """The loop. Settings and data are checked when it is made; it touches the disk in `run` only."""

    def __init__(self, settings: Settings) -> None:
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise TrainError("--device cuda: PyTorch finds no GPU")
        self.settings = settings
        dataset = data.load(settings.data, "train")
        self.summary = str(dataset)
        self.card = training_card.create(settings, dataset)
        size = self.card.shape[1]
        batch_bytes = 4 * settings.batch_size * math.prod(self.card.shape)
        check_fits(batch_bytes, f"--batch-size {settings.batch_size}: the images")
        self.images = torch.from_numpy(data.to_model(dataset.images, size)).to(settings.device)
        self.labels = torch.from_numpy(dataset.labels).to(settings.device)
        torch.manual_seed(settings.seed)
        network = self.card.build()
        if settings.start:
            checkpoint.load_matching(network, settings.start)
        training_card.check_one_image(self.card, network)
        network.to(settings.device)
        family = training_card.loss_module(settings.family)
        self.objective: Objective = family.Objective(network, settings.learning_rate, **self.card.training["objective"])
        ema = {name: value.clone() for name, value in network.state_dict().items()}
        self.state = State(self.objective.modules, self.objective.optimizers, ema)
        self._saved_batches = 0

    def run(self) -> None:
        """Trains to the end, with a checkpoint and a picture now and then.

        Raises TrainError for a folder that is in use or has other files, a loss or weight that is not finite, and a
        disk that is full; Interrupted after a signal, when all is saved. What was saved before stays whole.
        """
        parameters = sum(p.numel() for p in self.objective.modules["network"].parameters())
        print(f"{self.settings.data}: {self.summary}", flush=True)
        print(f"{self.card.family}: {parameters:,} parameters, images of {self.card.shape}", flush=True)
        with locked(self.settings.output), stop_signals() as received:
            self.restore()
            self._train(received)

    def _train(self, received: list[int]) -> None:
        size = self.settings.batch_size
        batches = math.ceil(self.settings.images / size)
        done = self.state.batches_done * size
        shown: Any = _Unfailing()
        with tqdm(total=batches * size, initial=done, unit="image", unit_scale=True, smoothing=0.05, file=shown) as bar:
            for batch in range(self.state.batches_done, batches):
                self._train_on(batch, batches)
                bar.update(size)
                if self.state.history:
                    bar.set_postfix(loss=f"{self.state.history[-1][1]:.4f}", refresh=False)
                now = batch + 1
                if now % self.settings.save_every == 0 or now == batches or received:
                    self._save()
                if received and now < batches:
                    raise Interrupted(
                        f"stopped: {self.settings.output} has batch {now} of {batches}; the same command goes on",
                        received[0],
                    )

    def _train_on(self, batch: int, batches: int) -> None:
        warmup = min(1.0, (batch + 1) / WARMUP_BATCHES)
        rate = self.settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * batch / batches))
        for optimizer in self.objective.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        mixed = self.settings.precision == "bfloat16"  # the weights themselves stay float32
        with torch.autocast(self.settings.device, torch.bfloat16, enabled=mixed):
            loss = self.objective.step(*self._batch(batch))
        if not math.isfinite(loss):
            raise TrainError(f"batch {batch + 1} has a loss of {loss}: {self._way_on()}")
        self._average(1 - min(EMA_DECAY, (1 + batch) / (10 + batch)))
        self.state.batches_done = batch + 1
        self.state.recent.append(loss)
        if self.state.batches_done % HISTORY_EVERY == 0:
            self.state.history.append((self.state.batches_done, float(np.mean(self.state.recent))))
            self.state.recent.clear()

    def _average(self, weight: float) -> None:
        """Moves the averaged weights by `weight` towards the network's."""
        network = self.objective.modules["network"]
        averaged = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        for name, value in network.state_dict().items():
            if name in averaged:
                self.state.ema[name].lerp_(value, weight)
            else:  # what is not trained, or not any more, must be the network's own
                self.state.ema[name].copy_(value)

    def _batch(self, batch: int) -> tuple[Tensor, Tensor, Generator]:
        """The images and labels of a batch, an epoch being a permutation drawn from (seed, epoch)."""
        size, n = self.settings.batch_size, len(self.images)
        places = np.arange(batch * size, (batch + 1) * size)
        epochs = places // n
        picked = np.concatenate([self._permutation(int(e))[places[epochs == e] % n] for e in np.unique(epochs)])
        generator = Generator(self.images.device).manual_seed(_seed(self.settings.seed, 1, batch))
        y = self.labels[picked].clone()
        dropped = torch.rand(len(y), generator=generator, device=y.device) < self.settings.label_dropout
        y[dropped] = len(self.card.classes)
        x = self.images[picked]
        if self.settings.flips:
            mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
            x[mirrored] = x[mirrored].flip(3)
        return x, y, generator

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng(_seed(self.settings.seed, 0, epoch)).permutation(len(self.images))

    def _save(self) -> None:
        """Replaces state, checkpoint and pictures together."""
        state, output = self.state.tensors(), self.settings.output
        if name := checkpoint.not_finite(state):
            raise TrainError(f"after batch {self.state.batches_done}, {name} is not finite: {self._way_on()}")
        network, weights = self.card.build(), checkpoint.halved(self.state.ema)
        if name := checkpoint.not_finite(weights):
            raise TrainError(f"after batch {self.state.batches_done}, float16 cannot hold {name}: {self._way_on()}")
        network.load_state_dict(weights)
        self.card.noise_schedule = self.objective.schedule(network.eval())
        self.card.training["images_seen"] = self.state.batches_done * self.settings.batch_size
        try:
            with atomic.replacing(output) as partial:
                checkpoint.write_tensors(state, partial / STATE)
                checkpoint.write(partial, self.card, weights)
                pictures.draw_history(partial, self.card.name, self.state.history)
                pictures.draw_samples(partial, self.card, network)
        except OSError as error:
            raise TrainError(f"{error}: {self._left()}; make room, and the same command goes on") from error
        self._saved_batches = self.state.batches_done

    def restore(self) -> None:
        """Takes up the state that is in the folder, if there is one. Raises TrainError if that is not this run's."""
        output = self.settings.output
        atomic.finish(output)
        if not (output / STATE).exists():
            _check_empty(output)
            return
        defaults = {name: field.default for name, field in Settings.model_fields.items()}  # of settings that are newer
        before, now = {**defaults, **checkpoint.read_card(output).training}, self.card.training
        changed = sorted(key for key in now if key not in MAY_CHANGE and before.get(key) != now[key])
        if changed:
            raise TrainError(f"{output} was begun with other settings ({', '.join(changed)}): choose another --output")
        try:
            self.state.restore(checkpoint.read_tensors(output / STATE))
        except (KeyError, ValueError, RuntimeError) as error:
            problem = checkpoint.one_line(error)
            raise TrainError(f"{output / STATE}: not a state of this training ({problem})") from error
        self._saved_batches = self.state.batches_done

    def _left(self) -> str:
        if not self._saved_batches:
            return "nothing is saved yet"
        return f"{self.settings.output} keeps batch {self._saved_batches}, whole"

    def _way_on(self) -> str:
        """Of what a lower learning rate may cure."""
        start = f"--start {self.settings.output}, another --output and " if self._saved_batches else ""
        return f"stopped; {self._left()}; try {start}a lower --learning-rate"


class _Unfailing:
    """stderr, whose end (a full disk under a log, a terminal that is gone) must not be the training's."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def _check_empty(output: Path) -> None:
    """Raises TrainError for a folder with files: a training would replace some of them."""
    names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    if names:
        start = f", and --start {output} to begin from its weights" if checkpoint.WEIGHTS in names else ""
        raise TrainError(f"{output}: it has files and no training to go on with: choose another --output{start}")


def _seed(*key: int) -> int:
    """A 63-bit seed from a key of integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
