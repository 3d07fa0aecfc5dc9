"""Who calls, and how much each asks for: what `locustfile` plays and `load` reckons with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of user: so many images at once, a request every so many seconds, this weight among the users."""

    images: int
    pacing_s: float
    weight: int

    def steps_per_s(self, steps: float) -> float:
        """What one such user asks of the server when an image takes `steps` steps."""
        return self.images * steps / self.pacing_s


KINDS = {
    "browsing": Kind(images=1, pacing_s=3, weight=5),
    "hurried": Kind(images=1, pacing_s=3, weight=2),
    "watching": Kind(images=1, pacing_s=3, weight=2),
    "batch": Kind(images=16, pacing_s=30, weight=1),
}
