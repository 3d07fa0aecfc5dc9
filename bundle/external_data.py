"""Which files an ONNX graph keeps its weights in, beside its own.

The service has no package that reads ONNX files, so this reads the few fields that it needs of the Protocol Buffers
encoding (https://protobuf.dev/programming-guides/encoding). The field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from bundle.files import BundleError, name, open_regular

MODEL, GRAPH, NODE, ATTRIBUTE, FUNCTION, SPARSE, TENSOR, ENTRY = range(8)
MESSAGES: dict[int, dict[int, int]] = {  # by kind of message: the fields that are messages, and their kinds
    MODEL: {7: GRAPH, 20: MODEL, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {13: ENTRY},
    ENTRY: {},
}
KEY, VALUE = 1, 2  # fields of ENTRY
MAX_DEPTH = 64  # of graphs within graphs
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def external_files(path: Path, root: Path) -> set[str]:
    """The names that the graph has for its external files. Raises BundleError if it is not a graph."""
    with open_regular(path, root) as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return set(_locations(content, 0, len(content), MODEL, 0))
        except (IndexError, ValueError) as error:  # also for an empty file
            raise BundleError(f"{name(path)}: it is no ONNX graph") from error


def _locations(content: mmap.mmap, start: int, end: int, kind: int, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    key = value = b""
    for field, begin, stop in _fields(content, start, end):
        if kind == ENTRY and field in (KEY, VALUE):
            key, value = (content[begin:stop], value) if field == KEY else (key, content[begin:stop])
        elif field in MESSAGES[kind]:
            yield from _locations(content, begin, stop, MESSAGES[kind][field], depth + 1)
    if key == b"location":
        yield value.decode(errors="backslashreplace")


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number, start and end of each field that has a length. Raises ValueError for what is no message."""
    while position < end:
        tag, position = _varint(content, position, end)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            _, position = _varint(content, position, end)
        elif wire_type in (FIXED32, FIXED64):
            position += 4 if wire_type == FIXED32 else 8
        elif wire_type == BYTES:
            length, position = _varint(content, position, end)
            if length > end - position:
                raise ValueError("a field ends beyond its message")
            yield field, position, position + length
            position += length
        else:
            raise ValueError(f"wire type {wire_type}")
    if position != end:
        raise ValueError("a message ends within a field")


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number without an end")
