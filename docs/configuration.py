"""Writes docs/configuration.md from the service's settings: `python -m docs.configuration`."""

from pathlib import Path
from typing import Any

from service.settings import SHIPPED_BUNDLES, Settings

PAGE = Path(__file__).parent / "configuration.md"
SHOWN = {SHIPPED_BUNDLES: "`bundles`", None: "none"}  # defaults that would show a machine's paths, or nothing
COMPUTED = {
    "methods": "all",
    "workers": "one a processor",
    "max_connections": "2048, or what descriptors allow",
}  # on each machine
UNITS = {"_s": "s", "_bytes": "bytes", "_images": "images", "max_batch": "images"}  # by the end of the name
HEAD = """\
# Configuration

Written by `python -m docs.configuration` from `service/settings.py`. Change it there.

`./run serve` takes each setting from the command line (`--max-batch 8`), then from the environment
(`TRILEMMA_MAX_BATCH=8`), then the default. `./run serve --help` lists them too.

| option | environment | default | unit | meaning | change it |
|---|---|---|---|---|---|
"""


def page() -> str:
    return HEAD + "".join(map(row, Settings.model_fields))


def row(name: str) -> str:
    field = Settings.model_fields[name]
    extra = field.json_schema_extra
    assert isinstance(extra, dict), f"{name}: say when to change it"
    option, variable = f"`--{name.replace('_', '-')}`", f"`TRILEMMA_{name.upper()}`"
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
    default = COMPUTED.get(name) or shown(field.default)
    return f"| {option} | {variable} | {default} | {unit} | {field.description} | {extra['change']} |\n"


def shown(default: Any) -> str:
    """A default as it is written on the command line."""
    if default is None or isinstance(default, Path):
        return SHOWN[default]
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    PAGE.write_text(page())
