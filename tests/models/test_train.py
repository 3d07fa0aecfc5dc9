"""Training repeats itself: broken off anywhere and resumed, it ends with the same bytes as in one go."""

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from pydantic_settings import CliApp
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from models import checkpoint, data, train
from models.ddim.loss import loss
from models.train import Settings, Training

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["a", "b", "c"]
NO_CLASS = len(CLASSES)
IMAGES = 12
BATCHES = 12
FILES = ["model.json", "model.safetensors", "state.safetensors", "loss.csv", "loss.png", "samples.png"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 8×8, number i of one grey 20·i and of class i mod 3, so that each is told by its first pixel."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(IMAGES):
        path = folder / "train" / CLASSES[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * i, dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _a_point_of_the_history_every_5_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "HISTORY_EVERY", 5)
        yield


def settings(folder: Path, output: Path, /, **changes: Any) -> Settings:
    """A run of BATCHES batches of a tiny network, with the checkpoint written after 4, 8 and 12 of them."""
    tiny: dict[str, Any] = {
        "network": {"channels": [8, 32]},
        "size": 8,
        "batch_size": 5,
        "images": 5 * BATCHES,
        "save_every": 4,
        "recommended_steps": 2,
    }
    return Settings(data=folder, output=output, **{**tiny, **changes})


def watch(training: Training, before: Callable[..., None], *, learn: bool = True) -> None:
    """Calls `before(x, y, generator)` with every batch; the network learns from it unless `learn` is false."""
    step = training.objective.step

    def watched(x: Tensor, y: Tensor, generator: Generator) -> float:
        before(x, y, generator)
        return step(x, y, generator) if learn else 1.0

    training.objective.step = watched  # type: ignore[method-assign]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- stopping and going on -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run in one go."""
    output = tmp_path_factory.mktemp("unbroken")
    Training(settings(images, output)).run()
    return output


@pytest.mark.parametrize("stop_in", [0, 3, 4, 10])
def test_a_resumed_run_equals_an_unbroken_one(images: Path, tmp_path: Path, unbroken: Path, stop_in: int) -> None:
    broken = Training(settings(images, tmp_path / "broken"))

    def stop(*_: object) -> None:
        if broken.batches_done == stop_in:
            raise KeyboardInterrupt

    watch(broken, stop)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Training(settings(images, tmp_path / "broken"))
    assert resumed.batches_done == stop_in // 4 * 4
    resumed.run()
    assert contents(tmp_path / "broken") == contents(unbroken)


@pytest.mark.parametrize("save", [1, 2])
@pytest.mark.parametrize("file", ["state.safetensors", "model.safetensors", "model.json"])
def test_a_run_that_died_while_it_wrote_a_file_goes_on_to_the_same_end(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path, file: str, save: int
) -> None:
    replace, saves = Path.replace, []

    def die_half_way(partial: Path, target: Path) -> Path:
        if target.name == file:
            saves.append(target)
            if len(saves) == save:
                partial.write_bytes(partial.read_bytes()[: partial.stat().st_size // 2])
                raise KeyboardInterrupt
        return replace(partial, target)

    output = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_half_way)
        with pytest.raises(KeyboardInterrupt):
            Training(settings(images, output)).run()
    if save > 1:
        checkpoint.load(output)  # is usable meanwhile
    Training(settings(images, output)).run()
    assert contents(output) == contents(unbroken)


def test_a_run_may_go_on_elsewhere_and_save_more_or_less_often(images: Path, tmp_path: Path, unbroken: Path) -> None:
    first = Training(settings(images, tmp_path / "first", save_every=3))

    def stop(*_: object) -> None:
        if first.batches_done == 7:
            raise KeyboardInterrupt

    watch(first, stop)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    (tmp_path / "first").rename(tmp_path / "second")
    moved = shutil.copytree(images, tmp_path / "moved")
    Training(settings(moved, tmp_path / "second", save_every=100)).run()
    assert contents(tmp_path / "second") == contents(unbroken)


def test_a_finished_run_is_left_as_it_is(images: Path, unbroken: Path) -> None:
    before = contents(unbroken)
    again = Training(settings(images, unbroken))
    watch(again, lambda *_: pytest.fail("trained on"))
    again.run()
    assert contents(unbroken) == before


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("batch_size", 4),
        ("learning_rate", 2e-3),
        ("label_dropout", 0.2),
        ("seed", 1),
        ("name", "other"),
        ("network", {"channels": [8, 64]}),
        ("recommended_steps", 3),
    ],
)
def test_other_settings_are_refused_by_name(images: Path, unbroken: Path, change: str, value: object) -> None:
    before = contents(unbroken)
    with pytest.raises(SystemExit, match=rf"^{unbroken} was begun with other settings \({change}\)"):
        Training(settings(images, unbroken, **{change: value}))
    assert contents(unbroken) == before


