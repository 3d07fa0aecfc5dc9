"""`--device`: which device is chosen, refused and logged; whole HTTP requests through a fake GPU."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from bundle import gpu_manifest
from bundle.files import BundleError
from bundle.loading import Bundle, load
from export import accuracy
from export.gpu_bundle import BuildOptions, build
from service.app import create_app
from service.runtimes import choice
from service.runtimes.choice import Cpu, Cuda, NoDevice, choose
from service.runtimes.cuda.driver import DriverError
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.gpu.fake import FakeDriver, InFakeMemory
from tests.service.conftest import wait_until_loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one bundle, the latent model's, with its graphs for CUDA in fp16."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    source = REPOSITORY / "bundles" / "latent"
    shutil.copytree(source, folder / "latent", ignore=shutil.ignore_patterns("cuda", "tensorrt*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "IMAGES", 2)
        build(load(folder / "latent"), BuildOptions("cuda", "fp16", buckets=[1, 2, 4, 8]))
    return folder


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load(folder / "latent")


def gpu(name: str = "a fake sm_00", max_batch: int = 8, *, required: bool = True) -> Cuda:
    return Cuda(FakeDriver(name=name), images=64, max_batch=max_batch, required=required)


def placed(bundle: Bundle, device: Cuda) -> tuple[str, str]:
    model = device.place(bundle)
    return model.digest, model.device


def change(bundle: Bundle, **fields: Any) -> None:
    """Changes fields in the manifest of the bundle's engines."""
    path = bundle.folder / "cuda" / gpu_manifest.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def no_gpu() -> FakeDriver:
    raise DriverError("cuInit: there is none")


def test_a_requested_gpu_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "open_driver", no_gpu)
    with pytest.raises(NoDevice, match=r"^--device cuda: cuInit: there is none$"):
        create_app(Settings(device="cuda"))


def test_auto_falls_back_to_the_cpu_and_logs_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "open_driver", no_gpu)
    with capture_logs() as logs:
        assert isinstance(choose(Settings(device="auto")), Cpu)
    assert [(line["log_level"], line["event"], line["reason"]) for line in logs] == [
        ("warning", "no GPU: computing on the CPU", "cuInit: there is none")
    ]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_is_used_where_there_is_one_and_logged(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "open_driver", FakeDriver)
    with capture_logs() as logs:
        assert isinstance(choose(Settings(device=device)), Cuda)
    assert (logs[0]["event"], logs[0]["device"]) == ("computing on a GPU", "a fake sm_00")


def test_the_driver_is_not_opened_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "open_driver", None)
    assert isinstance(choose(Settings()), Cpu)


def test_the_digest_differs_wherever_the_bits_of_an_image_may(bundle: Bundle) -> None:
    digest, device = placed(bundle, gpu())
    assert device == f"a fake sm_00, cuda {ort.__version__} fp16, batches of 8"
    assert digest != bundle.manifest.digest
    assert placed(bundle, gpu())[0] == digest
    assert placed(bundle, gpu(name="another sm_00"))[0] != digest
    assert placed(bundle, gpu(max_batch=4))[0] != digest  # another bucket, and nobody knows whether that matters


def test_only_engines_whose_buckets_are_known_to_agree_use_more_than_one(bundle: Bundle) -> None:
    for agree in (None, False):
        change(bundle, buckets_agree=agree)
        assert placed(bundle, gpu())[1].endswith("batches of 8")
    change(bundle, buckets_agree=True)
    digest, device = placed(bundle, gpu())
    assert device.endswith("batches of 1, 2, 4, 8")
    smaller = placed(bundle, gpu(max_batch=3))
    assert smaller == (digest, device.replace(", 8", ""))  # fewer sizes, the same images
    change(bundle, buckets_agree=None)


@pytest.mark.parametrize(
    ("fields", "max_batch", "reason"),
    [
        ({"architectures": ["sm_80", "sm_89"]}, 8, "built for sm_80, sm_89, and this is sm_00: export it again"),
        ({}, 9, "engines for batches of up to 8, and --max-batch is 9"),
        ({"sources": {"step.onnx": "0" * 64}}, 8, "of another step.onnx: export it again"),
    ],
)
def test_what_cannot_run_on_this_gpu_is_refused_or_with_auto_goes_to_the_cpu(
    bundle: Bundle, fields: dict[str, Any], max_batch: int, reason: str
) -> None:
    before = (bundle.folder / "cuda" / gpu_manifest.MANIFEST).read_text()
    change(bundle, **fields)
    with pytest.raises(BundleError, match=reason):
        gpu(max_batch=max_batch).place(bundle)
    with capture_logs() as logs:
        assert placed(bundle, gpu(max_batch=max_batch, required=False)) == (bundle.manifest.digest, "cpu")
    assert (logs[0]["event"], logs[0]["method"]) == ("computed on the CPU", "latent")
    assert reason in logs[0]["reason"]
    (bundle.folder / "cuda" / gpu_manifest.MANIFEST).write_text(before)


REQUESTS = [
    {"method": "latent", "seed": 1, "n": 3, "class_label": 3, "steps": 4},
    {"method": "latent", "seed": 2, "solver": "dpmpp_2m", "class_label": 7, "steps": 6},
]


def arrays(client: TestClient) -> list[np.ndarray]:
    answers = [client.post("/generate", json=body, headers={"Accept": "application/x-npy"}) for body in REQUESTS]
    return [np.load(io.BytesIO(answer.raise_for_status().content), allow_pickle=False) for answer in answers]


def test_whole_requests_over_http_give_the_images_of_the_cpu_up_to_the_precision(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(choice, "open_driver", lambda: driver)
    monkeypatch.setattr(choice, "OrtCudaNetwork", InFakeMemory)
    monkeypatch.setattr(InFakeMemory, "driver", driver, raising=False)
    images: dict[str, list[np.ndarray]] = {}
    for device in ("cpu", "cuda"):
        settings = Settings(bundles=folder, device=device, max_batch=8, cache_bytes=0)  # type: ignore[arg-type]
        with TestClient(create_app(settings)) as client:
            wait_until_loaded(client)
            (method,) = client.get("/methods").json()
            metrics = client.get("/metrics").text
            where = "cpu" if device == "cpu" else f"a fake sm_00, cuda {ort.__version__} fp16, batches of 8"
            assert method["device"] == where
            assert f'device="{where}"' in metrics
            images[device] = arrays(client)
            for first, second in zip(images[device], arrays(client), strict=True):
                assert first.tobytes() == second.tobytes()
    errors = [np.sqrt(np.square(a - b).mean()) for a, b in zip(images["cpu"], images["cuda"], strict=True)]
    assert 0 < min(errors) <= max(errors) < 0.01
    assert driver.calls.count("launch") > 0


def test_a_bundle_without_engines_is_refused_by_cuda_and_served_by_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(
        REPOSITORY / "bundles" / "latent", tmp_path / "latent", ignore=shutil.ignore_patterns("cuda", "te*")
    )
    monkeypatch.setattr(choice, "open_driver", FakeDriver)
    with TestClient(create_app(Settings(bundles=tmp_path, device="cuda"))) as client:
        wait_until_loaded(client)
        assert "no engines for a GPU: ./run export" in client.get("/readyz").json()["failed_bundles"]["latent"]
    with TestClient(create_app(Settings(bundles=tmp_path, device="auto"))) as client:
        wait_until_loaded(client)
        assert client.get("/methods").json()[0]["device"] == "cpu"
