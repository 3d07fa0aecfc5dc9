"""What `./run export BUNDLE --target TARGET` adds to a bundle: a folder of its graphs in a GPU's form."""

import hashlib
import json
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from bundle import files, strict_json
from bundle.files import BundleError
from bundle.loading import MAX_MANIFEST_BYTES, Bundle
from bundle.manifest import File

Target = Literal["tensorrt", "tensorrt-rtx", "cuda"]
TARGETS: tuple[Target, ...] = get_args(Target)  # in the order of preference, where a bundle has several
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

MANIFEST = "engines.json"
MAGNITUDE = "magnitude"  # an output of the step: Σ|x_new| + Σ|x0| of each row, finite if and only if the row is


class Tensor(BaseModel):
    """An input or output of a graph; −1 stands for the rows."""

    name: str
    dtype: str
    shape: list[int]


class Graph(BaseModel):
    """What TensorRT made of a file, or ONNX Runtime will: its tensors and, by input, its profiles' shapes."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    profiles: list[dict[str, list[int]]]


class Accuracy(BaseModel):
    """How far images computed in this precision are from those in fp32, both on a CPU, the former emulated.

    Root mean square over the pixels of `images` images, whose values lie in [−1, 1], by solver, at `steps` steps each.
    """

    tolerance: float
    images: int
    steps: int
    by_solver: dict[str, float]


class Engines(BaseModel):
    """`engines.json`. All of it but `accuracy`, `buckets_agree` and `graphs` decides the images, and so the digest."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    target: Target
    version: str  # of TensorRT or ONNX Runtime
    precision: Precision
    buckets: list[int]  # the batch sizes that there is a profile for
    architectures: list[str]  # as sm_89; none where the engine is for the GPU that it was built on, or for any
    sources: dict[str, str]  # SHA-256 of the bundle's files that these were made of
    files: dict[str, File]
    graphs: dict[str, Graph]
    accuracy: Accuracy
    # Whether a row has the same bits in every bucket, as `./run check-gpu` measured it; null: nobody has. Unless it is
    # true, every batch is padded to one bucket, so that an image does not depend on who else is in the batch.
    buckets_agree: bool | None = None

    @property
    def digest(self) -> str:
        deciding = self.model_dump(mode="json", exclude={"accuracy", "buckets_agree", "graphs"})
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


def read(folder: Path) -> Engines:
    """The manifest in a target's folder. Raises BundleError."""
    path = folder / MANIFEST
    try:
        return Engines.model_validate(strict_json.loads(files.read(path, folder.parent, MAX_MANIFEST_BYTES)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BundleError(f"{files.name(path)}: {'.'.join(map(str, first['loc']))[:200]}: {first['msg']}") from error
    except ValueError as error:
        raise BundleError(f"{files.name(path)}: {error}") from error


def load(bundle: Bundle) -> tuple[Path, Engines]:
    """The bundle's engines, verified: folder and manifest of the first of TARGETS that it has. Raises BundleError."""
    folders = [bundle.folder / target for target in TARGETS if (bundle.folder / target).is_dir()]
    if not folders:
        raise BundleError(
            f"{bundle.folder.name}: no engines for a GPU: ./run export {bundle.folder.name} --target cuda"
        )
    folder = folders[0]
    engines = read(folder)
    for name, digest in engines.sources.items():
        if bundle.manifest.files[name].sha256 != digest:
            raise BundleError(f"{bundle.folder.name}/{folder.name}: of another {name}: export it again")
    for name, file in engines.files.items():
        files.check(folder / name, bundle.folder, file.sha256, file.bytes)
    return folder, engines
