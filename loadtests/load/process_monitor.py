"""A server's metrics: one of them once, or its memory and open files over time."""

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
    """Memory and open files at a time of the monotonic clock."""

    at_s: float
    memory_mb: float
    files: float


class ProcessMonitor:
    """Reads a server's memory and open files every EVERY_S, from entering the block to leaving it."""

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
        """Adds a reading."""
        memory_mb = total(self._client, "process_resident_memory_bytes") / 1e6
        self.readings.append(Reading(time.monotonic(), memory_mb, total(self._client, "process_open_fds")))

    @property
    def growth_mb_per_h(self) -> float:
        """The slope of the memory over the last half, when caches are full and every batch size has occurred."""
        half = self.readings[len(self.readings) // 2 :]
        hours = [(reading.at_s - half[0].at_s) / 3600 for reading in half]
        slope, _ = np.polyfit(hours, [reading.memory_mb for reading in half], 1)
        return float(slope)

    def __str__(self) -> str:
        first, last = self.readings[0], self.readings[-1]
        most_mb = max(reading.memory_mb for reading in self.readings)
        most_files = max(reading.files for reading in self.readings)
        return (
            f"memory {first.memory_mb:.0f} MB at the start, {most_mb:.0f} at most, {last.memory_mb:.0f} at the end, "
            f"{self.growth_mb_per_h:+.1f} MB an hour in the last half; "
            f"{first.files:.0f} open files at the start, {most_files:.0f} at most, {last.files:.0f} at the end"
        )

    def _read_on(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.read()
