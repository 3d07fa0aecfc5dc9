"""Identical requests share a job, and nothing else: each caller is charged, refused and cancelled for itself."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response

from service.app import create_app
from service.requests.keys import Keyring
from service.settings import Settings
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import Held

TRIES = 100
ALICE, BOB, CAROL = "alice", "bob", "carol"
BUDGETS = {ALICE: "work_s_per_minute = 0.001", BOB: "", CAROL: "work_s_per_minute = 1e9"}


@asynccontextmanager
async def serving(folder: Path, runtime: ToyRuntime) -> AsyncIterator[tuple[AsyncClient, Any]]:
    """A client of a service of toys with keys, and its state."""
    write_bundle(folder / "bundles" / "toy")
    lines = [f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{BUDGETS[name]}' for name in BUDGETS]
    (folder / "keys.toml").write_text("\n".join(lines))
    settings = Settings(bundles=folder / "bundles", keys=folder / "keys.toml", cache_bytes=0, watch_s=0, max_batch=4)
    app = create_app(settings, lambda model, threads: runtime)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client,
    ):
        while (await client.get("/readyz")).status_code == 503:
            await asyncio.sleep(0)
        yield client, app.state.service


async def ask(client: AsyncClient, name: str, accept: str = "application/json", **fields: Any) -> Response:
    headers = {"Authorization": f"Bearer {name}", "Accept": accept, "X-Request-ID": f"of-{name}"}
    return await client.post("/generate", json={"method": "toy", **fields}, headers=headers)


async def spend(client: AsyncClient, name: str) -> None:
    """Overdraws the key's budget, for many minutes."""
    assert (await ask(client, name, steps=1000)).status_code == 200
    assert (await ask(client, name)).status_code == 429


@pytest.mark.parametrize("accept", ["application/json", "application/x-npy"])
def test_who_shares_a_request_with_a_spent_key_gets_the_images(tmp_path: Path, accept: str) -> None:
    async def run() -> None:
        async with serving(tmp_path, ToyRuntime()) as (client, _):
            await spend(client, ALICE)
            for seed in range(TRIES):
                chance = random.Random(seed)  # noqa: S311
                names = chance.choice([[ALICE, BOB], [ALICE, CAROL, BOB], [BOB, ALICE], [ALICE, ALICE, CAROL]])
                answers = await asyncio.gather(*(ask(client, name, accept, seed=seed, steps=20) for name in names))
                for name, answer in zip(names, answers, strict=True):
                    assert answer.status_code == (429 if name == ALICE else 200), (names, name, answer.text)
                    others = {ALICE, BOB, CAROL} - {name}
                    assert not any(other in answer.text + str(answer.headers) for other in others)

    asyncio.run(run())


def test_each_who_shares_a_job_is_charged_and_one_that_fails_is_free(tmp_path: Path) -> None:
    async def run() -> None:
        runtime = ToyRuntime()
        async with serving(tmp_path, runtime) as (client, state):
            budgets = find_budgets(client)
            before = budgets[CAROL].left_s
            answers = await asyncio.gather(*(ask(client, name, seed=1, steps=50) for name in (BOB, CAROL)))
            assert {answer.headers["trilemma-cache"] for answer in answers} == {"miss", "shared"}
            assert budgets[CAROL].left_s < before
            budgets[CAROL].left_s = 5.0
            runtime.fail_on = {1}
            answers = await asyncio.gather(*(ask(client, name, seed=1, class_label=1) for name in (BOB, CAROL)))
            assert [answer.status_code for answer in answers] == [500, 500]
            assert budgets[CAROL].left_s >= 5.0
            assert not state.coalescer._jobs

    asyncio.run(run())


def find_budgets(client: AsyncClient) -> Any:
    """The work budgets by key, of the middleware that has the keys."""
    layer: Any = client._transport.app.middleware_stack  # type: ignore[attr-defined]
    while not isinstance(getattr(layer, "keys", None), Keyring):
        layer = layer.app
    return {holder.caller.name: holder.budget for _, holder in layer.keys._holders}


@pytest.mark.parametrize("leaver", [BOB, CAROL])
def test_one_of_two_who_share_a_job_cancels_for_himself(tmp_path: Path, leaver: str) -> None:
    """Whether it is the one that started the job or the one that joined it."""
    stayer = CAROL if leaver == BOB else BOB

    async def run() -> None:
        runtime = Held()
        async with serving(tmp_path, runtime) as (client, state):
            asking = {name: asyncio.create_task(ask(client, name, seed=1, steps=3)) for name in (BOB, CAROL)}
            while len(state.in_flight._entries) < 2:
                await asyncio.sleep(0)
            headers = {"Authorization": f"Bearer {leaver}"}
            assert (await client.delete(f"/requests/of-{stayer}", headers=headers)).status_code == 404
            assert (await client.delete(f"/requests/of-{leaver}", headers=headers)).status_code == 204
            assert (await asking[leaver]).status_code == 409
            runtime.go.set()
            assert (await asking[stayer]).status_code == 200

    asyncio.run(run())
