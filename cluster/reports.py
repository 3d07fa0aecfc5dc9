"""Where Serve's news of the replicas goes within a process.

Apart from `directory`, which Serve pickles by value: a list there would be another one in each process's copy.
"""

from collections.abc import Callable, Mapping
from typing import Any

Reports = Mapping[str, Mapping[str, Any]]  # by id: what `Replica.record_routing_stats` says, at first as it began
listeners: list[Callable[[Reports], object]] = []  # called on a thread of Serve's
