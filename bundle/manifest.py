"""A bundle: a folder with a model ready to run and a `manifest.json` of what it is and what it may be asked."""

import hashlib
import json
import math
import secrets
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models import families
from models.families import Family
from models.solvers import Setting
from service.engine.jobs import Array, Batch, Inputs, Job
from service.errors import FieldError, InvalidRequest
from service.http.schemas import MAX_SEED, GenerateRequest

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1
ANSWER = 0.1  # of a deadline, at most, is left for the answer
AUTO = "auto"  # as `method`: the service chooses
STEP, DECODE = "step.onnx", "decode.onnx"


class BundleError(Exception):
    """A bundle that cannot be served; the message names the file and what is wrong with it."""


class File(BaseModel):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: int


class Parity(BaseModel):
    """How far the exported graph is from PyTorch on random inputs: largest |difference| over the batch sizes tried."""

    tolerance: float
    largest_difference: float
    batch_sizes: list[int]


class Manifest(BaseModel):
    """`manifest.json`. All of it but `parity`, `checkpoint` and `measured` decides the images, and so the digest."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1]
    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_.-]*$")]  # what callers ask for as `method`
    family: str
    shape: tuple[int, int, int]  # (C, H, W) of an image
    state_shape: tuple[int, int, int]  # of what the steps denoise: an image, or what `decode.onnx` makes one of
    classes: list[str]
    latent: Annotated[int, Field(ge=0)]  # how many standard normal numbers z the network takes a step; 0: none
    noise_schedule: dict[str, Any]  # the family's own
    recommended_steps: Annotated[int, Field(ge=1)]
    opset: int
    dtype: Literal["float32"]
    files: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], File]  # names in the bundle's own folder
    parity: Parity
    checkpoint: dict[str, Any]  # where it was exported from: digest of the weights and the training record
    measured: dict[str, Any] = {}  # quality and speed, filled in by `./run evaluate`

    @property
    def digest(self) -> str:
        deciding = self.model_dump(mode="json", exclude={"parity", "checkpoint", "measured"})
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


class Sampling(BaseModel):
    """What a request comes to on a model, its defaults filled in: with the digest, all that decides the images."""

    model_config = ConfigDict(frozen=True)

    digest: str
    method: str
    steps: int
    solver: str
    settings: tuple[tuple[str, float], ...]
    label: int
    seed: int
    n: int


class Bundle:
    """A verified bundle and its limits."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.digest = manifest.digest  # and of the device, where that decides bits
        self.device = "cpu"
        self.loaded_at = int(time.time())  # Unix time
        self.table = lru_cache(maxsize=256)(self._table)

    @cached_property
    def family(self) -> Family:
        return families.find(self.manifest.family)

    @cached_property
    def max_steps(self) -> int:
        return self.family.max_steps(self.manifest.noise_schedule)

    @property
    def step_file(self) -> Path:
        return self.folder / STEP

    @property
    def decode_file(self) -> Path | None:
        """None for a model whose steps end at the image."""
        return self.folder / DECODE if DECODE in self.manifest.files else None

    def resolve(self, request: GenerateRequest) -> Sampling:
        """Checks a request against the model's limits and fills in its defaults. Raises InvalidRequest."""
        steps = self.manifest.recommended_steps if request.steps is None else request.steps
        if steps > self.max_steps:
            raise _invalid(
                "steps", f"{self.manifest.name} takes at most {self.max_steps}", {"min": 1, "max": self.max_steps}
            )
        solver = next(iter(self.family.SOLVERS)) if request.solver is None else request.solver
        if solver not in self.family.SOLVERS:
            raise _invalid("solver", f"{self.manifest.name} has no solver {solver!r}", list(self.family.SOLVERS))
        return Sampling(
            digest=self.digest,
            method=self.manifest.name,
            steps=steps,
            solver=solver,
            settings=_settings(solver, self.family.SOLVERS[solver].settings, {"eta": request.eta}),
            label=self._label(request.class_label),
            seed=secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed,
            n=request.n,
        )

    def job(
        self,
        sampling: Sampling,
        id: str,
        submitted_s: float,
        body: GenerateRequest | None = None,
        answer_s: float = 0.0,
    ) -> Job:
        """The work that a resolved request is; `body` says how soon, and what to tell on the way.

        `answer_s` is what the answer takes after the last step; no more than ANSWER of a deadline is left for it, as
        what was refused would never show that it takes less by now.
        """
        within_s = body.deadline_ms / 1000 if body and body.deadline_ms else math.inf
        return Job(
            id=id,
            method=sampling.method,
            table=self.table(sampling.steps, sampling.solver, sampling.settings),
            shape=self.manifest.state_shape,
            latent=self.manifest.latent,
            label=sampling.label,
            seed=sampling.seed,
            n=sampling.n,
            submitted_s=submitted_s,
            model=self.digest,
            priority=body.priority if body else "normal",
            deadline_s=submitted_s + within_s - min(answer_s, ANSWER * within_s),
            preview_every=(body.preview_every if body else None) or 0,
        )

    def first_step(self, rows: int) -> Inputs:
        """The step graph's inputs for the first step of `rows` images with default settings, seed 0 and no class."""
        sampling = self.resolve(GenerateRequest(method=self.manifest.name, seed=0)).model_copy(update={"n": rows})
        job = self.job(sampling, id="", submitted_s=0.0)
        for image in job.images:
            image.begin()
        return Batch(job.method, job.images).inputs()

    def _label(self, class_label: int | str | None) -> int:
        classes = self.manifest.classes
        if class_label is None:
            return len(classes)
        if isinstance(class_label, str) and class_label in classes:
            return classes.index(class_label)
        if isinstance(class_label, int) and 0 <= class_label < len(classes):
            return class_label
        allowed = {"min": 0, "max": len(classes) - 1, "names": classes}
        raise _invalid("class_label", f"{self.manifest.name} has no class {class_label!r}", allowed)

    def _table(self, steps: int, solver: str, settings: tuple[tuple[str, float], ...]) -> Array:
        """The plan as float32 (steps, 9), a line a step; `table` is this, cached."""
        plan = self.family.SOLVERS[solver].plan(self.manifest.noise_schedule, steps, **dict(settings))
        return np.array(plan, dtype=np.float32)