def test_other_data_are_refused(images: Path, tmp_path: Path, unbroken: Path) -> None:
    other = shutil.copytree(images, tmp_path / "other")
    Image.new("L", (8, 8), 7).save(other / "train" / "a" / "new.png")
    with pytest.raises(SystemExit, match=rf"^{unbroken} was begun with other settings \(data_digest\)"):
        Training(settings(other, unbroken))


def test_another_seed_gives_other_weights(images: Path, tmp_path: Path, unbroken: Path) -> None:
    Training(settings(images, tmp_path, seed=1)).run()
    assert contents(tmp_path)["model.safetensors"] != contents(unbroken)["model.safetensors"]


# --- what a run writes ---------------------------------------------------------------------------------------------


def test_a_run_may_begin_from_anothers_weights_where_they_fit(images: Path, tmp_path: Path, unbroken: Path) -> None:
    given = load_file(unbroken / checkpoint.WEIGHTS)
    wider = {"channels": [8, 64]}  # as far as its first level, the same
    training = Training(settings(images, tmp_path / "new", start=unbroken, network=wider))
    own = training.objective.modules["network"].state_dict()
    fitting = [name for name, value in given.items() if value.shape == own[name].shape]
    assert 0 < len(fitting) < len(given)
    assert all(torch.equal(own[name], given[name]) and torch.equal(training.ema[name], given[name]) for name in fitting)
    assert training.card.training["start"] == hashlib.sha256((unbroken / checkpoint.WEIGHTS).read_bytes()).hexdigest()


def test_bfloat16_is_for_the_products_and_never_for_the_weights(images: Path, tmp_path: Path, unbroken: Path) -> None:
    Training(settings(images, tmp_path, precision="bfloat16")).run()
    mixed, plain = (load_file(folder / "model.safetensors") for folder in (tmp_path, unbroken))
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    far = max((mixed[name] - plain[name]).abs().max().item() for name in plain)
    assert 0 < far < 0.05


def test_a_run_leaves_the_checkpoint_its_state_and_two_pictures(unbroken: Path) -> None:
    assert sorted(contents(unbroken)) == sorted(FILES)
    with Image.open(unbroken / "samples.png") as picture:
        assert picture.size == (10 * 8, len(CLASSES) * 8)
    with Image.open(unbroken / "loss.png") as picture:
        assert picture.format == "PNG"
        picture.verify()


def test_the_card_says_what_the_model_is_and_where_it_is_from(images: Path, tmp_path: Path) -> None:
    given = settings(images, tmp_path / "run", seed=5, label_dropout=0.25, name="tiny")
    Training(given).run()
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
    for name, value in given.model_dump(exclude={"data", "output", "save_every"}).items():
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


def test_every_epoch_trains_on_each_image_once_in_an_order_of_its_own(images: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    training = Training(settings(images, tmp_path / "run"))
    watch(training, lambda x, *_: seen.extend(((x[:, 0, 0, 0] + 1) * 127.5 / 20).round().int().tolist()), learn=False)
    training.run()
    epochs = np.array(seen).reshape(-1, IMAGES)
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
    monkeypatch.setattr(train, "WARMUP_BATCHES", 4)
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
    _, network = checkpoint.load(tmp_path / "run")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)


# --- settings ------------------------------------------------------------------------------------------------------


def test_the_command_line_trains(images: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(images), "--output", str(tmp_path / "run"), "--network", '{"channels": [8, 32]}']
    arguments += ["--size", "8", "--batch-size", "2", "--images", "4", "--recommended-steps", "1"]
    CliApp.run(Settings, cli_args=arguments)
    card, _ = checkpoint.load(tmp_path / "run")
    assert card.training["batch_size"] == 2
    assert card.training["images_seen"] == 4


def test_the_environment_does_not_name_the_model_by_accident(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "my-laptop")  # as in WSL
    monkeypatch.setenv("SEED", "77")
    given = settings(images, images)
    assert (given.name, given.seed) == ("", 0)


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"label_dropout": 1.5}, {"images": -1}, {"learning_rate": 0}])
def test_settings_out_of_range_are_refused(images: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        settings(images, images, **change)


def test_a_gpu_that_is_not_there_is_said_to_be_missing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cuda: PyTorch finds no GPU"):
        Training(settings(images, tmp_path, device="cuda"))
