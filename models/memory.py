"""Refuses what cannot fit into this machine's memory, before it is read."""

import os

from models.failures import DataError


def check_fits(size: int, what: str) -> None:
    """Raises DataError if `size` bytes are more than the machine has; `what` says of what they are."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > installed:
        raise DataError(f"{what} take {size / 1e9:,.1f} GB of memory, and this machine has {installed / 1e9:,.1f} GB")
