"""The wall clock may be set while the service runs: nothing but dates depends on it."""

import time
from email.utils import parsedate_to_datetime
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process
from tests.service.http.test_auth import line

JUMPS = cycle([0.0, 1e9, 2e9, 4e9])  # from 1970 to 2096


def test_deadlines_budgets_and_the_cache_are_as_always_while_the_wall_clock_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    keys = tmp_path / "keys.toml"
    keys.write_text(line("alice", "work_s_per_minute = 60"))
    with in_this_process(tmp_path / "bundles", keys=keys) as (url, app), httpx.Client(base_url=url) as client:
        client.headers["Authorization"] = "Bearer secret of alice"
        engine = app.state.service.engine
        monkeypatch.setattr(time, "time", lambda: next(JUMPS))
        for seed in range(20):
            body = {"method": "toy", "seed": seed % 10, "deadline_ms": 60_000}
            answer = client.post("/generate", json=body)
            assert (answer.status_code, answer.headers["trilemma-cache"]) == (200, "miss" if seed < 10 else "hit")
            assert 1970 <= parsedate_to_datetime(answer.headers["date"]).year <= 2096
        created = client.post("/v1/images/generations", json={"model": "toy", "prompt": "one"}).json()["created"]
        assert created in {0, 1_000_000_000, 2_000_000_000, 4_000_000_000}
        engine.scheduler.work_s = lambda _: 180.0  # three minutes of the key's budget
        statuses = [client.post("/generate", json={"method": "toy", "seed": seed}) for seed in range(100, 102)]
        assert [answer.status_code for answer in statuses] == [200, 429]
        assert 60 < int(statuses[1].headers["retry-after"]) <= 120
        assert "trilemma_missed_deadlines_total{" not in client.get("/metrics").text
