"""`./run check-gpu`: builds engines for this machine's GPU, compares them with the CPU, and writes a report.

`tests/gpu/test_check_gpu.py` runs it on a fake GPU; docs/gpu.md names the real GPUs on which it has run.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bundle import loading
from bundle.files import BundleError
from bundle.gpu_manifest import PRECISIONS, TARGETS, Engines, Target
from bundle.loading import Bundle
from export import gpu_bundle
from export.gpu_bundle import BuildOptions
from export.tensorrt_builder import FLAVOURS, EngineError, TensorRt
from service.engine.denoise import default_job, first_step, take_step
from service.engine.jobs import Batch
from service.engine.runtime import StepInputs
from service.runtimes import choice
from service.runtimes.cpu import OrtRuntime
from service.runtimes.cuda.device_runtime import DeviceRuntime
from service.runtimes.cuda.driver import Driver, DriverError
from service.settings import SHIPPED_BUNDLES

STORED = 6  # steps of a trajectory at which the GPU is compared with the CPU
IMAGES = 256  # whose states the GPU has room for
Report = dict[str, Any]  # a part of the report, as JSON


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run check-gpu", description=str(__doc__).split("\n")[0])
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles; engines go into them")
    parser.add_argument("--targets", type=lambda text: text.split(","), default=TARGETS, help="default: all")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16")
    parser.add_argument("--rounds", type=int, default=100, help="number of timings of each step")
    parser.add_argument("--report", type=Path, default=Path("check-gpu.json"), help="file for the full report")
    arguments = parser.parse_args()
    try:
        driver = choice.open_driver()
    except DriverError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    report = check_all(driver, arguments)
    arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{arguments.report}: {'all checks passed' if report['passed'] else 'NOT all checks passed'}")
    sys.exit(not report["passed"])


def check_all(driver: Driver, arguments: argparse.Namespace) -> Report:
    """The report: every bundle on every target that is installed."""
    bundles, failed = loading.load_all(arguments.bundles)
    checks = []
    for target in arguments.targets:
        for loaded in bundles.values():
            check = check_one(driver, loaded, target, arguments)
            checks.append({"method": loaded.manifest.name, "target": target, **check})
            print(f"{loaded.manifest.name}, {target}: {summary(check)}", flush=True)
    tried = [check for check in checks if "not_tried" not in check]
    return {
        "device": driver.name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": bool(tried) and not failed and all(check["passed"] for check in tried),
        "failed_bundles": failed,
        "checks": checks,
    }


def check_one(driver: Driver, loaded: Bundle, target: Target, arguments: argparse.Namespace) -> Report:
    """The checks of one bundle's engines for one target, or the reason why the target was not tried."""
    try:
        options = BuildOptions(target, arguments.precision, architectures=architectures(driver, target))
    except EngineError as error:
        return {"not_tried": str(error)}
    try:
        start_s = time.perf_counter()
        engines, new = gpu_bundle.build(loaded, options)
        built_s = time.perf_counter() - start_s if new else None
        report = measure(driver, loaded, engines, arguments.rounds)
    except (BundleError, DriverError, EngineError, OSError) as error:
        return {"passed": False, "error": str(error)}
    engines.buckets_agree = report["buckets_agree"]
    engines.write(loaded.folder / target)
    described = engines.model_dump(include={"version", "precision", "buckets", "architectures", "accuracy"})
    return {**described, "built_s": built_s, **report}


def architectures(driver: Driver, target: Target) -> list[str]:
    """The architectures to build for, this GPU's among them. Raises EngineError if the target cannot run here."""
    if target not in FLAVOURS:
        return []
    builder = TensorRt(target)
    if not builder.flavour.targets(builder.trt):
        return []
    here = [driver.architecture]
    builder.check(here)
    return here


def measure(driver: Driver, loaded: Bundle, engines: Engines, rounds: int) -> Report:
    """Parity, purity, replay, speed and memory of the engines."""
    folder = loaded.folder / engines.target
    common: Any = {"images": IMAGES, "buckets": engines.buckets}
    before = driver.free_memory()
    gpu = choice.open_engines(driver, loaded, folder, engines, **common)
    memory = before - driver.free_memory()
    plain = choice.open_engines(driver, loaded, folder, engines, **common, graphs=False)
    stored = list(trajectory(loaded))
    differences = [difference(gpu, OrtRuntime(loaded, threads=1), inputs) for inputs in stored]
    first, other, last = stored[0], stored[1], stored[-1]
    rows = {size: row(gpu, first, other, size, place=0) for size in engines.buckets}
    replayed = rows == {size: row(plain, first, other, size, place=0) for size in engines.buckets}
    neighbours = rows == {size: row(gpu, first, last, size, place=size - 1) for size in engines.buckets}
    return {
        "passed": max(differences) <= engines.accuracy.tolerance and replayed and neighbours,
        "off_cpu_by_step": differences,  # root mean square, of images in [−1, 1]
        "buckets_agree": len(set(rows.values())) == 1,
        "rows_do_not_see_each_other": neighbours,
        "replay_is_plain_launches": replayed,
        "memory_bytes": memory,
        "speed": [speed(gpu, plain, loaded, bucket, rounds) for bucket in engines.buckets],
    }


