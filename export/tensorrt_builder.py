"""From ONNX to an engine, by TensorRT or TensorRT for RTX: one builder for both, whose differences are in `Flavour`."""

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
    """What differs between the two. `targets(trt)`: the architectures that can be built for without such a GPU."""

    module: str
    package: str
    targets: Callable[[Any], list[str]]
    flags: tuple[str, ...]
    timing_cache: bool


def named_capabilities(trt: Any) -> list[str]:
    names = trt.ComputeCapability.__members__
    return sorted((f"sm_{name[2:]}" for name in names if name[:2] == "SM"), key=lambda name: int(name[3:]))


FLAVOURS: dict[Target, Flavour] = {
    # REQUIRE_USER_ALLOCATION: without it a step allocates memory, and cannot be captured in a CUDA graph.
    "tensorrt-rtx": Flavour(
        "tensorrt_rtx", "tensorrt-rtx-cu13", named_capabilities, ("REQUIRE_USER_ALLOCATION",), timing_cache=False
    ),
    "tensorrt": Flavour("tensorrt", "tensorrt-cu13", lambda _: [], (), timing_cache=True),
}


class TensorRt:
    """A TensorRT that is installed. Raises EngineError if it is not."""

    def __init__(self, target: Target) -> None:
        self.flavour = FLAVOURS[target]
        try:
            self.trt: Any = import_module(self.flavour.module)
        except ImportError as error:
            raise EngineError(f"--target {target} needs the package {self.flavour.package}: {error}") from error
        self.version: str = self.trt.__version__
        self.log = error_log(self.trt)

    def check(self, architectures: Sequence[str]) -> None:
        """Raises EngineError for an architecture that cannot be named."""
        known = self.flavour.targets(self.trt)
        for name in architectures:
            if name not in known:
                raise EngineError(
                    f"unknown architecture {name!r}: {self.flavour.module} {self.version} builds for "
                    f"{', '.join(known) or 'the GPU that it runs on, so name none'}"
                )

    def parse(self, model: bytes) -> tuple[Any, Any]:
        """A builder and the network of an ONNX graph. Raises EngineError naming the node that it cannot take."""
        builder = self._builder()
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = self.trt.OnnxParser(network, self.log)
        if not parser.parse(model):
            raise EngineError("; ".join(_told(parser.get_error(i)) for i in range(parser.num_errors)))
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
        """The engine of an ONNX graph, a profile a bucket. Raises EngineError as `parse`, and if it cannot be built."""
        builder, network = self.parse(model)
        config = builder.create_builder_config()
        config.progress_monitor = _progress(self.trt)
        for flag in self.flavour.flags:
            config.set_flag(getattr(self.trt.BuilderFlag, flag))
        if precision != "tf32":
            config.clear_flag(self.trt.BuilderFlag.TF32)
        self._aim(config, architectures)
        graph = self._profiles(builder, network, config, buckets)
        if self.flavour.timing_cache:
            known = timing_cache.read_bytes() if timing_cache.exists() else b""
            config.set_timing_cache(config.create_timing_cache(known), False)
        self.log.errors.clear()
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError("; ".join(self.log.errors) or "TensorRT builds no engine and does not say why")
        if self.flavour.timing_cache:
            timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
        return bytes(plan), graph

    def _builder(self) -> Any:
        with suppress(TypeError):  # what its constructor raises where there is no GPU and it needs one
            return self.trt.Builder(self.log)
        raise EngineError("; ".join(self.log.errors) or f"{self.flavour.module} cannot build on this machine")

    def _aim(self, config: Any, architectures: Sequence[str]) -> None:
        self.check(architectures)
        if architectures:
            config.num_compute_capabilities = len(architectures)
            for i, name in enumerate(architectures):
                config.set_compute_capability(getattr(self.trt.ComputeCapability, name.replace("sm_", "SM")), i)

    def _profiles(self, builder: Any, network: Any, config: Any, buckets: Sequence[int]) -> Graph:
        """Adds them; what the network is."""
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


def _told(error: Any) -> str:
    return f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _progress(trt: Any) -> Any:
    """Bars on the terminal, a line for each phase under way; nothing where there is no terminal."""

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
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self.bars.pop(phase_name).close()

    return Progress()
