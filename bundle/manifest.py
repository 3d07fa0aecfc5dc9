"""`manifest.json` of a bundle: what a model is, what it may be asked, and what was measured of it."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat
from typing_extensions import TypeAliasType

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1
MAX_NUMBERS = 2**24  # of an image
AUTO = "auto"  # as `method`: the service chooses
STEP, DECODE = "step.onnx", "decode.onnx"


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name is there twice")
    return names


def _small(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"more than {MAX_NUMBERS} numbers")
    return shape


Length = Annotated[int, Field(ge=1, le=8192)]
Shape = Annotated[tuple[Length, Length, Length], AfterValidator(_small)]
ClassName = Annotated[str, Field(max_length=200)]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Milliseconds = Annotated[FiniteFloat, Field(gt=0)]
Figures = TypeAliasType("Figures", "FiniteFloat | dict[str, Figures]")


class File(BaseModel):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=2**40)]


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
    judge: str = ""  # the classifier of the data set in whose features distances are; they compare within one only
    floor: Quality | None = None  # the same measures of training images
    points: list[MeasuredPoint] = []


class Dataset(BaseModel):
    """The data that a model was trained on. Quality is compared within one data set only."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    digest: Annotated[str, Field(max_length=200)] = ""  # of the data, where it is known


class Manifest(BaseModel):
    """`manifest.json`. All of it but `parity`, `checkpoint` and `measured` decides the images, and so the digest."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    format_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]  # what callers ask for as `method`
    family: str
    shape: Shape  # (C, H, W) of an image
    state_shape: Shape  # of what the steps denoise: an image, or what `decode.onnx` makes one of
    classes: Annotated[list[ClassName], Field(max_length=10_000), AfterValidator(_distinct)]
    # How many standard normal numbers z the network takes a step; 0: none.
    z_dim: Annotated[int, Field(ge=0, le=65_536, alias="latent")]
    noise_schedule: dict[str, Any]  # the family's own
    recommended_steps: Annotated[int, Field(ge=1)]
    guidance: bool = False  # whether the graph takes pairs of rows, one of a class and one of no class
    opset: int
    dtype: Literal["float32"]
    files: Annotated[dict[FileName, File], Field(max_length=1000)]  # names in the bundle's own folder
    parity: Parity
    checkpoint: dict[str, Any]  # where it was exported from: digest of the weights and the training record
    dataset: Dataset | None = None
    measured: Measured = Measured()  # filled in by `./run evaluate`

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the images."""
        # Without what has its default, so that a manifest keeps its digest when a new field comes.
        other = {"parity", "checkpoint", "dataset", "measured"}
        deciding = self.model_dump(mode="json", by_alias=True, exclude=other, exclude_defaults=True)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`, in one step: a reader sees the old one or the new one."""
        partial = folder / f".{MANIFEST}.partial"
        partial.write_text(json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n")
        partial.replace(folder / MANIFEST)
