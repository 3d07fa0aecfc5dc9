"""Puts a file's weights into a network: checks names, shapes and dtypes before anything is allocated."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from importers.problems import ImportProblem

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def weights(state: object, source: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of `state` whose names begin with `prefix`, without it, as float32 (integers stay).

    Raises ImportProblem if there is none, or one is not a dense tensor of a dtype that weights have.
    """
    if not isinstance(state, Mapping):
        raise ImportProblem(f"{source}: no state dictionary, but a {type(state).__name__}")
    chosen = {name.removeprefix(prefix): value for name, value in named(state, source) if name.startswith(prefix)}
    if not chosen:
        raise ImportProblem(f"{source}: no weights, but {sample(state)}")
    return {name: dense(value, f"{source}: {name}") for name, value in chosen.items()}


def named(state: Mapping[Any, Any], source: str) -> list[tuple[str, Any]]:
    """The items of `state`, whose keys have to be names."""
    if not all(isinstance(name, str) for name in state):
        raise ImportProblem(f"{source}: no state dictionary: its keys are not names")
    return list(state.items())


def dense(value: object, what: str) -> Tensor:
    """A tensor that has all its elements, as float32 unless it has integers.

    A view with a stride of 0 says 10¹² elements in a file of a kilobyte.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise ImportProblem(f"{what} is no plain tensor, but a {type(value).__name__}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ImportProblem(f"{what} says {value.numel():,} elements, which the file does not have")
    if value.dtype in FLOATS:
        return value.detach().float()
    if value.dtype in (torch.int64, torch.int32, torch.uint8, torch.bool):
        return value.detach()
    raise ImportProblem(f"{what} has dtype {value.dtype}, which no weight here has")


def fill(build: Callable[[], nn.Module], state: Mapping[str, Tensor], source: str) -> nn.Module:
    """The network that `build` makes, with the weights of `state`, for evaluation.

    It is built without memory first and compared by name, shape and dtype, so that a file cannot ask for more memory
    than it has itself. Raises ImportProblem.
    """
    try:
        with torch.device("meta"):
            network = build()
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ImportProblem(f"{source}: no network has such sizes ({error})") from error
    own = network.state_dict()
    compare(own, state, source)
    if any(buffer.is_meta for name, buffer in network.named_buffers() if name not in own):
        network = build()  # it computes some of its buffers
    network.load_state_dict(dict(state), assign=True)
    return network.requires_grad_(requires_grad=False).eval()


def compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raises ImportProblem unless both have the same names, shapes and kinds of numbers."""
    differences = {"missing": own.keys() - state.keys(), "surplus": state.keys() - own.keys()}
    parts = [f"{len(names)} {word}, first {min(names)}" for word, names in differences.items() if names]
    if parts:
        raise ImportProblem(f"{source}: its weights do not fit the network: {'; '.join(parts)}")
    for name, tensor in own.items():
        value = state[name]
        if value.shape != tensor.shape:
            raise ImportProblem(f"{source}: {name} has shape {tuple(value.shape)}, not {tuple(tensor.shape)}")
        if value.is_floating_point() != tensor.is_floating_point():
            raise ImportProblem(f"{source}: {name} has dtype {value.dtype}, not {tensor.dtype}")


def size(state: Mapping[str, Tensor], name: str, axis: int, source: str) -> int:
    """A dimension of a tensor that an architecture is read from. Raises ImportProblem if it is not there."""
    if name not in state or state[name].ndim <= axis:
        raise ImportProblem(f"{source}: {name} is missing or too flat, so this is another network")
    return state[name].shape[axis]


def sample(state: Mapping[Any, Any]) -> str:
    """What a dictionary has, in a few words."""
    names = [str(name) for name in list(state)[:4]]
    return f"{len(state)} entries: {', '.join(names)}{', …' if len(state) > len(names) else ''}" if state else "nothing"


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the `module.` that PyTorch's data parallelism puts before each name."""
    if not all(name.startswith("module.") for name in state):
        return state
    return {name.removeprefix("module."): value for name, value in state.items()}
