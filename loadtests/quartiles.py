"""Figures of several turns, as a table of their medians and quartiles."""

import statistics
from collections.abc import Mapping, Sequence


def table(head: str, names: Sequence[str], measured: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """A line for each kind, a column for each name; figures are by kind and name."""
    lines = [f"| {head} | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for kind in dict.fromkeys(kind for kind, _ in measured):
        quartiles = (statistics.quantiles(measured[kind, name], n=4) for name in names)
        cells = (f"{median:.2f} ({low:.2f} to {high:.2f})" for low, median, high in quartiles)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)
