"""A bundle: a folder with a model ready to run, and its verified manifest."""

import hashlib
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bundle import files, strict_json
from bundle.files import BundleError, shown
from bundle.folders import bundle_folders, without_the_name
from bundle.graph import Graph
from bundle.manifest import (
    DECODE,
    ENCODE,
    FORMAT_VERSION,
    MANIFEST,
    SHARED,
    STEP,
    WEIGHTS,
    Default,
    Manifest,
)
from bundle.sampling_check import check_sampling
from models import families, fitted
from models.bound import Bound
from models.families import Family
from models.inversion import inverse, is_invertible
from models.solvers import SettingValues, Solver
from models.step import Plan

MAX_MANIFEST_BYTES = 2**20


class Bundle:
    """A verified bundle and its limits."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.loaded_at = int(time.time())  # Unix time
        self.coefficients = lru_cache(maxsize=256)(self._coefficients)
        self.signal = lru_cache(maxsize=256)(self._signal)
        self.inverse_coefficients = lru_cache(maxsize=64)(self._inverse_coefficients)

    @cached_property
    def family(self) -> Family:
        return families.find(self.manifest.family)

    @cached_property
    def max_steps(self) -> int:
        return self.family.max_steps(self.manifest.noise_schedule)

    @property
    def graphs(self) -> list[str]:
        """The files of its graphs: the step, and the decoder unless the steps end at the image."""
        return [name for name in (STEP, DECODE) if name in self.manifest.files]

    @property
    def decodes(self) -> bool:
        """Whether its states are no images."""
        return DECODE in self.manifest.files

    @property
    def encodes(self) -> bool:
        """Whether it has a graph from an image to a state."""
        return ENCODE in self.manifest.files

    @property
    def takes_images(self) -> bool:
        """Whether a request can begin at an image."""
        has_state = self.encodes or not self.decodes
        return has_state and hasattr(self.family, "signal")

    @cached_property
    def inverter(self) -> tuple[str, SettingValues] | None:
        """The first solver, with its lowest settings, whose plans can be run backwards; None: there is none."""
        if not self.takes_images or self.max_steps < 2:
            return None
        for name, solver in self.solvers.items():
            if solver.steps:
                continue
            settings = tuple((key, setting.low) for key, setting in solver.settings.items())
            if is_invertible(solver.plan(self.manifest.noise_schedule, 2, **dict(settings))):
                return name, settings
        return None

    def read(self, name: str) -> Graph:
        """One of its graphs. Raises BundleError unless its files still are what the manifest says."""
        weights = next((file for file in (WEIGHTS[name], SHARED) if file in self.manifest.files), None)
        if weights is None:
            return Graph(self._content(name))
        return Graph(self._content(name), weights, self._content(weights))

    def _content(self, name: str) -> bytes:
        file = self.manifest.files[name]
        return files.read_checked(self.folder / name, self.folder.parent, file.sha256, file.bytes)

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
        """Of a request that says how it is sampled, but not by which solver."""
        return next(iter(self.solvers))

    @property
    def default(self) -> Default:
        """How a request is sampled that says nothing of it."""
        return self.manifest.default or Default(solver=self.default_solver, steps=self.manifest.recommended_steps)

    def default_steps(self, solver: str) -> int:
        """The steps of a request that names this solver and no steps."""
        allowed = self.solvers[solver].steps or (self.manifest.recommended_steps,)
        return self.manifest.recommended_steps if self.manifest.recommended_steps in allowed else allowed[-1]

    @cached_property
    def bound(self) -> Bound | None:
        """The bound on an image's likelihood; None for a model that has none, as those of latents and GANs.

        An image is a grey or a colour one, of whole pixel values.
        """
        if self.manifest.z_dim or DECODE in self.graphs or self.manifest.shape[0] not in (1, 3):
            return None
        return families.bound(self.manifest.family, self.manifest.noise_schedule)

    def _coefficients(self, steps: int, solver: str, settings: SettingValues) -> NDArray[np.float32]:
        """The plan as float32 (steps, columns), a row a step; `coefficients` is this, cached."""
        return np.array(self._plan(steps, solver, settings), dtype=np.float32)

    def _signal(self, steps: int, solver: str, settings: SettingValues) -> NDArray[np.float32]:
        """α and σ of the state at the start of each step, float32 (steps, 2); `signal` is this, cached."""
        plan = self._plan(steps, solver, settings)
        alpha, sigma = self.family.signal(self.manifest.noise_schedule, plan)  # type: ignore[attr-defined]
        if solver == fitted.NAME:
            alpha, sigma = fitted.signal(plan, alpha[0], sigma[0])
        return np.array([alpha, sigma], dtype=np.float32).T

    def _inverse_coefficients(self, steps: int) -> NDArray[np.float32]:
        """The plan from an image to x_T, two rows a step; `inverse_coefficients` is this, cached."""
        assert self.inverter is not None
        return np.array(inverse(self._plan(steps, *self.inverter)), dtype=np.float32)

    def _plan(self, steps: int, solver: str, settings: SettingValues) -> Plan:
        return self.solvers[solver].plan(self.manifest.noise_schedule, steps, **dict(settings))


def load(folder: Path) -> Bundle:
    """Reads and verifies a bundle. Raises BundleError naming the file that is missing, unreadable or altered."""
    path, root = folder / MANIFEST, folder.parent
    manifest = parse(files.read(path, root, MAX_MANIFEST_BYTES), files.name(path))
    for name, file in manifest.files.items():
        files.check(folder / name, root, file.sha256, file.bytes)
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


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_all(root: Path) -> tuple[dict[str, Bundle], dict[str, str]]:
    """Every bundle in `root` by method, and what is wrong with the others, by the name of their folder.

    Raises BundleError if `root` cannot be read.
    """
    bundles: dict[str, Bundle] = {}  # by folder
    failed: dict[str, str] = {}
    for folder in bundle_folders(root):
        try:
            bundles[folder.name] = load(folder)
        except BundleError as error:
            failed[folder.name] = str(error)
    failed |= without_the_name({folder: bundle.manifest.name for folder, bundle in bundles.items()}, {})
    kept = {bundle.manifest.name: bundle for folder, bundle in bundles.items() if folder not in failed}
    return dict(sorted(kept.items())), {shown(folder): reason for folder, reason in failed.items()}
