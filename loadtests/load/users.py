"""The kinds of users of the load test: `locustfile` plays them, and `load.run` computes the load that they cause."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of user."""

    images: int  # of each request
    pacing_s: float  # from a request to the next
    weight: int  # among the users

    def steps_per_s(self, steps: float) -> float:
        """Steps a second that one such user requests when an image takes `steps` steps."""
        return self.images * steps / self.pacing_s


KINDS = {
    "browsing": Kind(images=1, pacing_s=3, weight=5),
    "hurried": Kind(images=1, pacing_s=3, weight=2),
    "watching": Kind(images=1, pacing_s=3, weight=2),
    "batch": Kind(images=16, pacing_s=30, weight=1),
}
