"""Hostile bundles beside good ones: the good ones are served, before and after, and each bad one is named."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from bundle.loading import load
from service.app import create_app
from service.runtimes import trial
from service.settings import Settings
from tests.service.conftest import wait_until_loaded
from tests.service.registry.graphs import HOSTILE, endless, identity, model, scaled, write

GOOD = ["good-1", "good-2", "good-3"]


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_S", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundles = tmp_path / "bundles"
    for name in GOOD:
        write(bundles / name, model(identity()))
    return bundles


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(bundles=folder, watch_s=0, workers=1))) as client:
        wait_until_loaded(client)
        yield client


def assert_good_ones_answer(client: TestClient) -> None:
    for name in GOOD:
        answer = client.post("/generate", json={"method": name, "steps": 2, "seed": 1})
        assert answer.status_code == 200, answer.text


def test_at_a_reload_and_at_a_start_every_hostile_bundle_is_refused_and_the_good_ones_are_served(
    client: TestClient, folder: Path
) -> None:
    before = client.get("/methods").json()
    for name, build in HOSTILE.items():
        build(folder / name)
    ready = client.post("/admin/reload").json()
    assert (ready["status"], ready["methods"]) == ("ready", GOOD)
    assert set(ready["failed_bundles"]) == set(HOSTILE)
    for name, reason in ready["failed_bundles"].items():
        assert reason, name
        assert str(folder) not in reason
        assert "root:" not in reason  # of /etc/passwd
    assert client.get("/methods").json() == before
    assert_good_ones_answer(client)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3 * 2**20  # KiB
    with TestClient(create_app(Settings(bundles=folder, watch_s=0, workers=1))) as another:
        wait_until_loaded(another)
        assert another.get("/readyz").json()["methods"] == GOOD
        assert_good_ones_answer(another)


def test_a_bundle_that_hangs_does_not_keep_the_process_from_ending(folder: Path) -> None:
    write(folder / "endless", endless())
    with TestClient(create_app(Settings(bundles=folder, watch_s=0))) as client:
        assert client.get("/healthz").status_code == 200  # and it ends while the bundle is tried


def test_the_model_that_is_served_stays_when_another_of_its_name_comes(client: TestClient, folder: Path) -> None:
    digest = client.get("/methods").json()[0]["model"]["digest"]
    newcomer = write(folder.parent / "good-1", scaled(0.5)).rename(folder / "a-newcomer")
    ready = client.post("/admin/reload").json()
    assert "already served from good-1" in ready["failed_bundles"]["a-newcomer"]
    assert client.get("/methods").json()[0]["model"]["digest"] == digest
    shutil.rmtree(folder / "good-1")
    assert client.post("/admin/reload").json()["failed_bundles"] == {}
    assert client.get("/methods").json()[0]["model"]["digest"] == load(newcomer).manifest.digest


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


def test_links_within_the_folder_are_followed_as_kubernetes_makes_them(client: TestClient, folder: Path) -> None:
    write(folder / "..data" / "linked", scaled(0.5))
    (folder / "linked").symlink_to("..data/linked")
    ready = client.post("/admin/reload").json()
    assert (ready["methods"], ready["failed_bundles"]) == ([*GOOD, "linked"], {})
