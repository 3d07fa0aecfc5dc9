"""Reads what flax's `serialization` writes, without flax: nested dictionaries in msgpack, with arrays as extensions.

msgpack has no code in it. What can still harm is a size that the file does not have.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import torch
from torch import Tensor

from importers.problems import ImportProblem
from importers.reading import open_file

ARRAY = 1  # flax's extension code of an array: packed (shape, name of the dtype, bytes)
LONGEST_LIST = 64  # the longest that is in such a file is an array's shape
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Packed(NamedTuple):
    """An extension as it lies in the file."""

    code: int
    data: bytes


def read(path: Path) -> dict[str, Any]:
    """The dictionary, whose arrays are still `Packed`. Raises ImportProblem."""
    with open_file(path) as file:
        content = unpack(file.read(), path.name)
    if not isinstance(content, dict):
        raise ImportProblem(f"{path.name}: not a flax checkpoint, but a {type(content).__name__}")
    return content


def unpack(data: bytes, source: str) -> Any:
    """One msgpack object, of which nothing is allocated that the data does not have."""
    try:
        return msgpack.unpackb(data, ext_hook=Packed, strict_map_key=False, max_array_len=LONGEST_LIST)
    except Exception as error:  # msgpack raises its own, ValueError, UnicodeDecodeError, TypeError, ...
        raise ImportProblem(f"{source}: not whole msgpack ({type(error).__name__}: {error})") from error


def tensors(tree: Mapping[Any, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The arrays of a tree of parameters, float32, by their path with dots in it. Raises ImportProblem."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from tensors(value, source, f"{path}.")
        elif isinstance(value, Packed) and value.code == ARRAY:
            yield path, tensor(value, f"{source}: {path}").float()
        else:
            raise ImportProblem(f"{source}: {path} is no array, but a {type(value).__name__}")


def tensor(packed: Packed, what: str) -> Tensor:
    """An array. Raises ImportProblem if its shape and its bytes do not agree."""
    match unpack(packed.data, what):
        case [[*shape], str(name), bytes(data)] if name in DTYPES and all(type(n) is int and n >= 0 for n in shape):
            count = len(data) // DTYPES[name].itemsize
            if math.prod(shape) * DTYPES[name].itemsize != len(data) or not count:
                raise ImportProblem(f"{what} says {math.prod(shape):,} elements and has {count:,}")
            return torch.frombuffer(bytearray(data), dtype=DTYPES[name]).reshape(shape)
        case [_, name, _]:
            raise ImportProblem(f"{what} has dtype {name}, which no weight here has")
    raise ImportProblem(f"{what} is no array of flax")
