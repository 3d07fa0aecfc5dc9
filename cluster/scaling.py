"""How many replicas there should be: by their utilisation and the wait that they predict, not by counts of requests."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

TARGET_UTILIZATION = 0.7
MAX_WAIT_S = 2.0  # predicted for what comes now; beyond it one more replica


def replicas(context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
    """Ray Serve's custom autoscaling policy; what it returns is kept within the deployment's limits."""
    measured = context.aggregated_metrics or {}
    waits_s, utilizations = (measured.get(name, {}).values() for name in ("wait_s", "utilization"))
    return wanted(context.current_num_replicas, waits_s, utilizations), {}


def wanted(now: int, waits_s: Collection[float], utilizations: Collection[float]) -> int:
    """As many as bring the utilisation to TARGET_UTILIZATION, and one more than now if the mean wait is too long."""
    if len(utilizations) < now:  # some are new and have said nothing yet
        return now
    enough = max(1, math.ceil(sum(utilizations) / TARGET_UTILIZATION - 1e-9))
    if sum(waits_s) > MAX_WAIT_S * len(waits_s):
        return max(now + 1, enough)
    return enough
