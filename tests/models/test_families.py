"""Families are found by their folder, and planning with them needs NumPy alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from models import families

# Prints the packages that planning brings in, beside those that Python itself had started with.
LOAD_EVERY_PLAN = """
import sys
before = set(sys.modules)
import models.solvers
from models import families
for name in families.names():
    families.find(name)
    assert f"models.{name}.plan" in sys.modules
packages = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(packages - set(sys.stdlib_module_names)))
"""


def test_a_family_is_a_folder_with_a_plan() -> None:
    folders = [path for path in Path(families.__file__).parent.iterdir() if (path / "plan.py").is_file()]
    assert families.names() == sorted(path.name for path in folders)
    assert "ddim" in families.names()


@pytest.mark.parametrize("name", families.names())
def test_every_family_has_solvers_with_defaults_in_their_ranges(name: str) -> None:
    family = families.find(name)
    assert family.SOLVERS
    for solver in family.SOLVERS.values():
        assert solver.summary
        assert all(setting.low <= setting.default <= setting.high for setting in solver.settings.values())


def test_an_unknown_family_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(KeyError, match=r"no family 'dimm': the families are .*ddim"):
        families.find("dimm")


def test_planning_imports_numpy_alone() -> None:
    root = Path(families.__file__).parent.parent
    command = [sys.executable, "-c", LOAD_EVERY_PLAN]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["models", "numpy"]
