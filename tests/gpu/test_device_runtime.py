"""The runtime of a GPU over a fake GPU: whole requests give the images that they give on the CPU."""

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.loading import Bundle, load
from bundle.manifest import DECODE
from service.engine.denoise import first_step, take_step
from service.engine.jobs import Job
from service.engine.loop import Engine
from service.engine.runtime import Array, HostStates, StepInputs
from service.errors import StepFailed
from service.registry.warmup import warm_up
from service.runtimes.cpu import OrtRuntime
from service.runtimes.cuda.device_runtime import DeviceRuntime, Shape
from service.runtimes.cuda.driver import DriverError
from service.runtimes.cuda.state_pool import DeviceStates
from tests.conftest import REPOSITORY, SHAPE, ToyRuntime, step_arrays, toy_step
from tests.gpu.fake import Arrays, FakeDecoder, FakeDriver, FakeNetwork, following
from tests.service.engine.conftest import alone, job, new_engine, run, sample
from tests.service.engine.test_loop import REQUESTS

BUCKETS = (1, 2, 4, 8)
IMAGES = 64


class Fixture:
    """A runtime on a fake GPU, with its driver and network."""

    def __init__(
        self,
        *,
        buckets: tuple[int, ...] = BUCKETS,
        graphs: bool = True,
        capturable: bool = True,
        images: int = IMAGES,
    ) -> None:
        self.driver = FakeDriver()
        self.shape = Shape(SHAPE, SHAPE, 0)
        self.network = FakeNetwork(self.driver, self.shape, toy_step, buckets, capturable)
        self.runtime = DeviceRuntime(
            self.driver, self.network, None, self.shape, images=images, buckets=buckets, graphs=graphs
        )
        self._calls_of_init = len(self.driver.calls)

    @property
    def calls(self) -> list[str]:
        """The driver's calls since the runtime was created."""
        return self.driver.calls[self._calls_of_init :]

    @property
    def free_places(self) -> int:
        return len(self.runtime._pool._free)


def finished(engine: Engine, jobs: list[Job]) -> list[Job | BaseException]:
    """The jobs, or their exceptions; starts and stops the engine."""

    async def all_of_them() -> list[Job | BaseException]:
        return await asyncio.gather(*(run(engine, job) for job in jobs), return_exceptions=True)

    engine.start()
    ended = asyncio.run(all_of_them())
    engine.stop()
    return ended


def engine_over(toy: Bundle, runtime: DeviceRuntime, max_batch: int = 8) -> Engine:
    return new_engine({toy.manifest.digest: runtime}, max_batch=max_batch, max_queued_images=IMAGES)


