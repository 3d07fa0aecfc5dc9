"""JSON as RFC 8259 has it, and no more: finite numbers, and each name once."""

import json
import math
from typing import Any


def loads(content: bytes) -> Any:
    """Raises ValueError for what is no such JSON, also if it is nested too deeply."""
    try:
        return json.loads(content, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name is there twice")
    return table
