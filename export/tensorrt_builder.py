"""Builds an engine from an ONNX graph, by TensorRT or TensorRT for RTX; `Flavour` has the differences of the two."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bundle.gpu_manifest import Graph, Precision, Target, Tensor
from service.runtimes.cuda.tensorrt import error_log

TIMING_CACHE = "timing.cache"


class EngineError(ValueError):
    """An engine that cannot be built; the message names what is wrong."""


@dataclass(frozen=True)
class Flavour:
    """What differs between the two. `targets(trt)` lists the architectures that it builds for without such a GPU."""

    module: str
    package: str
    targets: Callable[[Any], list[str]]
    flags: tuple[str, ...]
    timing_cache: bool


def named_capabilities(trt: Any) -> list[str]:
    """The architectures that TensorRT for RTX has names for, e.g. sm_89, the oldest first."""
    names = trt.ComputeCapability.__members__
    return sorted((f"sm_{name[2:]}" for name in names if name[:2] == "SM"), key=lambda name: int(name[3:]))


FLAVOURS: dict[Target, Flavour] = {
    # REQUIRE_USER_ALLOCATION: without it a step allocates memory, and cannot be captured in a CUDA graph.
    "tensorrt-rtx": Flavour(
        "tensorrt_rtx_bindings",
        "tensorrt-rtx-cu13-bindings",
        named_capabilities,
        ("REQUIRE_USER_ALLOCATION",),
        timing_cache=False,
    ),
    "tensorrt": Flavour("tensorrt", "tensorrt-cu13", lambda _: [], (), timing_cache=True),
}


class TensorRt:
    """The builder of an installed TensorRT. Raises EngineError if it is not installed."""

    def __init__(self, target: Target) -> None:
        self.flavour = FLAVOURS[target]
        try:
            self.trt: Any = import_module(self.flavour.module)
        except ImportError as error:
            raise EngineError(f"--target {target} needs the package {self.flavour.package}: {error}") from error
        self.version: str = self.trt.__version__
        self.log = error_log(self.trt)

    def check(self, architectures: Sequence[str]) -> None:
        """Raises EngineError for an architecture that this TensorRT does not build for."""
        targets = self.flavour.targets(self.trt)
        for name in architectures:
            if name not in targets:
                raise EngineError(
                    f"unknown architecture {name!r}: {self.flavour.module} {self.version} builds for "
                    f"{', '.join(targets) or 'the GPU that it runs on: do not name any'}"
                )

    def parse(self, model: bytes) -> tuple[Any, Any]:
        """A builder and the network of an ONNX graph. Raises EngineError naming a node that TensorRT cannot build."""
        builder = self._builder()
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = self.trt.OnnxParser(network, self.log)
        if not parser.parse(model):
            raise EngineError("; ".join(_message(parser.get_error(i)) for i in range(parser.num_errors)))
        return builder, network

    def build(
        self,
        model: bytes,
        *,
        precision: Precision,
        buckets: Sequence[int],
        architectures: Sequence[str],
        timing_cache: Path,
    ) -> tuple[bytes, Graph]:
        """The engine of an ONNX graph, with a profile for each bucket, and its tensors. Raises EngineError."""
        builder, network = self.parse(model)
        config = builder.create_builder_config()
        config.progress_monitor = _progress(self.trt)
        for flag in self.flavour.flags:
            config.set_flag(getattr(self.trt.BuilderFlag, flag))
        if precision != "tf32":
            config.clear_flag(self.trt.BuilderFlag.TF32)
        self._set_architectures(config, architectures)
        graph = self._add_profiles(builder, network, config, buckets)
        if self.flavour.timing_cache:
            timings = timing_cache.read_bytes() if timing_cache.exists() else b""
            config.set_timing_cache(config.create_timing_cache(timings), False)
        self.log.errors.clear()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError("; ".join(self.log.errors) or "TensorRT builds no engine and gives no reason")
        if self.flavour.timing_cache:
            timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
        return bytes(plan), graph

    def _builder(self) -> Any:
        with suppress(TypeError):  # its constructor raises this without a GPU, if it needs one
            return self.trt.Builder(self.log)
        raise EngineError("; ".join(self.log.errors) or f"{self.flavour.module} cannot build on this machine")

    def _set_architectures(self, config: Any, architectures: Sequence[str]) -> None:
        self.check(architectures)
        if architectures:
            config.num_compute_capabilities = len(architectures)
            for i, name in enumerate(architectures):
                config.set_compute_capability(getattr(self.trt.ComputeCapability, name.replace("sm_", "SM")), i)

    def _add_profiles(self, builder: Any, network: Any, config: Any, buckets: Sequence[int]) -> Graph:
        """Adds a profile for each bucket; returns the network's tensors and the profiles."""
        inputs = [self._tensor(network.get_input(i)) for i in range(network.num_inputs)]
        profiles = []
        for rows in buckets:
            shapes = {tensor.name: [rows, *tensor.shape[1:]] for tensor in inputs}
            profile = builder.create_optimization_profile()
            for name, shape in shapes.items():
                profile.set_shape(name, shape, shape, shape)
            if config.add_optimization_profile(profile) < 0:
                raise EngineError(f"TensorRT refuses a profile of {rows} rows: {'; '.join(self.log.errors)}")
            profiles.append(shapes)
        outputs = [self._tensor(network.get_output(i)) for i in range(network.num_outputs)]
        return Graph(inputs=inputs, outputs=outputs, profiles=profiles)

    def _tensor(self, tensor: Any) -> Tensor:
        dtype = np.dtype(self.trt.nptype(tensor.dtype))
        return Tensor(name=tensor.name, dtype=str(dtype), shape=list(tensor.shape))


def _message(error: Any) -> str:
    return f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _progress(trt: Any) -> Any:
    """Progress bars, one for each phase that runs; none without a terminal."""

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.bars[phase_name] = tqdm(
                total=num_steps, desc=phase_name, position=len(self.bars), leave=False, disable=None
            )

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.bars[phase_name].update()
            return True  # continue

        def phase_finish(self, phase_name: str) -> None:
            self.bars.pop(phase_name).close()

    return Progress()
