"""What a training learns from, what it writes, and that its averages, rates and losses are those of the formulas."""

import csv
import hashlib
import json
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from models import checkpoint, data, training_loop
from models.ddim.loss import loss
from models.training_loop import Training
from models.training_state import STATE
from tests.models.tiny_training import BATCHES, CLASSES, FILES, IMAGES, contents, settings, watch

pytestmark = pytest.mark.usefixtures("one_thread")

NO_CLASS = len(CLASSES)


# --- what a run writes ---------------------------------------------------------------------------------------------


def test_a_run_may_begin_from_anothers_weights_where_they_fit(images: Path, tmp_path: Path, unbroken: Path) -> None:
    start = load_file(unbroken / checkpoint.WEIGHTS)
    wider = {"channels": [8, 64]}  # as far as its first level, the same
    training = Training(settings(images, tmp_path / "new", start=unbroken, network=wider))
    own = training.objective.modules["network"].state_dict()
    fitting = [name for name, value in start.items() if value.shape == own[name].shape]
    assert 0 < len(fitting) < len(start)
    assert all(
        torch.equal(own[name], start[name]) and torch.equal(training.state.ema[name], start[name]) for name in fitting
    )
    assert training.card.training["start"] == hashlib.sha256((unbroken / checkpoint.WEIGHTS).read_bytes()).hexdigest()


def test_bfloat16_is_for_the_products_and_never_for_the_weights(images: Path, tmp_path: Path, unbroken: Path) -> None:
    Training(settings(images, tmp_path, precision="bfloat16")).run()
    mixed, plain = (load_file(folder / "state.safetensors") for folder in (tmp_path, unbroken))
    mixed, plain = ({n: v for n, v in state.items() if n.startswith("ema.")} for state in (mixed, plain))
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    far = max((mixed[name] - plain[name]).abs().max().item() for name in plain)
    assert 0 < far < 0.05


def test_a_checkpoint_has_float16_weights_and_its_network_computes_in_float32(unbroken: Path) -> None:
    stored = load_file(unbroken / checkpoint.WEIGHTS)
    averages = load_file(unbroken / STATE)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert all(torch.equal(value, averages[f"ema.{name}"].half()) for name, value in stored.items())
    _, network = checkpoint.load(unbroken)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert all(torch.equal(value, stored[name].float()) for name, value in network.state_dict().items())


def test_a_run_leaves_the_checkpoint_its_state_and_two_pictures(unbroken: Path) -> None:
    assert sorted(contents(unbroken)) == sorted(FILES)
    with Image.open(unbroken / "samples.png") as picture:
        assert picture.size == (10 * 8, len(CLASSES) * 8)
    with Image.open(unbroken / "loss.png") as picture:
        assert picture.format == "PNG"
        picture.verify()


def test_the_card_says_what_the_model_is_and_where_it_is_from(images: Path, tmp_path: Path) -> None:
    options = settings(images, tmp_path / "run", seed=5, label_dropout=0.25, name="tiny")
    Training(options).run()
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["name"] == "tiny"
    assert card["family"] == "ddim"
    assert card["shape"] == [1, 8, 8]
    assert card["classes"] == CLASSES
    assert card["network"] == {"channels": [8, 32]}
    assert card["recommended_steps"] == 2
    origin = card["training"]
    assert origin["data_digest"] == data.load(images, "train").digest
    assert origin["images_seen"] == 5 * BATCHES
    assert origin["packages"] == {name: version(name) for name in ("torch", "diffusers", "numpy", "safetensors")}
    for name, value in options.model_dump(exclude={"data", "output", "save_every"}).items():
        assert origin[name] == value


def test_the_model_is_called_after_its_family_unless_named(images: Path, tmp_path: Path) -> None:
    assert Training(settings(images, tmp_path / "run")).card.name == "ddim"


