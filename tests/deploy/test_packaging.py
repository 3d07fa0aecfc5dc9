"""The distribution: the client and its command, and nothing of the server."""

import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
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
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel puts into site-packages."""
    built, unpacked = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("unpacked")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(built)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    with ZipFile(next(built.glob("trilemma-*.whl"))) as wheel:
        wheel.extractall(unpacked)
    return unpacked


def distribution(site_packages: Path) -> metadata.PathDistribution:
    return metadata.PathDistribution(next(site_packages.glob("*.dist-info")))


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


def test_only_the_client_lands_in_site_packages(site_packages: Path) -> None:
    version = distribution(site_packages).version
    assert {path.name for path in site_packages.iterdir()} == {"trilemma", f"trilemma-{version}.dist-info"}
    modules = {path.name for path in (REPOSITORY / "trilemma").glob("*.py")}
    assert {path.name for path in (site_packages / "trilemma").iterdir()} == modules


def test_installing_it_brings_what_a_client_needs_and_no_server(site_packages: Path) -> None:
    about = distribution(site_packages)
    assert {Requirement(line).name for line in about.requires or []} == {
        "httpx", "httpx-retries", "httpx-sse", "numpy", "pillow", "rich", "textual-image"
    }  # fmt: skip
    assert about.metadata.get_all("Provides-Extra") is None
    assert not needed(about.requires or []) & {"fastapi", "uvicorn", "onnxruntime", "pydantic", "prometheus-client"}
    assert [(point.name, point.value) for point in about.entry_points] == [("trilemma", "trilemma.command:main")]


def test_the_client_runs_with_only_what_installing_it_brings(site_packages: Path) -> None:
    brought = needed(distribution(site_packages).requires or [])
    missing = [
        module
        for module, distributions in metadata.packages_distributions().items()
        if not brought & {canonicalize_name(each) for each in distributions}
    ]
    assert "fastapi" in missing
    command = [sys.executable, "-P", "-c", IMPORT, str(site_packages), *missing]
    ended = subprocess.run(command, cwd=site_packages, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "generate" in ended.stdout
