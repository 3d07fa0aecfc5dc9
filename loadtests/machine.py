"""The machine on which figures are measured."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The number of cores and the processor's name as Linux gives it: "2 cores, Intel(R) Xeon(R) Processor"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return f"{os.cpu_count()} cores, {next(names, platform.machine())}"
