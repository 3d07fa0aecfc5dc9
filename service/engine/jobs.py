"""The engine's vocabulary: a Job is an accepted request, an Image one picture of it, a Batch the rows of one step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine import noise
from service.http.schemas import Priority

Array = NDArray[np.float32]
State = Any  # a row's x or x0: an Array (C, H, W), or what stands for it where its runtime keeps it
States = Any  # rows of them, with a `shape`: an Array (n, C, H, W), or what is indexed like one
Inputs = dict[str, Any]  # arrays, a row an image; x and x0_prev may be lists of states

NOISE_COLUMN = -1  # N in a line of the table


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that an image has done, and what the clean image looks like so far, where that was asked for."""

    image: int
    index: int  # 1 for the first
    of: int
    preview: Array | None  # (C, H, W) in about [−1, 1]


@dataclass(eq=False, slots=True)
class Job:
    """An accepted request. Only who holds the engine's lock changes it, until `done` is called, once."""

    id: str
    method: str
    table: Array  # (steps, 9): a line a step, columns as `models.solvers.Step`
    shape: tuple[int, int, int]  # of an image's state
    latent: int  # numbers z that the network takes a step
    label: int  # the number of classes means "no class"
    seed: int
    n: int
    submitted_s: float
    model: str = ""  # the digest of the model that it runs on; the method where it is not given
    priority: Priority = "normal"
    deadline_s: float = math.inf  # when its last step must be done, on the engine's clock
    due_s: float = 0.0  # what the policy orders by; set at admission
    preview_every: int = 0  # steps; 0: none
    watch: Callable[[Progress], object] | None = None  # told of each step, on an engine's thread
    done: Callable[[], object] = lambda: None  # set by the engine when it accepts the job
    started_s: float = 0.0
    finished_s: float = 0.0
    error: Exception | None = None
    images: list["Image"] = field(init=False)
    unfinished: int = field(init=False)
    steps_left: int = field(init=False)  # of all its images

    def __post_init__(self) -> None:
        self.model = self.model or self.method
        self.steps_left = self.n * len(self.table)
        self.images = [Image(self, index) for index in range(self.n)]
        self.unfinished = self.n

    @property
    def longest_left(self) -> int:
        """Steps that the image farthest from its end still takes."""
        return self.steps_left if self.n == 1 else max(len(self.table) - image.step for image in self.images)


@dataclass(eq=False, slots=True)
class Image:
    """One image on its way: after `step` steps its state is x, and x0 is the clean state predicted last."""

    job: Job
    index: int
    step: int = 0
    begun: bool = False
    running: bool = False  # in a batch that has not come back
    x: State = field(init=False)
    x0: State = field(init=False)
    pixels: Array = field(init=False)  # when finished: (C, H, W) in about [−1, 1]

    def begin(self) -> None:
        """Draws x_T; called when the image first enters a batch, so that a waiting one holds no memory."""
        self.begun = True
        self.x = noise.normal(self.job.seed, self.index, noise.INITIAL, self.job.shape)
        self.x0 = np.zeros_like(self.x)

    def let_go(self) -> None:
        """Drops the state, which may be a device's memory; what was made of it stays."""
        self.x = self.x0 = None

    def fresh_noise(self) -> Array:
        """The noise of the next step."""
        return noise.normal(self.job.seed, self.index, self.step + 1, self.job.shape)

    def fresh_z(self) -> Array:
        """The network's z for the next step, (latent,)."""
        return noise.normal(self.job.seed, self.index, self.step + 1, (self.job.latent,), noise.LATENT)

    @property
    def finished(self) -> bool:
        return self.step == len(self.job.table)

    @property
    def ready(self) -> bool:
        """Whether it could take a step now."""
        return not (self.running or self.finished)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one method, at any step of any plan, that take their next step together."""

    method: str
    images: list[Image]

    @property
    def last(self) -> list[int]:
        """The rows for which this step is the last of their plan."""
        return [row for row, image in enumerate(self.images) if image.step + 1 == len(image.job.table)]

    def inputs(self) -> Inputs:
        """The step graph's inputs, a row an image: see `export.step_module.StepModule`."""
        images, job = self.images, self.images[0].job
        lines = np.empty((len(images), job.table.shape[1]), dtype=np.float32)
        fresh = np.zeros((len(images), *job.shape), dtype=np.float32)
        for row, image in enumerate(images):
            lines[row] = image.job.table[image.step]
            if lines[row, NOISE_COLUMN]:
                fresh[row] = image.fresh_noise()
        inputs: Inputs = {
            "x": stack([image.x for image in images]),
            "t": lines[:, 0],
            "y": np.array([image.job.label for image in images], dtype=np.int64),
            "noise": fresh,
            "x0_prev": stack([image.x0 for image in images]),
            "coefficients": lines[:, 1:],
        }
        if job.latent:
            inputs["z"] = np.stack([image.fresh_z() for image in images])
        return inputs


def stack(rows: Sequence[State]) -> States:
    """The rows as one array, or as they are if a device has some of them."""
    if not all(isinstance(row, np.ndarray) for row in rows):
        return rows
    together = np.empty((len(rows), *rows[0].shape), dtype=np.float32)
    for place, row in zip(together, rows, strict=True):  # np.stack takes three times as long
        place[...] = row
    return together
