"""A bundle and the device that computes it; both decide the bits of an image."""

from dataclasses import dataclass

from bundle.loading import Bundle


@dataclass(frozen=True, eq=False)
class Placement:
    """A model as it is served."""

    bundle: Bundle
    device: str  # its name, with precision and batch sizes if it is a GPU
    digest: str  # SHA-256 of all that decides the images: the bundle's own on the CPU, with the device's on a GPU

    @property
    def name(self) -> str:
        """The name that callers give as `method`."""
        return self.bundle.manifest.name
