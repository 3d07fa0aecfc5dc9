"""Which bundles are served: all, or those whose methods `--methods` names."""

from collections.abc import Sequence
from pathlib import Path

from bundle import files, strict_json
from bundle.files import BundleError
from bundle.folders import bundle_folders
from bundle.loading import MAX_MANIFEST_BYTES
from bundle.manifest import MANIFEST
from service.settings import Settings


def check(settings: Settings) -> None:
    """Raises ValueError if a named method has no bundle."""
    if not settings.methods:
        return
    try:
        methods = sorted(set(map(method_of, bundle_folders(settings.bundles))))
    except BundleError as error:
        raise ValueError(str(error)) from error
    if unknown := [name for name in settings.methods if name not in methods]:
        there = ", ".join(map(files.shown, methods)) or "none"
        raise ValueError(f"methods (--methods): {settings.bundles} has no {', '.join(unknown)}; it has {there}")


def chosen(folders: Sequence[Path], methods: Sequence[str]) -> Sequence[Path]:
    """The folders of the bundles to serve."""
    return [folder for folder in folders if method_of(folder) in methods] if methods else folders


def method_of(folder: Path) -> str:
    """A bundle's method; the folder's name where the manifest cannot be read: loading it says why."""
    try:
        manifest = strict_json.loads(files.read(folder / MANIFEST, folder.parent, MAX_MANIFEST_BYTES))
    except (BundleError, ValueError):
        return folder.name
    name = manifest.get("name") if isinstance(manifest, dict) else None
    return name if isinstance(name, str) else folder.name