OPTIONS: list[dict[str, Any]] = [{}, {"graphs": False}, {"capturable": False}, {"buckets": (8,)}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_requests_that_share_batches_get_the_images_of_each_alone_on_a_cpu(
    toy: Bundle, options: dict[str, Any]
) -> None:
    gpu = Fixture(**options)
    results = finished(engine_over(toy, gpu.runtime), [job(toy, **request) for request in REQUESTS])
    for result, request in zip(results, REQUESTS, strict=True):
        assert isinstance(result, Job)
        for image, expected in zip(result.images, alone(job(toy, **request)), strict=True):
            np.testing.assert_array_equal(image.pixels, expected)


def test_nothing_is_allocated_after_the_start_and_a_step_is_one_launch(toy: Bundle) -> None:
    gpu = Fixture()
    engine = engine_over(toy, gpu.runtime)
    finished(engine, [job(toy, **request) for request in REQUESTS])
    calls = Counter(gpu.calls)
    assert not calls.keys() & {"allocate", "pin", "event", "begin_capture", "end_capture"}
    assert not calls.keys() & {"gather", "scatter", "network"}  # but within a graph
    steps = sample(engine, "trilemma_step_seconds_count", method="toy")
    images = sum(request["n"] for request in REQUESTS)
    assert calls["copy"] == steps  # of the uploaded inputs into the memory of the running step
    assert steps < calls["launch"] <= steps + images  # one a step, and one when images finish
    assert gpu.driver.calls.count("begin_capture") == 2 * len(BUCKETS)


def test_a_step_makes_these_calls_in_this_order(toy: Bundle) -> None:
    gpu = Fixture()
    inputs = first_step(toy, 3)
    x, x0 = gpu.runtime.step(inputs)
    uploads_of_x = ["upload"] * 3
    step = ["upload", "record", "wait", "copy", "launch", "download", "record"]
    assert gpu.calls == [*uploads_of_x, *step]
    gpu.runtime.step(following(inputs, x, x0))
    assert gpu.calls[10:] == [*step, "synchronize"]  # only now is the first one waited for
    gpu.runtime.decode(x)
    assert gpu.calls[18:] == ["synchronize", "upload", "launch", "download", "record", "synchronize"]


def test_the_host_goes_on_while_the_device_has_done_nothing_yet(toy: Bundle) -> None:
    gpu = Fixture()
    before = len(gpu.network.ran)
    gpu.runtime.step(first_step(toy, 3))
    assert len(gpu.network.ran) == before
    gpu.runtime.step(first_step(toy, 5))
    assert gpu.network.ran[before:] == [4]  # rows of the smallest bucket that holds three


def test_every_batch_is_padded_to_the_one_bucket_of_strict_mode(toy: Bundle) -> None:
    gpu = Fixture(buckets=(8,))
    finished(engine_over(toy, gpu.runtime), [job(toy, n=3, steps=2), job(toy, steps=4)])
    assert set(gpu.network.ran) == {8}


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12), data=st.data())
def test_any_order_of_steps_over_any_rows_gives_what_numpy_gives(sizes: list[int], data: st.DataObject) -> None:
    """Rows start from random states among the results so far, or from the host."""
    gpu, rng = Fixture(), np.random.default_rng(len(sizes))
    held: list[tuple[Any, Any, Array, Array]] = []  # x and x0 on the device, and their expected values
    for size in sizes:
        rows = []
        for _ in range(size):
            if held and data.draw(st.booleans()):
                rows.append(data.draw(st.sampled_from(held)))
            else:
                x, x0 = rng.standard_normal((2, *SHAPE), dtype=np.float32)
                x0 *= data.draw(st.integers(0, 1))
                rows.append((x, x0, x, x0))
        common = {
            "t": rng.random(size, dtype=np.float32),
            "y": rng.integers(4, size=size),
            "noise": rng.standard_normal((size, *SHAPE), dtype=np.float32),
            "coefficients": rng.random((size, 8), dtype=np.float32),
        }
        device = gpu.runtime.step(StepInputs(x=[row[0] for row in rows], x0_prev=[row[1] for row in rows], **common))
        expected = toy_step(
            {**common, "x": np.stack([row[2] for row in rows]), "x0_prev": np.stack([row[3] for row in rows])}
        )
        held = (held + list(zip(*device, *expected, strict=True)))[-30:]
    for x, x0, expected_x, expected_x0 in held:
        np.testing.assert_array_equal(gpu.runtime.decode(DeviceStates([x, x0], SHAPE)), [expected_x, expected_x0])


def test_places_come_back_when_requests_end_however_they_end(toy: Bundle) -> None:
    gpu = Fixture()
    at_first = gpu.free_places
    engine = engine_over(toy, gpu.runtime)
    engine.start()

    async def mixed() -> None:
        tasks = [engine.submit(job(toy, seed=seed, n=8, steps=50)) for seed in range(6)]
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(mixed())
    engine.stop()
    gpu.runtime.decode(HostStates(first_step(toy, 1).arrays()["x"]))  # frees the results of the last step
    gc.collect()
    assert gpu.free_places == at_first


def test_there_is_room_for_states_in_the_worst_case(toy: Bundle) -> None:
    gpu = Fixture(images=8)
    inputs = first_step(toy, 8)
    inputs = replace(inputs, x0_prev=inputs.x)
    held = gpu.runtime.step(inputs)  # by every image that may be accepted
    gpu.runtime.step(inputs)  # a cancelled batch, whose results are held until the magnitudes arrive
    latest = gpu.runtime.step(inputs)  # its rows come from the host
    # Those of its inputs and of the cancelled batch, of mixtures, and of two older x0 of every image.
    assert gpu.free_places == 4 * 8 + 8 + 2 * 8
    for states in (*held, *latest):
        assert np.isfinite(gpu.runtime.decode(states)).all()


def poisoned(inputs: Arrays) -> tuple[Array, Array]:
    """Rows of class 1 become NaN in their third step of five."""
    x, x0 = toy_step(inputs)
    x[(inputs["y"] == 1) & (inputs["t"] < 700)] = np.nan
    return x, x0


@pytest.mark.parametrize("steps", [2, 5])
def test_only_the_poisoned_request_fails(toy: Bundle, steps: int) -> None:
    gpu = Fixture()
    gpu.network.step = poisoned
    requests = [{"seed": label, "class_label": label, "n": 2, "steps": steps} for label in (0, 1, 2)]
    results = finished(engine_over(toy, gpu.runtime), [job(toy, **request) for request in requests])
    assert isinstance(results[1], StepFailed)
    for result, request in ((results[0], requests[0]), (results[2], requests[2])):
        assert isinstance(result, Job)
        for image, expected in zip(result.images, alone(job(toy, **request)), strict=True):
            np.testing.assert_array_equal(image.pixels, expected)


