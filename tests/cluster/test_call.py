"""What the router reads in a request, and how it sends one once more."""

import json
from typing import Any

import pytest

from cluster.call import Call

HEAD = {"type": "http", "query_string": b"", "headers": [(b"host", b"a"), (b"connection", b"close")]}


def call(path: str = "/generate", body: object = None, **scope: Any) -> Call:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call.of({**HEAD, "method": "POST", "path": path, "raw_path": path.encode(), **scope}, content, 100.0)


def tensor(name: str, value: int) -> dict[str, Any]:
    return {"name": name, "shape": [1], "datatype": "INT32", "data": [value]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"method": "ddim", "steps": 20, "n": 3, "seed": 1}),
        ("/v1/images/generations", {"model": "ddim", "num_inference_steps": 20, "n": 3, "seed": 1, "prompt": "3"}),
        ("/v2/models/ddim/infer", {"inputs": [tensor("steps", 20), tensor("n", 3), tensor("seed", 1)]}),
    ],
)
def test_work_is_read_from_each_protocol(path: str, body: dict[str, Any]) -> None:
    request = call(path, body)
    assert (request.method, request.steps(7), request.rows(), request.repeats) == ("ddim", 20, 3, True)


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{", b"\xff", {"inputs": 3}, {"steps": "x", "n": None, "deadline_ms": []}]
)
def test_a_body_that_a_replica_will_refuse_is_sent_as_it_is(body: object) -> None:
    for path in ("/generate", "/v2/models/m/infer"):
        request = call(path, body)
        before = request.body
        request.sent_again(105.0)
        request.due_s(1.0)
        assert (request.steps(7), request.rows(), request.body) == (7, 1, before)


def test_guidance_takes_two_rows() -> None:
    assert call(body={"method": "ddim", "n": 2, "guidance": 2.5}).rows() == 4


def test_time_that_has_passed_is_taken_off_the_deadline() -> None:
    request = call(body={"method": "ddim", "deadline_ms": 1000, "seed": 1})
    request.sent_again(100.25)
    assert json.loads(request.body) == {"method": "ddim", "deadline_ms": 750, "seed": 1}
    request.sent_again(100.5)
    assert json.loads(request.body)["deadline_ms"] == 500
    assert request.arrived_s + request.due_within_s == pytest.approx(101.0)


def test_a_tensor_s_deadline_is_shortened_too() -> None:
    request = call("/v2/models/m/infer", {"inputs": [tensor("deadline_ms", 1000)]})
    request.sent_again(100.25)
    assert json.loads(request.body) == {"inputs": [tensor("deadline_ms", 750)]}


def test_a_deadline_that_has_passed_is_refused_by_the_next_replica_rather_than_invalid() -> None:
    request = call(body={"deadline_ms": 1000})
    request.sent_again(102.0)
    assert json.loads(request.body) == {"deadline_ms": 1}


def test_a_drawn_seed_is_kept_and_a_caller_s_own_is_not_replaced() -> None:
    drawn, own = call(body={"method": "ddim"}), call(body={"method": "ddim", "seed": 1})
    for request in (drawn, own):
        request.seeded("7")
    assert (json.loads(drawn.body)["seed"], json.loads(own.body)["seed"]) == (7, 1)


def test_headers_of_the_connection_stay_there_and_each_request_has_an_id() -> None:
    names = [name for name, _ in call(body={}).headers]
    assert names == [b"host", b"x-request-id"]


def test_requests_with_other_answers_have_other_keys() -> None:
    png = {"headers": [(b"accept", b"image/png")]}
    one, again = call(body={"seed": 1}), call(body={"seed": 1})
    others = [call(body={"seed": 2}), call(body={"seed": 1}, **png), call("/invert", {"seed": 1})]
    assert one.key == again.key
    assert len({one.key, *(other.key for other in others)}) == 4
