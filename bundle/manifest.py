"""`manifest.json` of a bundle: what a model is, what it may be asked, and what was measured of it."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, FiniteFloat
from typing_extensions import TypeAliasType

from models import atomic

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1
MAX_FILE_BYTES = 2**31 - 1  # of a protobuf message, and so of a graph
MAX_SIDE = 1024  # pixels: WebP has no room for a grid of 64 larger images
MAX_NUMBERS = 2**22  # of an image or a state; a batch holds several times its rows of them
MAX_POINTS = 1000  # that were measured: each is several series of /metrics
AUTO = "auto"  # as `method`: the service chooses
STEP, DECODE, ENCODE = "step.onnx", "decode.onnx", "encode.onnx"
# The external data of a graph, where it has some.
WEIGHTS = {STEP: "step.data", DECODE: "decode.data", ENCODE: "encode.data"}
SHARED = "model.safetensors"  # that of all graphs, where there is none for each: the checkpoint's weights


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name is there twice")
    return names


def _printable(text: str) -> str:
    if not text.replace("\t", " ").isprintable():
        raise ValueError("it has characters that cannot be printed")
    return text


def _small(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"more than {MAX_NUMBERS} numbers")
    return shape


Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Shape = Annotated[tuple[Side, Side, Side], AfterValidator(_small)]
Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Milliseconds = Annotated[FiniteFloat, Field(gt=0)]
Figures = TypeAliasType("Figures", "FiniteFloat | dict[Text, Figures]")


class File(BaseModel):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Parity(BaseModel):
    """How far the exported graph is from PyTorch on random inputs: largest |difference| over the batch sizes tried."""

    tolerance: FiniteFloat
    largest_difference: FiniteFloat
    batch_sizes: Annotated[list[int], FailFast(), Field(max_length=100)]


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

    solver: Text
    steps: Annotated[int, Field(ge=1)]
    settings: dict[str, FiniteFloat]
    alone_ms: Milliseconds  # latency of a request for one image, alone
    saturated_ms: Milliseconds | None = None  # an image, of a saturated server


class Measured(BaseModel):
    """Quality and speed. Further members are a family's own figures: numbers, in dictionaries of any depth."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Figures] = Field(init=False)

    machine: Text = ""
    judge: Text = ""  # the classifier of the data set in whose features distances are; they compare within one only
    floor: Quality | None = None  # the same measures of training images
    # Fail fast: an error for each of many wrong points takes a thousand times the memory of the manifest.
    points: Annotated[list[MeasuredPoint], FailFast(), Field(max_length=MAX_POINTS)] = []


class Dataset(BaseModel):
    """The data that a model was trained on. Quality is compared within one data set only."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, Field(min_length=1)]
    digest: Text = ""  # of the data, where it is known


class Default(BaseModel):
    """How a request is sampled that says nothing of it, and begins at its seed's noise."""

    model_config = ConfigDict(extra="forbid")

    solver: Text
    steps: Annotated[int, Field(ge=1)]


class Manifest(BaseModel):
    """`manifest.json`. All of it that decides the images of a resolved request is in the digest."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    format_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]  # what callers ask for as `method`
    family: Text
    shape: Shape  # (C, H, W) of an image
    state_shape: Shape  # of what the steps denoise: an image, or what `decode.onnx` makes one of
    classes: Annotated[list[Text], FailFast(), Field(max_length=10_000), AfterValidator(_distinct)]
    # How many standard normal numbers z the network takes a step; 0: none.
    z_dim: Annotated[int, Field(ge=0, le=65_536, alias="latent")]
    noise_schedule: dict[str, Any]  # the family's own
    recommended_steps: Annotated[int, Field(ge=1)]  # of a request that names a solver and no steps
    default: Default | None = None  # null: the first solver, with the recommended steps
    guidance: bool = False  # whether the graph takes pairs of rows, one of a class and one of no class
    opset: Annotated[int, Field(ge=1, le=100)]
    dtype: Literal["float32"]
    files: Annotated[dict[FileName, File], Field(max_length=8)]  # names in the bundle's own folder
    parity: Parity
    checkpoint: dict[str, Any]  # where it was exported from: digest of the weights and the training record
    dataset: Dataset | None = None
    measured: Measured = Measured()  # filled in by `./run evaluate`

    @property
    def judge(self) -> str:
        """The classifier that distances are by; where that is not recorded, that of the model's data set and size."""
        training = self.checkpoint.get("training")  # which an older manifest has in place of a data set
        recorded = training.get("data_digest", "") if isinstance(training, dict) else ""
        digest = str(recorded) if self.dataset is None else self.dataset.digest
        return self.measured.judge or f"{digest[:16]}-{self.shape[-1]}"

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the images."""
        # Without what has its default, so that a manifest keeps its digest when a new field comes.
        other = {"parity", "checkpoint", "dataset", "measured", "default"}
        deciding = self.model_dump(mode="json", by_alias=True, exclude=other, exclude_defaults=True)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` in one step: a reader sees the old one or the new one, also after a loss of power."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n"
        atomic.replace(folder / MANIFEST, lambda partial: partial.write_text(text))
