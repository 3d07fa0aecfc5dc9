"""The engine's vocabulary: a Job is an accepted request, an Image one picture of it, a Batch the rows of one step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.step import HISTORY, Step
from service.engine import noise
from service.engine.runtime import Array, Mixture, Runtime, State, StepInputs, unguided
from service.engine.start import Picture, slerp

Priority = Literal["low", "normal", "high"]
MAX_IMAGES = 64  # of a request

T_COLUMN, NOISE_COLUMN = Step._fields.index("t"), Step._fields.index("noise_std")
HISTORY_COLUMNS = [Step._fields.index(name) for name in HISTORY]


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that an image has taken, with the clean image that it predicts if the caller wants previews."""

    image: int  # its index
    index: int  # of the step; 1 for the first
    of: int
    preview: Array | None  # (C, H, W) in about [−1, 1]


@dataclass(eq=False, slots=True)
class Job:
    """An accepted request. Only the holder of the engine's lock changes it, until `done` is called, once."""

    id: str
    method: str
    model: str  # digest of the model that it runs on
    coefficients: Array  # (steps, columns): a row a step, columns as `models.step.Step`
    shape: tuple[int, int, int]  # of an image's state
    z_dim: int  # dimension of the network's z; 0: none
    label: int  # the number of classes means "no class"
    seed: int
    n: int
    submitted_s: float
    first_index: int = 0  # of its images: they are a part of those that the seed has
    picture: Picture | None = None  # that its images begin at; None: x_T alone
    signal: Array | None = None  # (steps, 2): α and σ of the state at the start of each step, for a picture
    starts: tuple[Array, ...] = ()  # x_T in place of the seed's; of two, the images lie between them
    to_seed: int | None = None  # the images lie between those of both seeds, at the first index
    decodes: bool = True  # false: the last state is what the caller wants
    guidance: float = 1.0  # w of classifier-free guidance, ε = ε(no class) + w·(ε(class) − ε(no class)); 1: without
    no_label: int = 0  # what `label` is for "no class"; read with guidance
    priority: Priority = "normal"
    deadline_s: float = math.inf  # when its last step must be done, on the engine's clock
    due_s: float = 0.0  # what the policy orders by; set at admission
    preview_every: int = 0  # steps; 0: none
    watch: Callable[[Progress], object] | None = None  # called for each step, on an engine's thread
    done: Callable[[], object] = lambda: None  # set by the engine when it accepts the job
    started_s: float = 0.0
    finished_s: float = 0.0
    error: Exception | None = None
    reads_older: bool = field(init=False)  # whether a step reads an x0 from before that of the last step
    images: list["Image"] = field(init=False)
    unfinished: int = field(init=False)
    steps_left: int = field(init=False)  # of all its images

    def __post_init__(self) -> None:
        self.reads_older = bool(self.coefficients[:, HISTORY_COLUMNS[1:]].any())
        self.images = self.new_images()
        self.steps_left = sum(image.steps for image in self.images)
        self.unfinished = self.n

    def new_images(self) -> list["Image"]:
        return [Image(self, self.first_index + i) for i in range(self.n)]

    @property
    def steps(self) -> int:
        """Network evaluations an image."""
        return len(self.coefficients)

    @property
    def asked(self) -> tuple[str, int]:
        """The field of the request that makes it as large as it is, and its value."""
        return ("n", self.n) if self.n > 1 else ("steps", self.steps)

    @property
    def masked(self) -> bool:
        return self.picture is not None and self.picture.mask is not None

    @property
    def interpolates(self) -> bool:
        return self.to_seed is not None or len(self.starts) > 1

    @property
    def rows(self) -> int:
        """Rows of a batch for each image: two with guidance."""
        return 1 if self.guidance == 1 else 2

    @property
    def previews(self) -> float:
        """Previews that each image asks for, a step: one every so many."""
        return 1 / self.preview_every if self.watch is not None and self.preview_every else 0.0

    @property
    def longest_left(self) -> int:
        """The largest number of steps left of any image."""
        return self.steps_left if self.n == 1 else max(image.steps_left for image in self.images)