def trajectory(bundle: Bundle) -> Iterator[StepInputs]:
    """The inputs of STORED steps, evenly spaced, of the model's default request for one image, computed on the CPU."""
    runtime = OrtRuntime(bundle, threads=1)
    (image,) = default_job(bundle, label=0).images
    stored = set(np.linspace(0, image.job.steps - 1, STORED).astype(int).tolist())
    while not image.finished:
        if image.step in stored:
            yield Batch([image]).inputs()
        take_step([image], runtime)


def difference(gpu: DeviceRuntime, cpu: OrtRuntime, inputs: StepInputs) -> float:
    """The error of a GPU's step against the CPU's from the same state: root mean square over the images of x and x0."""
    pairs = zip(gpu.step(inputs), cpu.step(inputs), strict=True)
    return max(float(np.sqrt(np.square(gpu.decode(a) - cpu.decode(b)).mean())) for a, b in pairs)


def row(runtime: DeviceRuntime, mine: StepInputs, others: StepInputs, rows: int, place: int) -> bytes:
    """The bytes of the step's result for one image, at a place in a batch of `rows` rows; the others are all equal."""
    batch = [others] * rows
    batch[place] = mine
    x, x0 = runtime.step(concatenated(batch))
    return b"".join(runtime.decode(states.select([place])).tobytes() for states in (x, x0))


def concatenated(rows: Sequence[StepInputs]) -> StepInputs:
    """The inputs of one step of all these rows."""
    arrays = [inputs.arrays() for inputs in rows]
    return StepInputs(**{name: np.concatenate([values[name] for values in arrays]) for name in arrays[0]})


def speed(gpu: DeviceRuntime, plain: DeviceRuntime, loaded: Bundle, bucket: int, rounds: int) -> Report:
    """Milliseconds a step, and images a second at the model's recommended steps."""
    steps = loaded.manifest.recommended_steps
    alone = timed(gpu, first_step(loaded, bucket), rounds, waits=True)
    ahead = timed(gpu, first_step(loaded, bucket), rounds, waits=False)
    return {
        "rows": bucket,
        "ms_alone": alone,  # the host waits for each step and downloads its images
        "ms": ahead,  # the host launches the next step meanwhile, as the service does
        "ms_plain_launches": timed(plain, first_step(loaded, bucket), rounds, waits=False),
        "images_per_s": 1000 * bucket / (steps * ahead),
        "steps": steps,
    }


def timed(runtime: DeviceRuntime, inputs: StepInputs, rounds: int, *, waits: bool) -> float:
    """Milliseconds a step, after one to warm up. With `waits` the host downloads each step's images."""
    x, x0 = runtime.step(inputs)
    runtime.decode(x)
    rows = range(x.shape[0])
    start_s = time.perf_counter()
    for _ in range(rounds):
        x, x0 = runtime.step(replace(inputs, x=[x[row] for row in rows], x0_prev=[x0[row] for row in rows]))
        if waits:
            runtime.decode(x)
    runtime.decode(x)
    return 1000 * (time.perf_counter() - start_s) / rounds


def summary(check: Report) -> str:
    """One line, and one for each batch size."""
    if "not_tried" in check:
        return f"not tried: {check['not_tried']}"
    if "error" in check:
        return f"FAILED: {check['error']}"
    lines = [
        f"{'passed' if check['passed'] else 'FAILED'}; a step differs from the CPU's by at most "
        f"{max(check['off_cpu_by_step']):.1e}; buckets agree: {check['buckets_agree']}; graph replay agrees with plain "
        f"launches: {check['replay_is_plain_launches']}; {check['memory_bytes'] / 1e6:.0f} MB",
        *(
            "  {rows:3d} rows: {ms_alone:.3f} ms alone, {ms:.3f} ms, {ms_plain_launches:.3f} ms by plain launches, "
            "{images_per_s:.0f} images/s at {steps} steps".format(**timing)
            for timing in check["speed"]
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