def test_the_history_is_the_mean_loss_of_every_so_many_batches(images: Path, tmp_path: Path) -> None:
    training = Training(settings(images, tmp_path / "run"))
    step = training.objective.step
    losses: list[float] = []

    def recording(x: Tensor, y: Tensor, generator: Generator) -> float:
        losses.append(step(x, y, generator))
        return losses[-1]

    training.objective.step = recording  # type: ignore[method-assign]
    training.run()
    with (tmp_path / "run" / "loss.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["batch", "loss"]
    assert [int(batch) for batch, _ in rows] == [5, 10]
    assert [float(value) for _, value in rows] == pytest.approx([np.mean(losses[:5]), np.mean(losses[5:10])])


# --- how it trains -------------------------------------------------------------------------------------------------


class Halver(nn.Module):
    """Predicts x/2 + t/1000 + y, which the test can compute by hand."""

    alpha = torch.linspace(0.9, 0.1, 7)
    sigma = (1 - alpha**2).sqrt()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x / 2 + (t / 1000 + y).view(-1, 1, 1, 1)


def test_the_loss_is_the_squared_error_of_the_noise_over_the_signal() -> None:
    x = torch.rand(64, 2, 4, 4, generator=Generator().manual_seed(1)) * 2 - 1
    y = torch.arange(64) % 4
    value = loss(Halver(), x, y, Generator().manual_seed(2))  # type: ignore[arg-type]

    generator = Generator().manual_seed(2)
    times = torch.randint(7, (64,), generator=generator).tolist()
    noise = torch.randn(x.shape, generator=generator).double().numpy()
    assert set(times) == set(range(7))
    errors = []
    for image, eps, t, label in zip(x.double().numpy(), noise, times, y.tolist(), strict=True):
        alpha = 0.9 - t * 0.8 / 6
        noisy = alpha * image + math.sqrt(1 - alpha**2) * eps
        errors.append((eps - (noisy / 2 + t / 1000 + label)) ** 2 / alpha**2)
    assert value.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_training_on_the_same_images_lowers_their_loss(images: Path, tmp_path: Path) -> None:
    training = Training(settings(images, tmp_path / "run"))
    x, y = training.images, training.labels
    losses = [training.objective.step(x, y, Generator().manual_seed(0)) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_flips_mirror_half_of_the_images_and_without_them_none(images: Path, tmp_path: Path) -> None:
    def seen(*, flips: bool) -> Tensor:
        training = Training(settings(images, tmp_path / str(flips), flips=flips))
        training.images = torch.randn(training.images.shape, generator=Generator().manual_seed(0))
        return torch.cat([training._batch(batch)[0] for batch in range(40)])

    plain, mixed = seen(flips=False), seen(flips=True)
    mirrored = (mixed == plain.flip(3)).flatten(1).all(dim=1)
    assert ((mixed == plain).flatten(1).all(dim=1) ^ mirrored).all()
    assert 0.35 < mirrored.double().mean() < 0.65


def test_every_epoch_trains_on_each_image_once_in_an_order_of_its_own(images: Path, tmp_path: Path) -> None:
    greys: list[int] = []
    training = Training(settings(images, tmp_path / "run"))
    watch(training, lambda x, *_: greys.extend(((x[:, 0, 0, 0] + 1) * 127.5 / 20).round().int().tolist()), learn=False)
    training.run()
    epochs = np.array(greys).reshape(-1, IMAGES)
    assert len(epochs) == 5 * BATCHES / IMAGES
    assert (np.sort(epochs, axis=1) == np.arange(IMAGES)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)


def test_every_batch_of_every_seed_has_noise_of_its_own(images: Path, tmp_path: Path) -> None:
    drawn: list[float] = []
    for seed in (0, 1):
        training = Training(settings(images, tmp_path / str(seed), seed=seed))
        watch(training, lambda _x, _y, generator: drawn.append(torch.rand(1, generator=generator).item()), learn=False)
        training.run()
    assert len(set(drawn)) == 2 * BATCHES


def test_a_batch_larger_than_the_data_set_spans_epochs(images: Path, tmp_path: Path) -> None:
    sizes: list[int] = []
    training = Training(settings(images, tmp_path / "run", batch_size=30, images=60))
    watch(training, lambda x, *_: sizes.extend(x[:, 0, 0, 0].unique(return_counts=True)[1].tolist()), learn=False)
    training.run()
    assert len(sizes) == 2 * IMAGES
    assert set(sizes) == {2, 3}  # 30 of 12 images: each twice or three times


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.1, 400), (0.5, 2000), (1.0, 4000)])
def test_labels_are_dropped_at_the_rate_and_else_are_those_of_the_image(
    images: Path, tmp_path: Path, rate: float, expected: int
) -> None:
    dropped = 0
    training = Training(settings(images, tmp_path / "run", label_dropout=rate, batch_size=500, images=4000))

    def count(x: Tensor, y: Tensor, _: Generator) -> None:
        nonlocal dropped
        number = ((x[:, 0, 0, 0] + 1) * 127.5 / 20).round().int()
        kept = y != NO_CLASS
        assert torch.equal(y[kept], number[kept] % 3)
        dropped += int((~kept).sum())

    watch(training, count, learn=False)
    training.run()
    # Within four standard deviations of a binomial distribution.
    assert abs(dropped - expected) <= 4 * math.sqrt(4000 * rate * (1 - rate))


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "WARMUP_BATCHES", 4)
    training = Training(settings(images, tmp_path / "run", learning_rate=0.01))
    rates: list[float] = []
    (optimizer,) = training.objective.optimizers.values()
    watch(training, lambda *_: rates.append(optimizer.param_groups[0]["lr"]), learn=False)
    training.run()
    cosine = [0.01 * (1 + math.cos(math.pi * batch / BATCHES)) / 2 for batch in range(BATCHES)]
    assert rates == pytest.approx([cosine[0] / 4, cosine[1] / 2, cosine[2] * 3 / 4, *cosine[3:]])


def test_the_checkpoint_has_the_moving_average_of_the_weights(images: Path, tmp_path: Path) -> None:
    # A rate at which the weights move by far more than the tolerance below, though it has just begun to warm up.
    training = Training(settings(images, tmp_path / "run", learning_rate=0.1))
    weights: list[dict[str, Tensor]] = []

    def remember(*_: object) -> None:
        state = training.objective.modules["network"].state_dict()
        weights.append({name: value.double() for name, value in state.items()})

    watch(training, remember)
    training.run()
    remember()
    average = weights[0]
    for batch, now in enumerate(weights[1:]):
        decay = min(0.9995, (1 + batch) / (10 + batch))
        average = {name: decay * value + (1 - decay) * now[name] for name, value in average.items()}
    for name, value in training.state.ema.items():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)
