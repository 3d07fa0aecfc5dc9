"""What a server's metrics say of it, once and over time."""

import threading
import time
from dataclasses import dataclass
from typing import Self

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

EVERY_S = 2


def total(client: httpx.Client, name: str) -> float:
    """The sum of a metric over its labels, now."""
    families = text_string_to_metric_families(client.get("/metrics").raise_for_status().text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@dataclass(frozen=True)
class Reading:
    at_s: float
    memory_mb: float
    files: float


class Watch:
    """A server's memory and open files, read every EVERY_S from its start to its end."""

    def __init__(self, url: str) -> None:
        self.readings: list[Reading] = []
        self._client = httpx.Client(base_url=url, timeout=300)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_on)

    def __enter__(self) -> Self:
        self.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.read()
        self._client.close()

    def read(self) -> None:
        memory_mb = total(self._client, "process_resident_memory_bytes") / 1e6
        self.readings.append(Reading(time.monotonic(), memory_mb, total(self._client, "process_open_fds")))

    @property
    def growth_mb_per_h(self) -> float:
        """The slope of the memory over the last half, when caches are full and every size of batch was seen."""
        half = self.readings[len(self.readings) // 2 :]
        hours = [(each.at_s - half[0].at_s) / 3600 for each in half]
        slope, _ = np.polyfit(hours, [each.memory_mb for each in half], 1)
        return float(slope)

    def __str__(self) -> str:
        first, last = self.readings[0], self.readings[-1]
        most_mb, most_files = (max(getattr(each, name) for each in self.readings) for name in ("memory_mb", "files"))
        return (
            f"memory {first.memory_mb:.0f} MB at first, {most_mb:.0f} at most, {last.memory_mb:.0f} at last, "
            f"{self.growth_mb_per_h:+.1f} MB an hour in the last half; "
            f"{first.files:.0f} open files at first, {most_files:.0f} at most, {last.files:.0f} at last"
        )

    def _read_on(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.read()
