"""A good manifest, and ways to damage it."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from bundle.manifest import MANIFEST
from tests.conftest import write_bundle

POINT = {"solver": "ddim", "steps": 4, "settings": {"eta": 0.0}, "alone_ms": 3.0, "frechet_distance": 5.0}
MEASURED = {"machine": "any", "points": [POINT]}


def good(folder: Path, **changes: Any) -> dict[str, Any]:
    """The manifest of a bundle that is written there, as JSON."""
    write_bundle(folder, measured=deepcopy(MEASURED), **changes)
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def changed(manifest: dict[str, Any], where: str, value: Any) -> str:
    """The manifest's text with the value at a dotted place; `...` takes the place away."""
    manifest = deepcopy(manifest)
    *path, last = where.split(".")
    place: Any = manifest
    for key in path:
        place = place[int(key) if isinstance(place, list) else key]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(manifest)
