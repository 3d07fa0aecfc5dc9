"""Every problem has a gRPC status, by the mapping of HTTP's codes, within what a client takes as metadata."""

from http import HTTPStatus
from urllib.parse import quote

import grpc
import pytest
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.errors import FieldError, InvalidRequest, Overloaded, Problem
from service.grpc_oip import grpc_status

# google/rpc/code.proto says which HTTP status each code has. CANCELLED is 499 there, which is no status of HTTP's own.
HTTP_OF = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


@pytest.mark.parametrize(("status", "name"), HTTP_OF.items())
def test_a_status_of_http_is_googles_code(status: int, name: str) -> None:
    code = grpc_status.CODES[HTTPStatus(status)]
    assert (code.name, code.value[0]) == (name, code_pb2.Code.Value(name))


def test_what_can_happen_to_a_call_has_a_status_of_its_own() -> None:
    over_http_alone = {403, 406, 413, 415, 421, 431}  # of heads, bodies, pages and administrators
    problems = {each.status for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Problem)}
    assert {status.value for status in problems - grpc_status.CODES.keys()} == over_http_alone


texts = st.text(max_size=400) | st.sampled_from(["x" * 400, "九" * 300, "\U0001f3a8" * 300, "\ud800", "\0\r\n"])


@given(
    st.lists(
        st.builds(FieldError, field=texts, detail=texts, allowed=st.none() | st.text(max_size=400)),
        min_size=1,
        max_size=40,
    )
)
def test_a_refusal_is_within_the_metadata_that_clients_take(refused: list[FieldError]) -> None:
    problem = InvalidRequest(refused)
    ((_, details),) = grpc_status.trailing_metadata(problem)
    assert isinstance(details, bytes)
    assert len(quote(grpc_status.text(problem))) + len(details) * 4 / 3 < 8192


def test_the_delay_is_in_both_forms() -> None:
    (_, (name, seconds)) = grpc_status.trailing_metadata(Overloaded("later", 2.5))
    assert (name, seconds) == ("retry-after", "3")
    assert grpc_status.code(Overloaded("later", 2.5)) == grpc.StatusCode.RESOURCE_EXHAUSTED