@dataclass(eq=False, slots=True)
class Image:
    """One image in progress: x is its state after `step` steps, and x0 the clean state predicted last."""

    job: Job
    index: int
    step: int = 0
    begun: bool = False
    running: bool = False  # in a batch that has not come back
    x: State | None = None  # None: x_T is not drawn yet, so a waiting image holds no memory
    x0: State | None = None
    older: tuple[State, ...] = ()  # the two x0 before it, the newer first, where the plan reads them
    pixels: Array = field(init=False)  # when finished: (C, H, W) in about [−1, 1]

    def draw_initial(self) -> None:
        """Draws x_T, or takes it from the caller's."""
        starts = self.job.starts
        self.x = slerp(starts[0], starts[-1], self.share) if starts else self._normal(noise.INITIAL, self.job.shape)
        self.x0 = np.zeros_like(self.x)

    def begin_at_picture(self, runtime: Runtime) -> None:
        """Begins at the job's picture, with the noise of the first step's level."""
        self.draw_initial()
        assert self.x is not None
        self.x = self._noisy_picture(runtime, self.x)

    def keep_known(self, x: Array, runtime: Runtime) -> Array:
        """A step's x with the known part of the picture, as noisy as x is, in its place."""
        assert self.job.picture is not None
        drawn = self._normal(noise.INITIAL, self.job.shape)
        return self.job.picture.keep_state(x, self._noisy_picture(runtime, drawn, self.step + 1))

    def _noisy_picture(self, runtime: Runtime, drawn: Array, step: int = 0) -> Array:
        """α·picture + σ·noise, as the state is at the start of this step."""
        assert self.job.picture is not None
        assert self.job.signal is not None
        alpha, sigma = self.job.signal[step]
        noisy: Array = alpha * self.job.picture.state(runtime) + sigma * drawn
        return noisy

    def advance(self, x: State, x0: State) -> None:
        """Sets the results of a step."""
        if self.job.reads_older and self.step:
            self.older = (self.x0, *self.older)[:2]
        self.x, self.x0 = x, x0
        self.step += 1

    def release(self) -> None:
        """Drops the state, which may be a device's memory; the pixels stay."""
        self.x = self.x0 = None
        self.older = ()

    def draw_noise(self) -> Array:
        """The noise of the next step."""
        return self._normal(self.step + 1, self.job.shape)

    def draw_z(self) -> Array:
        """The network's z for the next step, (z_dim,)."""
        return self._normal(self.step + 1, (self.job.z_dim,), noise.Z)

    @property
    def share(self) -> float:
        """How far it lies from the first of the images that it is between to the last."""
        return (self.index - self.job.first_index) / (self.job.n - 1) if self.job.interpolates else 0.0

    def _normal(self, stream: int, shape: tuple[int, ...], use: int = noise.UPDATE) -> Array:
        """Noise of the seed or, between two seeds, the spherical mean of both."""
        job = self.job
        index = job.first_index if job.interpolates else self.index
        drawn = noise.normal(job.seed, index, stream, shape, use)
        if job.to_seed is None:
            return drawn
        return slerp(drawn, noise.normal(job.to_seed, index, stream, shape, use), self.share)

    @property
    def steps(self) -> int:
        return self.job.steps

    @property
    def row(self) -> Array:
        """The coefficients of its next step."""
        row: Array = self.job.coefficients[self.step]
        return row

    @property
    def label(self) -> int:
        return self.job.label

    @property
    def steps_left(self) -> int:
        return self.steps - self.step

    @property
    def finished(self) -> bool:
        return self.steps_left == 0

    @property
    def wants_preview(self) -> bool:
        """Whether its caller wants to see what its next step gives."""
        return self.job.previews > 0 and (self.step + 1) % self.job.preview_every == 0

    @property
    def previews_left(self) -> int:
        """How many of its steps left its caller wants to see."""
        if not self.job.previews:
            return 0
        return self.steps // self.job.preview_every - self.step // self.job.preview_every

    @property
    def ready(self) -> bool:
        """Whether it could take a step now."""
        return not (self.running or self.finished)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one model, at any step of any plan, that take their next step together."""

    images: list[Image]

    @property
    def method(self) -> str:
        return self.images[0].job.method

    @property
    def model(self) -> str:
        return self.images[0].job.model

    @property
    def rows(self) -> int:
        return sum(image.job.rows for image in self.images)

    @property
    def first_rows(self) -> list[int]:
        """Each image's row or, with guidance, the first of its two, which is that of the class."""
        return [0, *accumulate(image.job.rows for image in self.images)][:-1]

    def inputs(self) -> StepInputs:
        """The inputs of the step. It draws the rows' noise, which takes too long for the holder of a lock."""
        job = self.images[0].job
        for image in self.images:
            if image.x is None:
                image.draw_initial()
        images = [image for image in self.images for _ in range(image.job.rows)]
        coefficients = np.empty((len(images), job.coefficients.shape[1]), dtype=np.float32)
        for row, image in enumerate(images):
            coefficients[row] = image.row
        guidance = self._guidance() if len(images) > len(self.images) else {}
        return StepInputs(
            x=[image.x for image in images],
            t=coefficients[:, T_COLUMN],
            y=self._labels(),
            noise=self._noise(images, coefficients[:, NOISE_COLUMN]),
            x0_prev=self._history(images, coefficients),
            coefficients=coefficients[:, T_COLUMN + 1 :],
            z=np.stack([image.draw_z() for image in images]) if job.z_dim else None,
            **guidance,
        )

    def _labels(self) -> NDArray[np.int64]:
        labels = [(image.label, image.job.no_label)[row] for image in self.images for row in range(image.job.rows)]
        return np.array(labels, dtype=np.int64)

    def _history(self, images: list[Image], coefficients: Array) -> list[State | Mixture]:
        """x0_prev of each row: a mixture of earlier x0, with the factor 1, for a step that reads more than the last."""
        states: list[State | Mixture] = [image.x0 for image in images]
        for row, image in enumerate(images):
            if image.older:
                earlier = (image.x0, *image.older)
                states[row] = Mixture(coefficients[row, HISTORY_COLUMNS[: len(earlier)]], earlier)
                coefficients[row, HISTORY_COLUMNS[0]] = 1
        return states

    def _noise(self, images: list[Image], noise_std: Array) -> Array:
        """Fresh noise for the rows that use it; zero for the others. The two rows of an image have the same."""
        drawn = np.zeros((len(images), *images[0].job.shape), dtype=np.float32)
        for row, image in enumerate(images):
            if row and images[row - 1] is image:
                drawn[row] = drawn[row - 1]
            elif noise_std[row]:
                drawn[row] = image.draw_noise()
        return drawn

    def _guidance(self) -> dict[str, NDArray[Any]]:
        """`pair` and `weights` of `StepInputs`: the rows of a guided image are a pair."""
        inputs = unguided(self.rows)
        pair, weights = inputs["pair"], inputs["weights"]
        for row, image in zip(self.first_rows, self.images, strict=True):
            if image.job.rows == 2:
                w = image.job.guidance
                pair[row : row + 2] = row + 1, row
                weights[row : row + 2] = (w, 1 - w), (1 - w, w)
        return inputs
