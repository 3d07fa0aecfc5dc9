"""A bundle: a folder with a model ready to run and a `manifest.json` of what it is and what it may be asked."""

import hashlib
import json
import time
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from typing_extensions import TypeAliasType

from models import families
from models.families import Family
from models.solvers import SettingValues

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1
AUTO = "auto"  # as `method`: the service chooses
STEP, DECODE = "step.onnx", "decode.onnx"


Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Milliseconds = Annotated[FiniteFloat, Field(gt=0)]
Figures = TypeAliasType("Figures", "FiniteFloat | dict[str, Figures]")


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


class Quality(BaseModel):
    """How far images are from a data set, as `./run evaluate` measures it."""

    model_config = ConfigDict(extra="forbid")

    frechet_distance: Annotated[FiniteFloat, Field(ge=0)]
    images: Annotated[int, Field(ge=1)] | None = None
    precision: Share | None = None
    recall: Share | None = None
    class_agreement: Share | None = None  # of a data set with classes
    class_coverage: Share | None = None
    class_entropy: Annotated[FiniteFloat, Field(ge=0)] | None = None  # bits


class MeasuredPoint(Quality):
    """What was measured of one way of sampling."""

    solver: str
    steps: Annotated[int, Field(ge=1)]
    settings: dict[str, FiniteFloat]
    alone_ms: Milliseconds  # latency of a request for one image, alone
    saturated_ms: Milliseconds | None = None  # an image, of a saturated server


class Measured(BaseModel):
    """Quality and speed. Further members are a family's own figures: numbers, in dictionaries of any depth."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Figures] = Field(init=False)

    machine: str = ""
    floor: Quality | None = None  # the same measures of training images
    points: list[MeasuredPoint] = []


class Manifest(BaseModel):
    """`manifest.json`. All of it but `parity`, `checkpoint` and `measured` decides the images, and so the digest."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    format_version: Literal[1]
    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_.-]*$")]  # what callers ask for as `method`
    family: str
    shape: tuple[int, int, int]  # (C, H, W) of an image
    state_shape: tuple[int, int, int]  # of what the steps denoise: an image, or what `decode.onnx` makes one of
    classes: list[str]
    # How many standard normal numbers z the network takes a step; 0: none.
    z_dim: Annotated[int, Field(ge=0, alias="latent")]
    noise_schedule: dict[str, Any]  # the family's own
    recommended_steps: Annotated[int, Field(ge=1)]
    guidance: bool = False  # whether the graph takes pairs of rows, one of a class and one of no class
    opset: int
    dtype: Literal["float32"]
    files: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], File]  # names in the bundle's own folder
    parity: Parity
    checkpoint: dict[str, Any]  # where it was exported from: digest of the weights and the training record
    measured: Measured = Measured()  # filled in by `./run evaluate`

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the images."""
        # Without what has its default, so that a manifest keeps its digest when a new field comes.
        other = {"parity", "checkpoint", "measured"}
        deciding = self.model_dump(mode="json", by_alias=True, exclude=other, exclude_defaults=True)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`, in one step: a reader sees the old one or the new one."""
        partial = folder / f".{MANIFEST}.partial"
        partial.write_text(json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n")
        partial.replace(folder / MANIFEST)


class Bundle:
    """A verified bundle and its limits."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.loaded_at = int(time.time())  # Unix time
        self.coefficients = lru_cache(maxsize=256)(self._coefficients)

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

    @property
    def default_solver(self) -> str:
        return next(iter(self.family.SOLVERS))

    def _coefficients(self, steps: int, solver: str, settings: SettingValues) -> NDArray[np.float32]:
        """The plan as float32 (steps, 9), a row a step; `coefficients` is this, cached."""
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
