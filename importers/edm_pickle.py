"""Reads NVIDIA's pickled networks, which carry their own source code, without running any of it.

A persistent object (torch_utils/persistence.py of NVlabs/edm) is pickled as its class's name, the source text of the
class's module, and its state. Here the name and the state are kept, and the source is dropped unread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from importers.pickles import Inert, inert_class, unpickle
from importers.problems import ImportProblem
from importers.reading import open_file, read_torch_bytes

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
LEFTOVERS = ("numpy.", "torch.nn.modules.", "training.", "dnnlib.")
MAX_DEPTH = 16  # of modules within modules


@dataclass
class Module:
    """A pickled module: its class's name, the arguments it was made with, its other attributes, and its weights."""

    class_name: str
    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any]
    weights: dict[str, Any] = field(default_factory=dict)  # with those of the modules in it, by dotted names
    modules: dict[str, "Module"] = field(default_factory=dict)


def read_module(path: Path, key: str) -> Module:
    """The module that a pickled dictionary has under `key`, or that is pickled alone. Raises ImportProblem."""
    source = path.name
    stand_ins = {
        PERSISTENT: inert_class(PERSISTENT),
        "_codecs.encode": lambda text, *_: text.encode("latin1"),  # bytes, in protocol 2
        "builtins.set": set,
        "collections.OrderedDict": dict,
        "dnnlib.util.EasyDict": dict,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch._utils._rebuild_tensor_v2": rebuild,
        "torch.storage._load_from_bytes": lambda data: read_torch_bytes(data, source),
    }

    def resolve(name: str) -> Any:
        return stand_ins.get(name) or (inert_class(name) if name.startswith(LEFTOVERS) else None)

    with open_file(path) as file:
        content = unpickle(file, source, resolve)
    if isinstance(content, dict):
        content = content.get(key)
    if not is_module(content):
        raise ImportProblem(f"{source}: no module of NVIDIA's in it, but a {type(content).__name__}")
    return module_of(content, source)


def rebuild(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; PyTorch raises RuntimeError for one that reaches beyond it."""
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def is_module(value: object) -> bool:
    """Whether a record is of a module: of a persistent class, or of PyTorch's own."""
    return isinstance(value, Inert) and (value.path == PERSISTENT or value.path.startswith("torch.nn.modules."))


def module_of(record: Any, source: str, depth: int = 0) -> Module:
    """The module of a record, with all in it."""
    if depth > MAX_DEPTH:
        raise ImportProblem(f"{source}: its modules are nested without end")
    meta = record.arguments[0] if record.arguments else {}
    state = record.state if record.path != PERSISTENT else meta.get("state") if isinstance(meta, dict) else None
    if not isinstance(state, dict):
        raise ImportProblem(f"{source}: a {type(record).__name__} in it has no state")
    name = meta.get("class_name", "") if record.path == PERSISTENT else type(record).__name__
    attributes = {key: value for key, value in state.items() if isinstance(key, str) and not key.startswith("_")}
    module = Module(str(name), mapping(state, "_init_kwargs"), attributes)
    for kind in ("_parameters", "_buffers"):
        module.weights |= {str(key): value for key, value in mapping(state, kind).items() if value is not None}
    for key, inner in mapping(state, "_modules").items():
        if is_module(inner):
            module.modules[str(key)] = module_of(inner, source, depth + 1)
            module.weights |= {f"{key}.{weight}": value for weight, value in module.modules[str(key)].weights.items()}
    return module


def mapping(state: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
    """A dictionary of a state; an empty one where there is none."""
    value = state.get(key)
    return value if isinstance(value, dict) else {}
