"""A protocol's own names of the fields, in what is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import InvalidRequest


@contextmanager
def renaming(name: Callable[[str], str]) -> Iterator[None]:
    """Gives the fields of an InvalidRequest the names that a protocol has for them."""
    try:
        yield
    except InvalidRequest as error:
        raise error.renamed(name) from error
