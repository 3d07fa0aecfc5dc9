from collections.abc import Iterator

import pytest

from tests.service.http.sockets import serving


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("served"), max_body_bytes=65536) as port:
        yield port
