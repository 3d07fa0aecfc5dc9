"""Training never loses work: stopped in any way, it goes on from what was saved to the same end as in one go."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from models import atomic, checkpoint
from models.failures import Failure, TrainError
from models.training_loop import Training
from models.training_state import locked
from tests.conftest import REPOSITORY
from tests.models.killed_training import DEATHS
from tests.models.tiny_training import assert_consistent, at_batch, contents, settings, watch

pytestmark = pytest.mark.usefixtures("one_thread")


def crash() -> None:
    raise MemoryError("the machine is out of memory")


# --- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_in", [0, 3, 4, 10])
def test_a_resumed_run_equals_an_unbroken_one(images: Path, tmp_path: Path, unbroken: Path, crash_in: int) -> None:
    output = tmp_path / "broken"
    with pytest.raises(MemoryError):
        at_batch(Training(settings(images, output)), crash_in, crash).run()
    resumed = Training(settings(images, output))
    resumed.restore()
    assert resumed.state.batches_done == crash_in // 4 * 4
    Training(settings(images, output)).run()
    assert contents(output) == contents(unbroken)


def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_end(images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.models.killed_training", str(images), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, env=environment, check=True)
    left = [tmp_path / f"{i}.killed" for i in range(DEATHS)]
    saved = [folder for folder in left if any(path.name != ".lock" for path in folder.iterdir() if path.is_file())]
    assert len(saved) > DEATHS / 4  # not all died before the first save
    for folder in saved:
        assert_consistent(folder)
    unbroken = contents(tmp_path / "unbroken")
    assert all(contents(tmp_path / f"{i}") == unbroken for i in range(DEATHS))


def test_a_folder_that_was_committed_and_not_moved_is_finished_by_whoever_reads_it(
    unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    complete = folder / atomic.COMPLETE
    shutil.copytree(unbroken, complete)
    (folder / checkpoint.CARD).write_text("old")
    (complete / "state.safetensors").rename(folder / "state.safetensors")
    (complete / ".lock").unlink()
    checkpoint.load(folder)
    assert contents(folder) == contents(unbroken)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_as_one(
    unbroken: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    Training(settings(images, output, images=20)).run()
    read, newer = checkpoint.read_tensors, iter([unbroken])

    def replaced_before(path: Path) -> dict[str, Tensor]:
        for source in newer:
            shutil.copytree(source, output, dirs_exist_ok=True)
        return read(path)

    card, weights = read_both(output)
    monkeypatch.setattr(checkpoint, "read_tensors", replaced_before)
    assert checkpoint.load(output)[0] != card
    assert read_both(output) != (card, weights)


def read_both(folder: Path) -> tuple[checkpoint.Card, int]:
    return checkpoint.read_card(folder), hash((folder / checkpoint.WEIGHTS).read_bytes())


# --- disks and other processes -------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> object:
    """Limits the size of a file that this process may write, which fails in a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1_000_000, 100_000, 100])  # too small for the state, for the weights, for the card
def test_a_disk_that_is_full_leaves_the_last_save_and_says_so(
    images: Path, tmp_path: Path, unbroken: Path, small_files: Callable[[int], None], size: int
) -> None:
    output = tmp_path / "run"
    training = at_batch(Training(settings(images, output)), 6, lambda: small_files(size))
    with pytest.raises(TrainError, match=rf"{output} keeps batch 4, whole; make room, and the same command goes on"):
        training.run()
    small_files(resource.RLIM_INFINITY)
    assert sorted(contents(output)) == sorted(contents(unbroken))
    assert_consistent(output)
    Training(settings(images, output)).run()
    assert contents(output) == contents(unbroken)


def test_a_second_training_in_a_folder_is_refused_while_the_first_runs(
    images: Path, tmp_path: Path, unbroken: Path
) -> None:
    output = tmp_path / "run"
    refusals: list[str] = []

    def second() -> None:
        with pytest.raises(TrainError) as caught:
            Training(settings(images, output)).run()
        refusals.append(str(caught.value))

    at_batch(Training(settings(images, output)), 5, second).run()
    assert refusals == [f"{output}: another training is at work there: choose another --output"]
    assert contents(output) == contents(unbroken)


def test_the_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    hold = f"""
from pathlib import Path
from models.training_state import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(TrainError, match="another training is at work"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "manifest.json"])
def test_a_folder_with_other_files_is_not_trained_into(images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(TrainError, match=rf"^{tmp_path}: it has files and no training to go on with") as caught:
        Training(settings(images, tmp_path)).run()
    assert ("--start" in str(caught.value)) == (name == "model.safetensors")
    assert contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize(
    "damage", [lambda state: state[:-40], lambda _: b"", lambda state: state[:9] + b"\0" + state[10:]]
)
def test_a_state_that_cannot_be_read_is_refused_by_name(
    images: Path, tmp_path: Path, unbroken: Path, damage: Callable[[bytes], bytes]
) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "state.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    before = contents(tmp_path)
    with pytest.raises(Failure, match=rf"^{path}: "):
        Training(settings(images, tmp_path, images=100)).run()
    assert contents(tmp_path) == before


# --- going on under other conditions -------------------------------------------------------------------------------


def test_a_run_may_go_on_elsewhere_and_save_more_or_less_often(images: Path, tmp_path: Path, unbroken: Path) -> None:
    with pytest.raises(MemoryError):
        at_batch(Training(settings(images, tmp_path / "first", save_every=3)), 7, crash).run()
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
        ("size", 12),
    ],
)
def test_other_settings_are_refused_by_name(images: Path, unbroken: Path, change: str, value: object) -> None:
    before = contents(unbroken)
    with pytest.raises(TrainError, match=rf"^{unbroken} was begun with other settings \({change}\)"):
        Training(settings(images, unbroken, **{change: value})).run()
    assert contents(unbroken) == before


def test_a_run_of_before_a_setting_goes_on_with_its_default(images: Path, tmp_path: Path, unbroken: Path) -> None:
    older = shutil.copytree(unbroken, tmp_path / "older")
    card = json.loads((older / checkpoint.CARD).read_text())
    del card["training"]["flips"]
    (older / checkpoint.CARD).write_text(json.dumps(card))
    Training(settings(images, older)).restore()
    with pytest.raises(TrainError, match="other settings \\(flips\\)"):
        Training(settings(images, older, flips=True)).restore()


def test_other_data_are_refused(images: Path, tmp_path: Path, unbroken: Path) -> None:
    other = shutil.copytree(images, tmp_path / "other")
    Image.new("L", (8, 8), 7).save(other / "train" / "a" / "new.png")
    with pytest.raises(TrainError, match=rf"^{unbroken} was begun with other settings \(data_digest\)"):
        Training(settings(other, unbroken)).run()


def test_another_seed_gives_other_weights(images: Path, tmp_path: Path, unbroken: Path) -> None:
    Training(settings(images, tmp_path, seed=1)).run()
    assert contents(tmp_path)["model.safetensors"] != contents(unbroken)["model.safetensors"]
