"""A family is its folder: the one that docs/adding-a-method.md walks through trains, exports and is served."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from loadtests.server_process import serving
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "adding-a-method.md"
FILE = re.compile(r"^`(models/flow/\w+\.py)`.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The project's packages with the page's folder added, and a data set of two images."""
    for package in ("bundle", "models", "export", "service"):
        shutil.copytree(REPOSITORY / package, tmp_path / package)
    (tmp_path / "models" / "flow").mkdir()
    (tmp_path / "models" / "flow" / "__init__.py").touch()
    for name, code in FILE.findall(PAGE.read_text()):
        (tmp_path / name).write_text(code)
    for label in ("dark", "light"):
        path = tmp_path / "data" / "train" / label / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 200 * (label == "light"), dtype=np.uint8)).save(path)
    return tmp_path


def test_the_family_of_the_page_is_trained_exported_and_served(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tree))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train = ["models.train", "--family", "flow", "--data", "data", "--output", "runs/flow", "--size", "8"]
    small = ["--images", "4", "--batch-size", "2", "--recommended-steps", "2", "--network", '{"channels": [8, 32]}']
    for command in ([*train, *small], ["export", "runs/flow", "-o", "bundles/flow"]):
        subprocess.run([sys.executable, "-m", *command], cwd=tree, check=True)
    monkeypatch.setattr("loadtests.server_process.REPOSITORY", tree)
    with serving(tree / "bundles") as url:
        (method,) = httpx.get(f"{url}/methods").json()
        assert (method["family"], method["steps"]["max"]) == ("flow", 1000)
        body = {"method": "flow", "steps": 3, "seed": 1, "class_label": "light"}
        answer = httpx.post(f"{url}/generate", json=body).json()
        assert (answer["solver"], answer["steps"], len(answer["images"])) == ("euler", 3, 1)
