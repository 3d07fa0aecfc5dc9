"""What gRPC and REST are compared by."""

from pathlib import Path

from loadtests import grpc_benchmark
from tests.conftest import write_bundle
from tests.protocols.grpc_calls import served


def test_a_turn_has_figures_of_each_kind_for_both(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with served(tmp_path) as (url, address, _):
        figures = {
            name: dict(grpc_benchmark.turn(url, name, where, "toy", 32))
            for name, where in (("REST", url.removeprefix("http://")), ("gRPC", address))
        }
    assert list(figures["REST"]) == list(figures["gRPC"])
    for each in figures.values():
        assert 0 < each["a call of 4 steps, median, ms"] <= each["a call of 4 steps, p99, ms"]
        assert each["16 callers, calls a second"] > 0
