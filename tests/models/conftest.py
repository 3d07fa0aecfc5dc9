"""What the tests of training share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models import training_loop
from models.training_loop import Training
from tests.models.data_files import Store, write, write_zip
from tests.models.tiny_training import settings, write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of `tiny_training`."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session", autouse=True)
def _a_point_of_the_history_every_5_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "HISTORY_EVERY", 5)
        yield


@pytest.fixture(scope="session")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training in one go, on one thread as all of them."""
    output = tmp_path_factory.mktemp("unbroken")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Training(settings(images, output)).run()
    torch.set_num_threads(threads)
    return output


@pytest.fixture(params=["folder", "zip", "zip of a folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Writes files where `load` finds them: in a folder, in a zip, or a folder down in a zip."""
    if request.param == "folder":
        return lambda files: write(tmp_path / "pets", files)
    prefix = "pets/" if request.param == "zip of a folder" else ""
    return lambda files: write_zip(tmp_path / "pets.zip", {prefix + name: content for name, content in files.items()})
