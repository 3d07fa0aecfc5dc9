"""Random values: numbers of any length, strings of any character, and JSON of any shape, with what is nearly right."""

import json
from random import Random
from typing import Any

NUMBERS = ["0", "1", "2", "3", "-1", "-0", "1.0", "0.5", "1e0", "1e308", "1e309", "-1e999", "1e-999", "NaN", "Infinity"]
NUMBERS += ["2147483648", "9007199254740993", "18446744073709551615", "18446744073709551616", "1e18446744073709551616"]
STRINGS = [
    "",
    "auto",
    "ddim",
    "vdm",
    "ddgan",
    "3",
    "cat",
    "png",
    "high",
    "\x00",
    "é",
    "\U0001f600",
    "../..",
    "a" * 5000,
]


class Raw(str):
    """JSON as it is."""


def number(random: Random) -> Raw:
    if random.random() < 0.7:
        return Raw(random.choice(NUMBERS))
    digits = "".join(random.choices("0123456789", k=random.choice((1, 5, 20, 400, 5000, 30_000)))).lstrip("0") or "0"
    return Raw(digits + random.choice(("", ".5", "e5", "e-400")))


def text(random: Random) -> Any:
    if random.random() < 0.05:
        return Raw('"\\ud800"')  # half a character
    if random.random() < 0.6:
        return random.choice(STRINGS)
    return "".join(
        chr(random.choice((random.randrange(32, 127), random.randrange(0xD800)))) for _ in range(random.randrange(30))
    )


def value(random: Random, depth: int = 3) -> Any:
    """Any JSON."""
    kind = random.randrange(7 if depth else 5)
    if kind == 5:
        return [value(random, depth - 1) for _ in range(random.choice((0, 1, 3, 300 if depth == 1 else 3)))]
    if kind == 6:
        return {str(text(random)): value(random, depth - 1) for _ in range(random.randrange(4))}
    return random.choice((number(random), number(random), text(random), text(random), True, None))


def fields(random: Random, likely: dict[str, list[Any]]) -> dict[str, Any]:
    """Some of these fields, most with a likely value; now and then one that does not exist."""
    chosen = {
        name: random.choice(values) if random.random() < 0.9 else value(random)
        for name, values in likely.items()
        if random.random() < 0.2
    }
    if random.random() < 0.05:
        chosen[str(text(random))] = value(random)
    return chosen


def dumps(content: Any) -> bytes:
    """JSON, with Raw as it is; what UTF-8 cannot say as an escape."""
    match content:
        case Raw():
            return content.encode()
        case dict():
            items = (json.dumps(key).encode() + b":" + dumps(item) for key, item in content.items())
            return b"{" + b",".join(items) + b"}"
        case list():
            return b"[" + b",".join(map(dumps, content)) + b"]"
    return json.dumps(content).encode()
