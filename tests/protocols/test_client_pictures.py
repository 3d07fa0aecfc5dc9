"""The client and the command with pictures: the same bytes as `POST /generate`."""

import asyncio
import base64
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SHAPE
from tests.picture_files import half, noisy, png
from tests.protocols.conftest import own
from tests.protocols.test_command import trilemma
from trilemma import AsyncClient, Client, Refused

PICTURE, HOLE = noisy(*SHAPE[1:]), half(*SHAPE[1:])
SEED = {"seed": 7, "steps": 4}


def theirs(url: str, **fields: Any) -> list[bytes]:
    images = json.loads(own(url, "application/json", **SEED, **fields))["images"]
    return [base64.b64decode(image["data"]) for image in images]


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """The picture and the mask as files."""
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    Image.fromarray(HOLE).save(tmp_path / "mask.png")
    return tmp_path / "picture.png", tmp_path / "mask.png"


def test_a_picture_may_be_of_pillow_a_path_or_bytes(url: str, paths: tuple[Path, Path]) -> None:
    expected = theirs(url, image=png(PICTURE), mask=png(HOLE), n=2)
    picture, mask = paths
    with Client(url) as client:
        for image in (Image.fromarray(PICTURE), picture, picture.read_bytes()):
            assert client.generate("toy", image=image, mask=mask, n=2, **SEED).files == expected


def test_an_image_goes_to_its_noise_and_back(url: str) -> None:
    grey = Image.fromarray(np.linspace(100, 150, 16).astype(np.uint8).reshape(SHAPE[1:]))
    with Client(url) as client:
        inverted = client.invert("toy", grey, steps=50)
        assert (inverted.noise.shape, inverted.noise.dtype) == (SHAPE, np.float32)
        back = client.generate(**inverted.fields, seed=0)
        assert client.generate(**{**inverted.fields, "noise": inverted.noise}, seed=0).files == back.files
        between = client.generate(**inverted.fields, to_noise=-inverted.noise, n=3, seed=0)
        assert between.files[0] == back.files[0]
        with pytest.raises(Refused, match="image: it is no picture"):
            client.invert("toy", b"nothing")
    assert np.abs(np.asarray(back.images[0]).astype(int) - np.asarray(grey)).max() < 10

    async def same() -> bytes:
        client = AsyncClient(url)
        noise = (await client.invert("toy", grey, steps=50)).noise
        await client.close()
        return noise.tobytes()

    assert asyncio.run(same()) == inverted.noise.tobytes()


def test_the_command_takes_pictures(url: str, tmp_path: Path, paths: tuple[Path, Path]) -> None:
    picture, mask = map(str, paths)
    common = "generate", "toy", "--seed=7", "--steps=4"
    for options, fields in (
        ([f"--image={picture}", "--strength=0.5"], {"image": png(PICTURE), "strength": 0.5}),
        ([f"--image={picture}", f"--mask={mask}"], {"image": png(PICTURE), "mask": png(HOLE)}),
    ):
        done = trilemma(url, *common, *options, f"-o{tmp_path}/it.png")
        assert done.returncode == 0, done.stderr
        assert [(tmp_path / "it.png").read_bytes()] == theirs(url, **fields)
    done = trilemma(url, *common, "--to-seed=8", "-n3", f"-o{tmp_path}/it.png")
    assert [(tmp_path / f"it-{i}.png").read_bytes() for i in range(3)] == theirs(url, to_seed=8, n=3)


def test_the_command_inverts_and_says_how_to_come_back(url: str, tmp_path: Path, paths: tuple[Path, Path]) -> None:
    noise, back = tmp_path / "the noise.npy", tmp_path / "back.png"
    done = trilemma(url, "invert", "toy", str(paths[0]), "--steps=50", "--class=one", f"-o{noise}")
    assert done.returncode == 0, done.stderr
    name, *arguments = shlex.split(done.stdout.splitlines()[-1].replace("FILE", str(back)))
    assert name == "trilemma"
    assert trilemma(url, *arguments, "--seed=0").returncode == 0
    with Client(url) as client:
        fields = client.invert("toy", paths[0], steps=50, class_label="one").fields
        assert client.generate(**fields, seed=0).files == [back.read_bytes()]
    wrong = trilemma(url, "generate", "toy", f"--noise={paths[0]}", f"-o{back}")
    assert wrong.returncode == 2
