"""A folder of bundles: which folders in it are bundles, and which of them has a name that several have."""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from bundle.files import BundleError, shown


def bundle_folders(root: Path) -> list[Path]:
    """By name. Raises BundleError if `root` cannot be read.

    A hidden folder is an export under way, or of a volume's own. A link to nowhere counts: its volume may be away.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(root / each.name for each in entries if not each.name.startswith(".") and _is_folder(each))
    except OSError as error:
        raise BundleError(f"the bundles' folder cannot be read: {error.strerror}") from error


def without_the_name(names: Mapping[str, str], holders: Mapping[str, str]) -> dict[str, str]:
    """The folders that may not have their model's name, and why. `names` has the name of each folder's model.

    `holders` has the folder of each name that is being served: that one keeps it. Else the folder that is called as the
    model is has it, or else none: no order decides which of two models answers.
    """
    by_name: dict[str, set[str]] = defaultdict(set)
    for folder, name in names.items():
        by_name[name].add(folder)
    refused = {}
    for name, folders in by_name.items():
        holder = holders.get(name, name)
        claimants = folders | {holders[name]} if name in holders else folders
        if len(claimants) > 1:
            for folder in folders - {holder}:
                others = ", ".join(sorted(shown(other) for other in claimants - {folder}))
                refused[folder] = f"{shown(folder)}: its name {name!r} is that of {others} too"
    return refused


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() or (entry.is_symlink() and not entry.is_file())
    except OSError:
        return True  # loading it says why
