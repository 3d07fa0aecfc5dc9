"""The bound on an image's likelihood as rows of the engine's batches: a row a term.

Terms need no order. An image's terms are dealt to *lanes*, which are images to the scheduler: a lane's steps are its
terms. So a single image fills batches, and a job has no more images than one that generates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.bound import Bound, Parts, Terms
from service.engine import noise
from service.engine.jobs import MAX_IMAGES, Image, Job
from service.engine.runtime import Array, State


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """An image whose bound is evaluated, (C, H, W) of 0 to 255, its index and class, and the terms drawn for it."""

    pixels: NDArray[np.uint8]
    index: int
    label: int
    bound: Bound
    terms: Terms

    @property
    def image(self) -> NDArray[np.float64]:
        """In [−1, 1]; made anew each time, as a whole request of them takes eight times the memory of its pixels."""
        return self.pixels / 127.5 - 1


@dataclass(eq=False, slots=True, kw_only=True)
class LikelihoodJob(Job):
    """A job whose images are lanes, in the order of its subjects."""

    subjects: Sequence[Subject]

    @property
    def asked(self) -> tuple[str, int]:
        return "terms", self.subjects[0].terms.of_diffusion

    def new_images(self) -> list[Image]:
        lanes = self.n // len(self.subjects)
        return [Lane(self, subject.index, subject=subject, first=i) for subject in self.subjects for i in range(lanes)]

    def parts(self) -> list[Parts]:
        """The bound of each subject, once the job is done."""
        lanes = self.n // len(self.subjects)
        parts = []
        for i, subject in enumerate(self.subjects):
            nats = np.empty(len(subject.terms.table))
            for lane in self.images[i * lanes : (i + 1) * lanes]:
                assert isinstance(lane, Lane)
                nats[lane.first :: lanes] = lane.nats
            parts.append(subject.bound.parts(subject.image, nats))
        return parts


def lanes_of(subjects: int, terms: int) -> int:
    """Lanes of each subject."""
    return max(1, min(terms, MAX_IMAGES // subjects))


@dataclass(eq=False, slots=True, kw_only=True)
class Lane(Image):
    """Every so manieth term of a subject from the term `first` on. Its state is drawn anew for each."""

    subject: Subject
    first: int
    nats: list[float] = field(default_factory=list)  # of the terms so far

    @property
    def stride(self) -> int:
        assert isinstance(self.job, LikelihoodJob)
        return self.job.n // len(self.job.subjects)

    @property
    def steps(self) -> int:
        return len(range(self.first, len(self.subject.terms.table), self.stride))

    @property
    def place(self) -> int:
        """Its next term."""
        return self.first + self.step * self.stride

    @property
    def row(self) -> Array:
        row: Array = self.subject.terms.table[self.place]
        return row

    @property
    def label(self) -> int:
        return self.subject.label

    def draw_initial(self) -> None:
        """Draws the state of its next term, x_t given the image."""
        k, terms, image = self.place, self.subject.terms, self.subject.image.astype(np.float32)
        eps = noise.normal(self.job.seed, self.index, k, image.shape, noise.TERM)
        self.x = np.float32(terms.alpha[k]) * image + np.float32(terms.sigma[k]) * eps
        self.x0 = np.zeros_like(self.x)

    def draw_noise(self) -> Array:
        return np.ones(self.job.shape, dtype=np.float32)

    def term(self, x0: Array, ratio: Array) -> float:
        """The term that a step was for, from the step's x0 and x_new."""
        mean, deviation = x0.astype(np.float64), ratio.astype(np.float64)
        return self.subject.bound.nats(self.subject.terms, self.place, self.subject.image, mean, deviation)

    def advance(self, x: State, x0: State) -> None:
        self.step += 1
        self.release()
