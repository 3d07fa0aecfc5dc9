"""Imported models of another size and colour, served: guided images are what the formula gives, in every protocol."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from openai import OpenAI
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput

from bundle.loading import Bundle, load
from importers import __main__ as command
from models.step import Step, update
from service.engine import noise
from service.engine.denoise import denoise
from service.runtimes.cpu import OrtRuntime
from tests.deploy.conftest import serving
from tests.importers import parity, test_dit
from tests.importers.test_diffusers_folder import saved, unet
from tests.service.engine.conftest import job
from trilemma import Client
from trilemma import Step as StreamedStep

Float = NDArray[np.float32]
CLASSES = ["ant", "bee", "cat", "dog"]  # and a row of the table for none
HEIGHT, WIDTH = 16, 24
SEED, STEPS = 7, 4
Network = Callable[[Float, float, int], Float]  # of x (C, H, W), t and a label


def imported(folder: Path, source: Path, name: str, **card: Any) -> Bundle:
    (folder / f"{name}.json").write_text(json.dumps(card))
    options = ["-o", str(folder / "bundles" / name), "--card", str(folder / f"{name}.json"), "--name", name]
    command.run(command.parser().parse_args([str(source), *options]))
    return load(folder / "bundles" / name)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Network]:
    """An RGB model that is wider than high, and diffusers' own network."""
    folder = tmp_path_factory.mktemp("colour")
    small = {"block_out_channels": (32,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = unet(num_class_embeds=len(CLASSES) + 1, sample_size=(HEIGHT, WIDTH), **small)
    source = saved(folder / "published", network, diffusers.DDIMScheduler())

    def run(x: Float, t: float, label: int) -> Float:
        with torch.inference_mode():
            out = network(torch.tensor(x[None]), torch.tensor([t]), class_labels=torch.tensor([label])).sample
        result: Float = out[0].numpy()
        return result

    return imported(folder, source, "colour", format="diffusers", classes=CLASSES), run


@pytest.fixture(scope="module")
def url(colour: tuple[Bundle, Network]) -> Iterator[str]:
    with serving(colour[0].folder.parent, workers=1, max_batch=8) as (url, _):
        yield url


def reference(bundle: Bundle, network: Network, weight: float, guided_channels: int | None, label: int) -> Float:
    """The image by the formula in NumPy: out = none + w·(class − none), then the step as DESIGN.md has it."""
    shape, none = bundle.manifest.state_shape, len(bundle.manifest.classes)
    x: Any = noise.normal(SEED, 0, noise.INITIAL, shape).astype(np.float64)
    x0_prev = np.zeros_like(x)
    for i, row in enumerate(bundle.coefficients(STEPS, bundle.default_solver, defaults(bundle))):
        k = Step(*row.astype(np.float64).tolist())
        of_class = network(x.astype(np.float32), k.t, label).astype(np.float64)
        of_none = network(x.astype(np.float32), k.t, none).astype(np.float64)
        out, drawn = of_class[: shape[0]].copy(), noise.normal(SEED, 0, i + 1, shape).astype(np.float64)
        first = slice(guided_channels)
        out[first] = of_none[: shape[0]][first] + weight * (out[first] - of_none[: shape[0]][first])
        if len(of_class) > len(out):  # the variance is the class's own
            drawn = drawn * np.exp(k.log_std_from_v * (of_class[shape[0] :] + 1) / 2)
        x, x0_prev = update(k, x, out, x0_prev, drawn)
    image: Float = x
    return image


def defaults(bundle: Bundle) -> Any:
    return bundle.solvers[bundle.default_solver].defaults


def array(url: str, **fields: Any) -> Float:
    body = {"method": "colour", "seed": SEED, "steps": STEPS, **fields}
    answer = httpx.post(f"{url}/generate", json=body, headers={"Accept": "application/x-npy"})
    images: Float = np.load(io.BytesIO(answer.raise_for_status().content), allow_pickle=False)
    return images


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_a_guided_image_is_that_of_the_formula_over_diffusers_own_network(
    url: str, colour: tuple[Bundle, Network], weight: float
) -> None:
    bundle, network = colour
    assert (bundle.manifest.guidance, bundle.manifest.shape) == (True, (3, HEIGHT, WIDTH))
    expected = reference(bundle, network, weight, None, label=2)
    (image,) = array(url, class_label="cat", guidance=weight)
    assert np.abs(image - expected).max() <= 1e-4
    others = [array(url, class_label="cat", guidance=other)[0] for other in (0.0, 1.0, 2.5) if other != weight]
    assert all(np.abs(image - other).max() > 0.01 for other in others)


@pytest.mark.parametrize("max_batch", [3, 8])
def test_guided_and_other_images_of_a_batch_have_the_bytes_of_each_alone(
    colour: tuple[Bundle, Network], max_batch: int
) -> None:
    bundle, runtime = colour[0], OrtRuntime(colour[0], threads=1)
    requests: list[dict[str, Any]] = [
        {"seed": 1, "class_label": 0, "n": 2, "steps": 3},
        {"seed": 2, "class_label": 1, "n": 2, "steps": 5, "guidance": 2.5},
        {"seed": 3, "steps": 4},
        {"seed": 4, "class_label": 3, "steps": 2, "guidance": 7.0},
    ]
    together = denoise([job(bundle, **request) for request in requests], runtime, max_batch)
    alone = [denoise([job(bundle, **request)], runtime, max_batch=1) for request in requests]
    assert together.tobytes() == np.concatenate(alone).tobytes()


def test_every_protocol_has_its_images_in_their_size_and_colour(url: str) -> None:
    request: dict[str, Any] = {"seed": SEED, "n": 2}
    guided = {"guidance": 2.5}
    images = array(url, class_label="dog", **request, **guided)
    assert images.shape == (2, 3, HEIGHT, WIDTH)
    with Client(url) as client:
        assert [each["image_shape"] for each in client.methods()] == [[3, HEIGHT, WIDTH]]
        generated = client.generate("colour", class_label="dog", steps=STEPS, **request, **guided)
        *steps, streamed = client.stream("colour", class_label="dog", steps=STEPS, preview_every=2, **request, **guided)
        floats = client.array("colour", class_label="dog", steps=STEPS, **request, **guided)
    assert floats.tobytes() == images.tobytes()
    assert streamed.files == generated.files  # type: ignore[union-attr]
    previews = [step.preview for step in steps if isinstance(step, StreamedStep) and step.preview]
    assert previews
    assert {(each.mode, each.size) for each in (*generated.images, *previews)} == {("RGB", (WIDTH, HEIGHT))}
    expected = ((images.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.stack([np.asarray(each) for each in generated.images]), expected)

    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as openai:
        extra = {"seed": SEED, "num_inference_steps": STEPS, **guided}
        size: Any = f"{WIDTH}x{HEIGHT}"
        answer = openai.images.generate(model="colour", prompt="dog", n=2, size=size, extra_body=extra)
    assert [base64.b64decode(each.b64_json or "") for each in answer.data or []] == generated.files
    assert answer.size == size

    tensors = []
    values = {"seed": (SEED, "UINT64"), "n": (2, "INT32"), "steps": (STEPS, "INT32"), "class_label": (3, "INT32")}
    for name, (value, datatype) in {**values, "guidance": (2.5, "FP32")}.items():
        tensors.append(InferInput(name, [1], datatype))
        dtype = {"UINT64": np.uint64, "INT32": np.int32, "FP32": np.float32}[datatype]
        tensors[-1].set_data_from_numpy(np.array([value], dtype=dtype))
    with InferenceServerClient(url.removeprefix("http://")) as triton:
        assert triton.get_model_metadata("colour")["outputs"][0]["shape"] == [-1, 3, HEIGHT, WIDTH]
        assert triton.infer("colour", tensors).as_numpy("images").tobytes() == images.tobytes()


@pytest.mark.parametrize("accept", ["image/png", "image/jpeg", "image/webp"])
def test_a_picture_of_several_is_a_grid_of_them(url: str, accept: str) -> None:
    body = {"method": "colour", "seed": SEED, "steps": 2, "n": 3}
    answer = httpx.post(f"{url}/generate", json=body, headers={"Accept": accept})
    picture = Image.open(io.BytesIO(answer.raise_for_status().content))
    assert (picture.mode, picture.size) == ("RGB", (2 * WIDTH, 2 * HEIGHT))


def test_the_original_of_dit_guides_three_channels_and_so_does_its_import(tmp_path: Path) -> None:
    """`forward_with_cfg` of the original: the other channels, and the variance, are the class's own."""
    transformer = test_dit.transformer()
    for parameter in transformer.proj_out_2.parameters():
        parameter.data *= 0.02  # or the variance, an exponential of what it gives, is beyond all bounds
    torch.save(test_dit.original(transformer), tmp_path / "DiT.pt")
    settings = {"num_heads": test_dit.HEADS}
    bundle = imported(tmp_path, tmp_path / "DiT.pt", "dit", format="dit", settings=settings)

    def network(x: Float, t: float, label: int) -> Float:
        with torch.inference_mode():
            out = transformer(torch.tensor(x[None]), torch.tensor([t]), torch.tensor([label])).sample
        result: Float = out[0].numpy()
        return result

    with serving(tmp_path / "bundles", workers=1, max_batch=4) as (url, _):
        image = array(url, method="dit", class_label=2, guidance=4.0)[0]
    expected = reference(bundle, network, 4.0, 3, label=2)
    assert np.abs(image - expected).max() <= parity.MAXIMUM * expected.std()
    everywhere = reference(bundle, network, 4.0, None, label=2)
    assert np.abs(image - everywhere).max() > 0.01
