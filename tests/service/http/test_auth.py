"""API keys: who may call, and how much work a minute they may ask for."""

import hashlib
import io
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image

from service.requests.keys import read
from tests.conftest import WITHIN_S, ToyRuntime, write_bundle
from tests.service.conftest import serve
from tests.service.engine.conftest import Held

BODY = {"method": "toy", "seed": 1}


def line(name: str, more: str = "") -> str:
    return f'[{name}]\nsha256 = "{hashlib.sha256(f"secret of {name}".encode()).hexdigest()}"\n{more}\n'


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer secret of {name}"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundles" / "toy")
    path = tmp_path / "keys.toml"
    path.write_text(line("alice") + line("bob", "work_s_per_minute = 0.001"))
    return path


def served(test: Callable[[TestClient], None], keys: Path, runtime: ToyRuntime | None = None, **changes: int) -> None:
    with serve(keys.parent / "bundles", runtime or ToyRuntime(), keys=keys, **changes) as client:
        test(client)


def test_a_known_key_is_served_and_no_other(keys: Path) -> None:
    def test(client: TestClient) -> None:
        wrong = [
            {},
            bearer("mallory"),
            {"Authorization": "secret of alice"},
            {"Authorization": "Basic secret of alice"},
        ]
        for headers in wrong:
            answer = client.post("/generate", json=BODY, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["type"] == "urn:trilemma:unauthorized"
            assert client.get("/methods", headers=headers).status_code == 401
        assert client.post("/generate", json=BODY, headers=bearer("alice")).status_code == 200
        assert client.get("/methods", headers=bearer("bob")).status_code == 200

    served(test, keys)


@pytest.mark.parametrize("secret", ["clé à ¢", "ключ", "\N{SNOWMAN}"])
def test_a_key_may_have_any_characters(keys: Path, secret: str) -> None:
    keys.write_text(f'[carol]\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\n')

    def test(client: TestClient) -> None:
        for sent, status in ((secret, 200), (f"  {secret} ", 200), (secret[:-1], 401)):
            assert client.get("/methods", headers={"Authorization": f"Bearer {sent}".encode()}).status_code == status

    served(test, keys)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "utf-8"),
        (b"[a", "table"),
        (b"a = 1", "a: "),
        (b'[a]\nsha256 = "x"', "a.sha256"),
        (line("a", "work_s_per_minute = 1e-320").encode(), "a.work_s_per_minute"),
        (line("a", "work_s_per_minute = inf").encode(), "a.work_s_per_minute"),
    ],
)
def test_a_file_of_keys_that_is_none_is_named_with_what_is_wrong(keys: Path, content: bytes, problem: str) -> None:
    keys.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(problem)) as refused:
        read(keys)
    assert str(refused.value).startswith(f"{keys}: ")


def test_machines_that_watch_the_service_need_no_key(keys: Path) -> None:
    def test(client: TestClient) -> None:
        assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/load")] == [200] * 4

    served(test, keys)


def test_only_an_administrator_reloads(keys: Path) -> None:
    keys.write_text(keys.read_text() + line("root", "admin = true"))

    def test(client: TestClient) -> None:
        refused = client.post("/admin/reload", headers=bearer("alice"))
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:trilemma:forbidden")
        assert client.post("/admin/reload").status_code == 401
        assert client.post("/admin/reload", headers=bearer("root")).status_code == 200

    served(test, keys)


@pytest.mark.parametrize("canceller", ["alice", "root"])
def test_a_request_is_cancelled_by_its_own_key_or_an_administrators_and_by_no_other(keys: Path, canceller: str) -> None:
    keys.write_text(keys.read_text() + line("root", "admin = true"))
    runtime = Held()
    runtime.go.set()

    def test(client: TestClient) -> None:
        runtime.go.clear()
        runtime.entered.clear()
        answers: list[Response] = []
        headers = {**bearer("alice"), "X-Request-ID": "hers"}
        asking = threading.Thread(target=lambda: answers.append(client.post("/generate", json=BODY, headers=headers)))
        asking.start()
        assert runtime.entered.wait(WITHIN_S)
        assert client.delete("/requests/hers", headers=bearer("bob")).status_code == 404
        assert client.delete("/requests/hers", headers=bearer(canceller)).status_code == 204
        asking.join()
        runtime.go.set()
        assert answers[0].status_code == 409

    served(test, keys, runtime)


def predict(client: TestClient, row_step_s: float) -> None:
    """Makes the service reckon so long for a step of an image."""
    scheduler = client.app.state.service.engine.scheduler  # type: ignore[attr-defined]
    scheduler.work_s = lambda job: job.n * job.steps * row_step_s


def test_a_key_whose_work_is_used_up_waits_while_another_goes_on(keys: Path) -> None:
    def test(client: TestClient) -> None:
        large = {**BODY, "steps": 500, "n": 64}
        predict(client, row_step_s=1e-3)
        assert client.post("/generate", json=large, headers=bearer("bob")).status_code == 200
        spent = client.post("/generate", json=BODY, headers=bearer("bob"))
        assert (spent.status_code, spent.json()["type"]) == (429, "urn:trilemma:key-spent")
        assert int(spent.headers["retry-after"]) > 60
        assert client.post("/generate", json=BODY, headers=bearer("alice")).status_code == 200

    served(test, keys)


def test_a_request_that_comes_to_nothing_costs_nothing(keys: Path) -> None:
    runtime = ToyRuntime()
    runtime.fail_on = {1}

    def test(client: TestClient) -> None:
        predict(client, row_step_s=1.0)
        failing = {**BODY, "class_label": 1}
        assert [client.post("/generate", json=failing, headers=bearer("bob")).status_code for _ in range(2)] == [
            500
        ] * 2

    served(test, keys, runtime)


@pytest.mark.parametrize("content", ["[alice]", '[alice]\nsha256 = "secret"', "alice", line("alice", "rate = 1")])
def test_a_file_that_is_not_one_of_keys_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"alice|TOML|Expected"):
        read(path)


def test_a_likelihood_is_charged_to_its_key(keys: Path) -> None:
    def test(client: TestClient) -> None:
        image = io.BytesIO()
        Image.new("L", (4, 4)).save(image, "png")
        headers, sent = {**bearer("bob"), "Content-Type": "image/png"}, image.getvalue()
        predict(client, row_step_s=1e-3)
        answers = [
            client.post(f"/likelihood?method=toy&seed={seed}", content=sent, headers=headers) for seed in range(2)
        ]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json()["type"] == "urn:trilemma:key-spent"

    served(test, keys)