def test_a_step_that_is_refused_does_not_touch_the_one_under_way(toy: Bundle) -> None:
    gpu, inputs = Fixture(), first_step(toy, 2)
    x, _ = gpu.runtime.step(inputs)
    with pytest.raises(ValueError, match="broadcast"):
        gpu.runtime.step(replace(inputs, t=np.zeros(7), y=inputs.y + 1, noise=inputs.noise + 1))
    gpu.runtime.step(replace(inputs, y=inputs.y + 2, noise=inputs.noise + 2))
    np.testing.assert_array_equal(gpu.runtime.decode(x), toy_step(inputs.arrays())[0])


def test_a_driver_error_reaches_the_caller_and_names_the_call(toy: Bundle) -> None:
    gpu = Fixture()
    gpu.runtime.step(first_step(toy, 1))
    gpu.driver.fails_at = 0
    with pytest.raises(DriverError, match="cuEventSynchronize"):
        gpu.runtime.step(first_step(toy, 1))


def test_a_device_that_is_too_small_is_an_error_when_the_runtime_is_created() -> None:
    driver, shape = FakeDriver(memory=10_000), Shape(SHAPE, SHAPE, 0)
    with pytest.raises(DriverError, match="OUT_OF_MEMORY"):
        DeviceRuntime(
            driver, FakeNetwork(driver, shape, toy_step, BUCKETS), None, shape, images=IMAGES, buckets=BUCKETS
        )


def test_a_batch_larger_than_every_bucket_is_refused(toy: Bundle) -> None:
    with pytest.raises(ValueError, match="9 rows: a batch has 1 to 8"):
        Fixture().runtime.step(first_step(toy, 9))


def test_a_preview_is_the_x0_that_numpy_gives(toy: Bundle) -> None:
    gpu, watched = Fixture(), job(toy, steps=4, preview_every=1)
    previews: list[Array | None] = []
    watched.watch = lambda progress: previews.append(progress.preview)
    watched.preview_every = 1
    finished(engine_over(toy, gpu.runtime), [watched])
    (image,) = job(toy, steps=4, seed=watched.seed).images
    for preview in previews:
        take_step([image], ToyRuntime())
        np.testing.assert_array_equal(preview, image.x0)
    assert image.finished


def test_the_warm_up_measures_it_as_it_does_a_cpu(toy: Bundle) -> None:
    gpu = Fixture()
    assert set(warm_up(gpu.runtime, toy, max_batch=8)) == {1, 2, 4, 8}


# --- the shipped models, computed by ONNX Runtime where a GPU would ------------------------------------------------

BUNDLES = [load(path.parent) for path in sorted(REPOSITORY.glob("bundles/*/manifest.json"))]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.manifest.name)
@pytest.mark.parametrize("buckets", [(1, 2, 4, 8), (8,)], ids=["buckets", "strict"])
def test_a_shipped_model_gives_the_same_bytes_through_the_runtime_of_a_gpu(
    bundle: Bundle, buckets: tuple[int, ...]
) -> None:
    manifest, driver = bundle.manifest, FakeDriver()
    shape = Shape(manifest.state_shape, manifest.shape, manifest.z_dim)
    cpu = OrtRuntime(bundle, threads=2)
    network = FakeNetwork(driver, shape, lambda inputs: step_arrays(cpu, inputs), buckets)
    decoder = (
        FakeDecoder(driver, shape, lambda x: cpu.decode(HostStates(x)), buckets) if DECODE in bundle.graphs else None
    )
    gpu = DeviceRuntime(driver, network, decoder, shape, images=IMAGES, buckets=buckets)
    images = []
    for runtime in (cpu, gpu):
        jobs = [
            job(bundle, method=manifest.name, seed=seed, n=n, steps=min(steps, bundle.max_steps), class_label=seed)
            for seed, (n, steps) in enumerate([(3, 4), (1, 2), (5, 3)])
        ]
        engine = new_engine({bundle.manifest.digest: runtime}, max_batch=8, max_queued_images=IMAGES)
        images.append([image.pixels.tobytes() for result in finished(engine, jobs) for image in result.images])  # type: ignore[union-attr]
    assert images[0] == images[1]
    assert len(set(images[0])) == 9
