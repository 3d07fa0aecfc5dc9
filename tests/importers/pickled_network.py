"""Writes pickles as NVIDIA's persistence module does: class names, state and source text, by stand-ins of its names."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


class Persistent:
    """A module, pickled as a call of torch_utils' `_reconstruct_persistent_obj` with what it was made with."""

    def __init__(self, class_name: str, module: nn.Module, arguments: dict[str, Any], source: str, **more: Any) -> None:
        state = {
            "_parameters": dict(module.named_parameters(recurse=False)),
            "_buffers": {
                name: buffer
                for name, buffer in module.named_buffers(recurse=False)
                if name not in module._non_persistent_buffers_set
            },
            "_modules": {name: wrapped(inner, source) for name, inner in module.named_children()},
            "_init_args": (),
            "_init_kwargs": arguments,
            **more,
        }
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def wrapped(module: nn.Module, source: str) -> Any:
    """Its inner modules; those of PyTorch's own containers stay what they are."""
    if not isinstance(module, nn.ModuleDict):
        return Persistent(type(module).__name__, module, {}, source)
    container = nn.ModuleDict()
    container._modules = {name: wrapped(inner, source) for name, inner in module.items()}
    return container


@contextmanager
def stand_in_modules() -> Iterator[None]:
    """The names that such a pickle has, importable while it is written."""
    package, persistence = ModuleType("torch_utils"), ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None: ...

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    modules = {package.__name__: package, persistence.__name__: persistence}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def write(path: Path, content: Any) -> None:
    """Pickles it."""
    with stand_in_modules(), path.open("wb") as file:
        pickle.dump(content, file)
