"""What a training has come to: kept in memory while it runs, and in one file beside the checkpoint."""

import contextlib
import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.failures import TrainError

STATE = "state.safetensors"
LOCK = ".lock"


@dataclass
class State:
    """All that a training needs to go on as if it had not stopped, but for the data and the settings."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    ema: dict[str, Tensor]
    batches_done: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)  # of batch and mean loss
    recent: list[float] = field(default_factory=list)  # losses since the last point of the history

    def tensors(self) -> dict[str, Tensor]:
        """As a safetensors file has it."""
        state = {f"ema.{name}": value for name, value in self.ema.items()}
        for part, module in self.modules.items():
            state |= {f"module.{part}.{name}": value for name, value in module.state_dict().items()}
        for part, optimizer in self.optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{part}.{index}.{name}": value for name, value in moments.items()}
        state["batches_done"] = torch.tensor(self.batches_done)
        state["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(-1, 2)
        state["recent"] = torch.tensor(self.recent, dtype=torch.float64)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `tensors` gave. Raises KeyError, ValueError or RuntimeError for what is of another training."""
        ema = _below("ema", state)
        self.ema = {name: ema[name].to(value.device) for name, value in self.ema.items()}
        for part, module in self.modules.items():
            module.load_state_dict(_below(f"module.{part}", state))
        for part, optimizer in self.optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(f"optimizer.{part}", state).items():
                index, _, name = key.partition(".")
                moments.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.batches_done = int(state["batches_done"])
        self.history = [(int(batch), loss) for batch, loss in state["history"].tolist()]
        self.recent = state["recent"].tolist()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process. The lock ends with the process, however that ends.

    Raises TrainError if another one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(f"{folder}: another training is at work there: choose another --output") from None
        yield


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of `state` under `prefix.`, by the rest of their names."""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
