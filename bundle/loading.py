"""A bundle: a folder with a model ready to run, and its verified manifest."""

import hashlib
import time
from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bundle import files, strict_json
from bundle.external_data import external_files
from bundle.files import BundleError
from bundle.manifest import DECODE, FORMAT_VERSION, MANIFEST, STEP, Manifest
from bundle.sampling_check import check_sampling
from models import families
from models.families import Family
from models.solvers import SettingValues, Solver

MAX_MANIFEST_BYTES = 16 * 2**20


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
    def dataset(self) -> str:
        """The name of the data set; "unnamed" where the manifest does not say."""
        return "unnamed" if self.manifest.dataset is None else self.manifest.dataset.name

    @cached_property
    def solvers(self) -> Mapping[str, Solver]:
        """What the model is sampled with, the default first."""
        return families.solvers(self.manifest.family, self.manifest.noise_schedule)

    @property
    def default_solver(self) -> str:
        return next(iter(self.solvers))

    def _coefficients(self, steps: int, solver: str, settings: SettingValues) -> NDArray[np.float32]:
        """The plan as float32 (steps, columns), a row a step; `coefficients` is this, cached."""
        plan = self.solvers[solver].plan(self.manifest.noise_schedule, steps, **dict(settings))
        return np.array(plan, dtype=np.float32)


def load(folder: Path) -> Bundle:
    """Reads and verifies a bundle. Raises BundleError naming the file that is missing, unreadable or altered."""
    path, root = folder / MANIFEST, folder.parent
    manifest = parse(files.read(path, root, MAX_MANIFEST_BYTES), files.name(path))
    for name, file in manifest.files.items():
        files.check(folder / name, root, file.sha256, file.bytes)
    for name in {STEP, DECODE} & manifest.files.keys():
        if unlisted := external_files(folder / name, root) - manifest.files.keys():
            raise BundleError(
                f"{folder.name}/{name}: it has data in {min(unlisted)!r}, which the manifest does not list"
            )
    return Bundle(folder, manifest)


def parse(content: bytes, source: str) -> Manifest:
    """The manifest in a file's content. Raises BundleError, which names `source` and the field that is wrong."""
    try:
        table = strict_json.loads(content)
    except ValueError as error:
        raise BundleError(f"{source}: {error}") from error
    version = table.get("format_version") if isinstance(table, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(f"{source}: format version {str(version)[:20]}; this service reads version {FORMAT_VERSION}")
    try:
        manifest = Manifest.model_validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BundleError(f"{source}: {where}: {first['msg']}") from error
    try:
        check_sampling(manifest)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{source}: {error or type(error).__name__}") from error
    return manifest


def load_all(folder: Path, first: Collection[str] = ()) -> tuple[dict[str, Bundle], dict[str, str]]:
    """Every bundle in `folder` by method, and what was wrong with the others, by folder name.

    Of two bundles of one name, that in a folder of `first` stays, else that of the first folder in alphabetical order.
    Raises BundleError if the folder itself cannot be read.
    """
    bundles: dict[str, Bundle] = {}
    failed: dict[str, str] = {}
    for path in sorted(bundle_folders(folder), key=lambda path: (path.name not in first, path.name)):
        try:
            bundle = load(path)
            name = bundle.manifest.name
            if name in bundles:
                raise BundleError(f"{path.name}: method {name!r} is already served from {bundles[name].folder.name}")
            bundles[name] = bundle
        except BundleError as error:
            failed[path.name] = str(error)
    return dict(sorted(bundles.items())), failed


def bundle_folders(folder: Path) -> list[Path]:
    """Raises BundleError if the folder cannot be read."""
    try:  # a hidden folder is an export under way, or of a volume's own
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError as error:
        raise BundleError(f"the bundles' folder cannot be read: {error.strerror}") from error


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
