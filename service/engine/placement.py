"""A model in its place: a bundle, the device that computes it, and what of both decides the bits of an image."""

from dataclasses import dataclass

from bundle.loading import Bundle


@dataclass(frozen=True, eq=False)
class Placement:
    bundle: Bundle
    device: str  # what computes it, in which precision and batch sizes
    digest: str  # SHA-256 of all that decides the images: the bundle's own, and the device's where that has a say

    @property
    def name(self) -> str:
        """What callers name as `method`."""
        return self.bundle.manifest.name
