"""The locks: every file that is installed is known by its hash, and they follow pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

LOCKS = sorted((REPOSITORY / "locks").glob("*.txt"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
LOCKED_GROUPS = {
    "serve": ["serve", "cpu", "tracing"],
    "gpu": ["serve", "gpu", "tracing"],
    "load": ["load"],
    "sbom": ["sbom"],
    "aiperf": ["aiperf"],
    "cluster": ["serve", "cpu", "tracing", "cluster"],
    "dev": [name for name in GROUPS if name not in ("gpu", "tensorrt", "sbom", "aiperf", "cluster")],
}


def requirements(lock: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Each requirement of a lock with its hashes, by name."""
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    parsed = {}
    for line in (line for line in lines if not line.startswith("#")):
        requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        parsed[canonicalize_name(Requirement(requirement).name)] = Requirement(requirement), hashes
    return parsed


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_has_one_version_and_the_hashes_of_its_files(lock: Path) -> None:
    locked = requirements(lock)
    assert locked
    for requirement, hashes in locked.values():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("name", LOCKED_GROUPS)
def test_the_lock_holds_what_pyproject_asks_for(name: str) -> None:
    declared = [Requirement(line) for group in LOCKED_GROUPS[name] for line in GROUPS[group]]
    declared += [Requirement(line) for line in PROJECT["project"]["dependencies"]] if name == "dev" else []
    locked = requirements(REPOSITORY / "locks" / f"{name}.txt")
    locked |= requirements(REPOSITORY / "locks" / "torch-gpu.txt") if name == "dev" else {}
    for requirement in declared:
        version = next(iter(locked[canonicalize_name(requirement.name)][0].specifier)).version
        assert requirement.specifier.contains(version), requirement


def test_torch_has_one_version_in_its_builds_for_cpus_and_gpus() -> None:
    cpu, gpu = (
        requirements(REPOSITORY / "locks" / f"torch-{device}.txt")["torch"][0].specifier for device in ("cpu", "gpu")
    )
    declared = next(Requirement(line) for line in GROUPS["train"] if line.startswith("torch"))
    assert declared.specifier == gpu
    assert str(cpu) == f"{gpu}+cpu"


def test_nothing_is_installed_without_its_hash() -> None:
    for name in ("run", "Dockerfile"):
        text = (REPOSITORY / name).read_text().replace("\\\n", " ")
        installs = re.findall(r"^[^#\n]*pip.*? install .*", text, re.MULTILINE)
        assert installs, name
        assert all("--require-hashes" in install for install in installs), name
