"""Settings, the index of an image and a class mean the same in every protocol, in the client and in the command."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from tritonclient.http import InferenceServerClient, InferInput

from models import families
from models.schedules import cosine_schedule
from service.engine.runtime import HostStates, StepInputs
from service.requests.encoding import encode
from service.requests.inference import INPUTS
from service.requests.request import GenerateRequest
from tests.conftest import ToyRuntime, write_bundle
from tests.deploy.conftest import in_this_process
from tests.protocols.conftest import own
from tests.protocols.test_command import trilemma
from trilemma import Client

FOLDERS = sorted(str(number) for number in range(1, 13))  # as a folder of them lists: 1, 10, 11, 12, 2, …
NAMES = [*FOLDERS, "", " ", "two words", "trousers/jeans", "día", "九", "０", "0", "-1", "None", "a\tb"]
DTYPES = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BYTES": np.object_}
V1 = {"steps": "num_inference_steps", "class_label": "prompt"}


class ManyClasses(ToyRuntime):
    """Whose images of some dozen classes all differ: the toy's own are soon white."""

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        return super().step(replace(inputs, y=inputs.y / 16))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a model with a solver for each of two settings, and one with a class of each name."""
    folder = tmp_path_factory.mktemp("bundles")
    schedule = {"alphas_cumprod": cosine_schedule(1000).tolist(), "clip": 1.0}
    write_bundle(folder / "tunable", name="tunable", family="latent", noise_schedule=schedule)
    write_bundle(folder / "named", name="named", classes=NAMES)
    with in_this_process(folder, ManyClasses()) as (url, _):
        yield url


def of_generate(url: str, method: str, **fields: Any) -> list[bytes]:
    answer = json.loads(own(url, "application/json", method=method, **fields))
    return [base64.b64decode(image["data"]) for image in answer["images"]]


def of_openai(url: str, method: str, **fields: Any) -> list[bytes]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        extra = {V1.get(name, name): value for name, value in fields.items()}
        answer = client.images.generate(model=method, prompt=extra.pop("prompt"), extra_body=extra)
    return [base64.b64decode(image.b64_json or "") for image in answer.data or []]


def of_triton(url: str, method: str, settings: dict[str, float] | None = None, **fields: Any) -> list[bytes]:
    tensors = []
    for name, value in {**fields, **(settings or {})}.items():
        datatype = INPUTS.get(name, ("FP32",))[-1 if isinstance(value, str) else 0]
        tensors.append(InferInput(name, [1], datatype))
        data = value.encode() if isinstance(value, str) else value
        tensors[-1].set_data_from_numpy(np.array([data], dtype=DTYPES[datatype]))
    with InferenceServerClient(url.removeprefix("http://")) as client:
        images = client.infer(method, tensors).as_numpy("images")
    return [encode(image[None], "png") for image in images]


def of_client(url: str, method: str, **fields: Any) -> list[bytes]:
    with Client(url) as client:
        generated = client.generate(method, **fields)
        *_, streamed = client.stream(method, **fields)
    assert streamed.files == generated.files  # type: ignore[union-attr]
    return generated.files


def of_command(url: str, folder: Path, method: str, settings: dict[str, float] | None = None, **fields: Any) -> Any:
    options = {"class_label": "--class", "n": "-n"}
    arguments = [f"{options.get(name, f'--{name}')}={value}" for name, value in fields.items()]
    arguments += [f"--setting={name}={value}" for name, value in (settings or {}).items()]
    done = trilemma(
        url, "generate", method, "-o", str(folder / "it.png"), *[each.replace("-n=", "-n") for each in arguments]
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "fields",
    [
        {"solver": "langevin", "settings": {"step_size": 0.37}},
        {"solver": "ddim", "settings": {"eta": 0.37}},
        {"settings": {"eta": 0.25}},
        {"index": 3},
        {"index": 2**31 - 1},
    ],
)
def test_a_request_is_the_same_everywhere(url: str, tmp_path: Path, fields: dict[str, Any]) -> None:
    request = {"steps": 4, "seed": 7, "class_label": "one", **fields}
    files = of_generate(url, "tunable", **request)
    assert files != of_generate(url, "tunable", steps=4, seed=7, class_label="one")
    for speak in (of_openai, of_triton, of_client):
        assert speak(url, "tunable", **request) == files, speak.__name__
    assert of_command(url, tmp_path, "tunable", **request) == {"it.png": files[0]}


def test_each_setting_of_a_models_solvers_is_an_input_of_its_own(url: str) -> None:
    inputs = httpx.get(f"{url}/v2/models/tunable").json()["inputs"]
    assert {(each["name"], each["datatype"]) for each in inputs} >= {("eta", "FP32"), ("step_size", "FP32")}
    config = httpx.get(f"{url}/v2/models/tunable/config").json()["input"]
    assert [each["name"] for each in config] == [each["name"] for each in inputs]
    assert "step_size" not in {each["name"] for each in httpx.get(f"{url}/v2/models/named").json()["inputs"]}


@pytest.mark.parametrize(("solver", "name", "value"), [("ddim", "step_size", 0.5), ("langevin", "step_size", 2.0)])
def test_a_setting_that_is_refused_has_its_name_in_each_protocol(
    url: str, solver: str, name: str, value: float
) -> None:
    body = {"solver": solver, "settings": {name: value}}
    generate = httpx.post(f"{url}/generate", json={"method": "tunable", **body})
    openai = httpx.post(f"{url}/v1/images/generations", json={"model": "tunable", "prompt": "one", **body})
    tensors = [
        {"name": "solver", "shape": [1], "datatype": "BYTES", "data": [solver]},
        {"name": name, "shape": [1], "datatype": "FP32", "data": [value]},
    ]
    infer = httpx.post(f"{url}/v2/models/tunable/infer", json={"inputs": tensors})
    assert generate.json()["errors"][0]["field"] == f"settings.{name}"
    assert openai.json()["error"]["param"] == f"settings.{name}"
    assert infer.json()["error"].startswith(f"{name}: ")


def test_no_familys_setting_has_the_name_of_another_field() -> None:
    taken = {*GenerateRequest.model_fields, *INPUTS} - {"eta"}
    for family in families.names():
        for solver in families.find(family).SOLVERS.values():
            assert not taken & solver.settings.keys()


# --- classes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_number(url: str) -> list[list[bytes]]:
    """The files of each class, named by its number, which nothing else can mean."""
    files = [of_generate(url, "named", seed=1, class_label=number) for number in range(len(NAMES))]
    assert len({each for (each,) in files}) == len(NAMES)
    return files


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_named_by_its_name_everywhere(
    url: str, tmp_path: Path, by_number: list[list[bytes]], name: str
) -> None:
    number = NAMES.index(name)
    for speak in (of_generate, of_openai, of_triton, of_client):
        assert speak(url, "named", seed=1, class_label=name) == by_number[number], speak.__name__
    assert of_triton(url, "named", seed=1, class_label=number) == by_number[number]
    assert of_command(url, tmp_path, "named", seed=1, class_label=name) == {"it.png": by_number[number][0]}


def test_digits_that_are_no_name_are_a_number(url: str, by_number: list[list[bytes]]) -> None:
    assert "13" not in NAMES
    for speak in (of_generate, of_openai, of_triton, of_client):
        assert speak(url, "named", seed=1, class_label="13") == by_number[13]


@given(label=st.text(max_size=5) | st.sampled_from(["00", "01", "+1", "1.0", "1 ", "１", "٣", "100", "-2", "9" * 5000]))
@settings(max_examples=60)
def test_any_other_text_is_no_class_and_the_names_are_listed(url: str, label: str) -> None:
    if label in NAMES or label in map(str, range(len(NAMES))):
        return
    refused = httpx.post(f"{url}/generate", json={"method": "named", "class_label": label}, verify=False)  # noqa: S501
    assert (refused.status_code, refused.json()["errors"][0]["allowed"]["names"]) == (422, NAMES)
    body = {"model": "named", "prompt": label}
    theirs = httpx.post(f"{url}/v1/images/generations", json=body, verify=False)  # noqa: S501
    assert (theirs.status_code, theirs.json()["error"]["param"]) == (400, "prompt")
