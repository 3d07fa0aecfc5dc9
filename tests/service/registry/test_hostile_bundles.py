"""Hostile bundles beside good ones: the good ones are served, before and after, and each bad one is named."""

import json
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bundle.files import shown
from bundle.loading import load
from service.app import create_app
from service.registry import attempts, opening
from service.settings import Settings
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import wait_until_loaded
from tests.service.registry.graphs import HOSTILE, identity, model, scaled, slow, write

GOOD = ["good-1", "good-2", "good-3"]


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(bundles=folder, **{"watch_s": 0, "workers": 2, "load_s": 600, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundles = tmp_path / "bundles"
    for name in GOOD:
        write(bundles / name, model(identity()))
    return bundles


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(folder))) as client:
        wait_until_loaded(client)
        yield client


def assert_good_ones_answer(client: TestClient) -> None:
    for name in GOOD:
        answer = client.post("/generate", json={"method": name, "steps": 2, "seed": 1})
        assert answer.status_code == 200, answer.text


def assert_each_is_named(failed: dict[str, str], folder: Path) -> None:
    assert set(failed) == set(map(shown, HOSTILE))
    for name, reason in failed.items():
        assert reason.startswith(name)
        assert len(reason) < 600
        assert str(folder) not in reason
        assert "root:" not in reason  # of /etc/passwd


def test_at_a_reload_and_at_a_start_every_hostile_bundle_is_refused_and_the_good_ones_are_served(
    client: TestClient, folder: Path
) -> None:
    before = client.get("/methods").json()
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of all tests before this one
    for name, build in HOSTILE.items():
        build(folder / name)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ready = client.post("/admin/reload").json()
    assert (ready["status"], ready["methods"]) == ("ready", GOOD)
    assert_each_is_named(ready["failed_bundles"], folder)
    assert client.get("/methods").json() == before
    assert client.get("/metrics").status_code == 200
    assert_good_ones_answer(client)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own < 2**19  # KiB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(5 * 2**20, largest_child)
    with TestClient(create_app(settings(folder))) as another:
        wait_until_loaded(another)
        assert_good_ones_answer(another)
        assert another.get("/readyz").json()["methods"] == GOOD


def test_models_are_served_while_a_slow_bundle_is_still_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "GRACE_S", 1.0)
    write(folder / "slow", slow())
    with TestClient(create_app(settings(folder))) as client:
        while (ready := client.get("/readyz").json())["methods"] != GOOD or ready["status"] == "starting":
            time.sleep(0.01)  # on a slow machine they too may come after the grace
        assert client.get("/readyz").json()["failed_bundles"]["slow"] == "it is still being tried"
        assert client.post("/generate", json={"method": "good-1", "steps": 2}).status_code == 200
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.models._opener.close()  # as the limit ends it
        while (reason := client.get("/readyz").json()["failed_bundles"]["slow"]) == "it is still being tried":
            time.sleep(0.01)
        assert "ends a process by SIGKILL" in reason
        assert client.get("/readyz").json()["methods"] == GOOD


def test_a_bundle_that_hangs_does_not_keep_the_process_from_ending(folder: Path) -> None:
    write(folder / "slow", slow())
    with TestClient(create_app(settings(folder))) as client:
        assert client.get("/healthz").status_code == 200  # and it ends while the bundle is tried


def test_a_runtime_that_hangs_is_left_behind_and_counted_and_the_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "STEPS_OF_OPENING", 0.01)  # 6 s
    for name in ("hangs", "works"):
        write_bundle(tmp_path / name, name=name)
    release = threading.Event()

    def open_runtime(placement: Any, threads: int) -> ToyRuntime:
        if placement.name == "hangs":
            release.wait()
        return ToyRuntime()

    with TestClient(create_app(settings(tmp_path), open_runtime)) as client:
        while client.get("/readyz").json()["methods"] != ["works"]:
            time.sleep(0.01)
        wait_until_loaded(client)
        ready = client.post("/admin/reload").json()
        assert ready["methods"] == ["works"]
        assert ready["failed_bundles"]["hangs"] == "hangs: an earlier attempt still hangs"
        assert "trilemma_abandoned_loads_total 1.0" in client.get("/metrics").text
        release.set()


def test_the_model_that_is_served_stays_when_another_of_its_name_comes(client: TestClient, folder: Path) -> None:
    digest = client.get("/methods").json()[0]["model"]["digest"]
    newcomer = write(folder.parent / "good-1", scaled(0.5)).rename(folder / "a-newcomer")
    ready = client.post("/admin/reload").json()
    assert ready["failed_bundles"] == {"a-newcomer": "a-newcomer: its name 'good-1' is that of good-1 too"}
    assert client.get("/methods").json()[0]["model"]["digest"] == digest
    (folder / "good-1" / "manifest.json").write_text("{}")  # what is served stays, though its bundle fails
    assert set(client.post("/admin/reload").json()["failed_bundles"]) == {"a-newcomer", "good-1"}
    assert client.get("/methods").json()[0]["model"]["digest"] == digest
    shutil.rmtree(folder / "good-1")
    assert client.post("/admin/reload").json()["failed_bundles"] == {}
    assert client.get("/methods").json()[0]["model"]["digest"] == load(newcomer).manifest.digest


def test_a_folder_whose_model_gets_another_name_lets_go_of_the_old_one(client: TestClient, folder: Path) -> None:
    path = folder / "good-1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "renamed"}))
    write(folder.parent / "good-1", scaled(0.5)).rename(folder / "newcomer")
    ready = client.post("/admin/reload").json()
    assert (ready["methods"], ready["failed_bundles"]) == (["good-1", "good-2", "good-3", "renamed"], {})


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_that_is_away_for_a_while_costs_no_model(client: TestClient, folder: Path, empty: bool) -> None:
    away = folder.rename(folder.parent / "away")
    if empty:  # as a lost mount leaves it
        folder.mkdir()
    ready = client.post("/admin/reload").json()
    assert (ready["status"], ready["methods"]) == ("ready", GOOD)
    assert list(ready["failed_bundles"]) == ["the bundles' folder"]
    assert_good_ones_answer(client)
    if empty:
        folder.rmdir()
    away.rename(folder)
    assert client.post("/admin/reload").json()["failed_bundles"] == {}


def test_a_folder_that_comes_back_as_it_was_is_noticed_without_a_reload(folder: Path) -> None:
    with TestClient(create_app(settings(folder, watch_s=0.05))) as client:
        wait_until_loaded(client)
        away = folder.rename(folder.parent / "away")
        while not client.get("/readyz").json()["failed_bundles"]:
            time.sleep(0.01)
        assert client.get("/readyz").json()["methods"] == GOOD
        away.rename(folder)
        while client.get("/readyz").json()["failed_bundles"]:
            time.sleep(0.01)
        assert client.get("/readyz").json()["methods"] == GOOD


def test_links_within_the_folder_are_followed_as_kubernetes_makes_them(client: TestClient, folder: Path) -> None:
    write(folder / "..data" / "linked", scaled(0.5))
    (folder / "linked").symlink_to("..data/linked")
    ready = client.post("/admin/reload").json()
    assert (ready["methods"], ready["failed_bundles"]) == ([*GOOD, "linked"], {})