def load(folder: Path) -> Bundle:
    """Reads and verifies a bundle. Raises BundleError naming the file that is missing, unreadable or altered."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(f"{path}: format version {version!r}; this service reads version {FORMAT_VERSION}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: {error}") from error
    if manifest.name == AUTO:
        raise BundleError(f"{path}: the name {AUTO!r} is taken: callers say it to let the service choose")
    if STEP not in manifest.files:
        raise BundleError(f"{path}: lists no {STEP}")
    if (DECODE in manifest.files) != (manifest.state_shape != manifest.shape):
        raise BundleError(f"{path}: {DECODE} goes with a state_shape that is not the images' shape, and only with one")
    if manifest.family not in families.names():
        raise BundleError(f"{path}: family {manifest.family!r} is unknown; known: {', '.join(families.names())}")
    for name, file in manifest.files.items():
        verify(folder / name, file)
    return Bundle(folder, manifest)


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(path: Path, file: File) -> None:
    """Raises BundleError unless the file is the one that the manifest means."""
    try:
        digest = sha256(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from error
    if digest != file.sha256:
        raise BundleError(f"{path}: SHA-256 is {digest}, the manifest says {file.sha256}")


def load_all(folder: Path) -> tuple[dict[str, Bundle], dict[str, str]]:
    """Every bundle in `folder` by method, and what was wrong with the others, by folder name."""
    bundles: dict[str, Bundle] = {}
    failed: dict[str, str] = {}
    for path in sorted(folder.glob("[!.]*/")):  # a hidden one is an export under way
        try:
            bundle = load(path)
            name = bundle.manifest.name
            if name in bundles:
                raise BundleError(f"{path}: method {name!r} is already served from {bundles[name].folder}")
            bundles[name] = bundle
        except BundleError as error:
            failed[path.name] = str(error)
    return bundles, failed


def _settings(
    solver: str, known: Mapping[str, Setting], asked: Mapping[str, float | None]
) -> tuple[tuple[str, float], ...]:
    """The solver's settings, asked ones over defaults. Raises InvalidRequest for one that the solver does not take."""
    for name, value in asked.items():
        if value is None:
            continue
        if name not in known:
            raise _invalid(name, f"solver {solver!r} takes no {name}", None)
        if not known[name].low <= value <= known[name].high:
            raise _invalid(name, f"{value} is outside", {"min": known[name].low, "max": known[name].high})
    values = {name: asked.get(name) for name in known}
    return tuple((n, known[n].default if value is None else float(value)) for n, value in values.items())


def _invalid(field: str, detail: str, allowed: Any) -> InvalidRequest:
    return InvalidRequest([FieldError(field=field, detail=detail, allowed=allowed)])
