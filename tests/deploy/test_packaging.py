"""The distribution: the client and its command, and nothing of the server."""

import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from zipfile import Path as ZipPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

# Only what a fresh environment with the wheel would have may be imported; the project's own folders are out of reach.
IMPORT = """if True:
    import importlib.abc, sys

    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in missing:
                raise ModuleNotFoundError(name)

    wheel, *missing = sys.argv[1:]
    sys.meta_path.insert(0, Missing())
    sys.path.insert(0, wheel)
    from trilemma.command import main
    import trilemma, textual_image.renderable

    assert trilemma.__file__.startswith(wheel)
    main(["--help"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.glob("trilemma-*.whl"))


def needed(requirements: Iterable[str]) -> set[str]:
    """The distributions that the requirements bring, with theirs, as they are installed here."""
    names: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            waiting += [Requirement(line) for line in metadata.requires(name) or []]
    return names


def test_only_the_client_lands_in_site_packages(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
        modules = {name for name in archive.namelist() if name.startswith("trilemma/")}
    assert folders == {"trilemma", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    assert modules == {f"trilemma/{path.name}" for path in (REPOSITORY / "trilemma").glob("*.py")}


def test_installing_it_brings_a_client_s_packages_and_no_server(wheel: Path) -> None:
    about = metadata.PathDistribution(
        next(path for path in ZipPath(wheel).iterdir() if path.name.endswith(".dist-info"))
    )
    assert {Requirement(line).name for line in about.requires or []} == {
        "httpx", "httpx-retries", "httpx-sse", "numpy", "pillow", "rich", "textual-image"
    }  # fmt: skip
    assert about.metadata.get_all("Provides-Extra") is None
    assert not needed(about.requires or []) & {"fastapi", "uvicorn", "onnxruntime", "pydantic", "prometheus-client"}
    assert [(each.name, each.value) for each in about.entry_points] == [("trilemma", "trilemma.command:main")]


def test_the_client_runs_with_only_what_installing_it_brings(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    brought = needed(metadata.PathDistribution(next(tmp_path.glob("*.dist-info"))).requires or [])
    missing = [
        module
        for module, distributions in metadata.packages_distributions().items()
        if not brought & {canonicalize_name(each) for each in distributions}
    ]
    assert "fastapi" in missing
    command = [sys.executable, "-P", "-c", IMPORT, str(tmp_path), *missing]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "generate" in ended.stdout
