"""Models that fail, are replaced or go away, and a process that must end, as a caller of the service sees it."""

import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from models.schedules import cosine_schedule
from service.engine.loop import FAILURES
from tests.conftest import REPOSITORY, WITHIN_S, ToyRuntime, write_bundle
from tests.service.conftest import Held, NotANumber, generate, serve
from tests.service.http.test_routes import in_background


def test_a_model_that_keeps_failing_is_named_by_readiness_until_it_is_loaded_anew(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    write_bundle(tmp_path / "other", name="other")
    runtime = ToyRuntime()
    with serve(tmp_path, runtime) as client:
        runtime.fail_on = {0}
        for seed in range(FAILURES):
            assert generate(client, class_label=0, seed=seed).status_code == 500
        runtime.fail_on = set()
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["methods"]) == (200, ["other"])
        assert ready.json()["out_of_service"] == ["toy"]
        assert generate(client).json()["type"] == "urn:trilemma:out-of-service"
        assert generate(client, method="other").status_code == 200
        assert client.post("/admin/reload").json()["out_of_service"] == []
        assert generate(client).status_code == 200


def test_a_reload_serves_the_new_model_and_what_runs_on_the_old_finishes_on_it(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    schedule = {"alphas_cumprod": cosine_schedule(500).tolist()}
    old = Held()
    with serve(tmp_path, old) as client:
        asking, answers = in_background(client, steps=3)
        assert old.entered.wait(WITHIN_S)
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.models._opener._open_runtime = lambda model, threads: ToyRuntime()
        shutil.rmtree(tmp_path / "toy")
        write_bundle(tmp_path / "toy", noise_schedule=schedule)
        for steps in (2, 3, 4):  # two more reloads with new models, and the old one is still needed
            shutil.rmtree(tmp_path / "toy")
            write_bundle(tmp_path / "toy", noise_schedule=schedule, recommended_steps=steps)
            assert client.post("/admin/reload").json()["methods"] == ["toy"]
        old.go.set()
        asking.join()
        new = generate(client, steps=3).json()
        assert answers[0].json()["model"] != new["model"]
        assert answers[0].json()["images"] != new["images"]
        assert len(old.batches) == 3


@pytest.mark.parametrize("changes", [{"format_version": 7}, {"recommended_steps": 6}])
def test_a_reload_that_fails_leaves_the_old_model_serving(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        before = generate(client).json()
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.models._opener._open_runtime = lambda model, threads: NotANumber()
        shutil.rmtree(tmp_path / "toy")
        write_bundle(tmp_path / "toy", **changes)
        told = client.post("/admin/reload").json()
        assert (told["status"], told["methods"], list(told["failed_bundles"])) == ("ready", ["toy"], ["toy"])
        after = generate(client, seed=2).json()
        assert after["model"] == before["model"]


def test_only_the_named_methods_are_served_before_and_after_a_reload(tmp_path: Path) -> None:
    for name in ("a", "b", "other"):
        write_bundle(tmp_path / f"folder-of-{name}", name=name)
    write_bundle(tmp_path / "damaged", name="damaged").joinpath("manifest.json").write_text("{")
    with serve(tmp_path, ToyRuntime(), methods=["a", "b"]) as client:
        assert client.post("/admin/reload").json()["methods"] == ["a", "b"]
        refused = generate(client, method="other")
        assert (refused.status_code, refused.json()["known"]) == (404, ["a", "b"])
        shutil.rmtree(tmp_path / "folder-of-b")
        write_bundle(tmp_path / "new", name="new")
        ready = client.post("/admin/reload").json()
        assert (ready["methods"], ready["failed_bundles"]) == (["a"], {})


@pytest.mark.parametrize("methods", [["damaged"], ["a", "damaged"]])
def test_a_named_bundle_that_is_damaged_is_refused_and_the_others_are_served(
    tmp_path: Path, methods: list[str]
) -> None:
    write_bundle(tmp_path / "a", name="a")
    write_bundle(tmp_path / "damaged", name="damaged").joinpath("manifest.json").write_text("{")
    with serve(tmp_path, ToyRuntime(), methods=methods) as client:
        ready = client.post("/admin/reload").json()
        assert (ready["methods"], list(ready["failed_bundles"])) == (methods[:-1], ["damaged"])


def test_a_changed_folder_is_loaded_by_itself_while_requests_go_on(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime(), watch_s=0.01, cache_bytes=0) as client:
        write_bundle(tmp_path / ".new", name="new").rename(tmp_path / "new")
        seeds = count()
        while client.get("/readyz").json()["methods"] != ["new", "toy"]:
            assert generate(client, seed=next(seeds)).status_code == 200
        assert generate(client, method="new").status_code == 200
        (tmp_path / "new" / "manifest.json").write_text("{}")
        while "new" not in client.get("/readyz").json()["failed_bundles"]:
            assert generate(client, seed=next(seeds)).status_code == 200
        assert generate(client, method="new").status_code == 200  # the old one goes on
        shutil.rmtree(tmp_path / "new")
        while client.get("/readyz").json()["methods"] != ["toy"]:
            assert generate(client, seed=next(seeds)).status_code == 200


def test_a_stopped_engine_makes_the_process_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        assert client.get("/healthz").status_code == 200
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        monkeypatch.setattr(service.engine.scheduler, "next_batch", lambda now: 1 / 0)
        generate(client)
        assert client.get("/healthz").status_code == 503


def test_an_error_in_loading_that_is_no_bundles_fault_ends_the_process(tmp_path: Path) -> None:
    script = """if True:
        from service.__main__ import main
        from service.registry import registry

        registry.bundle_folders = lambda _: 1 / 0
        main()
    """
    ended = subprocess.run(
        [sys.executable, "-c", script, "--port", "0"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
