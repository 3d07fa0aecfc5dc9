"""Over a fake GPU, rows that begin at pictures give the bytes that they give on the CPU, in batches with others."""

import numpy as np
import pytest

from bundle.loading import Bundle, load
from service.engine.runtime import HostStates
from service.runtimes.cpu import OrtRuntime
from service.runtimes.cuda.device_runtime import DeviceRuntime, Shape
from tests.conftest import REPOSITORY, step_arrays
from tests.gpu.fake import FakeDecoder, FakeDriver, FakeNetwork
from tests.gpu.test_device_runtime import finished
from tests.picture_files import base64_of, half, noisy, png
from tests.service.engine.conftest import inversion, job, new_engine

BUNDLES = [load(REPOSITORY / "bundles" / name) for name in ("ddim", "latent")]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.manifest.name)
@pytest.mark.parametrize("buckets", [(1, 2, 4, 8), (8,)], ids=["buckets", "strict"])
def test_pictures_give_the_same_bytes_through_the_runtime_of_a_gpu(bundle: Bundle, buckets: tuple[int, ...]) -> None:
    manifest, driver, cpu = bundle.manifest, FakeDriver(), OrtRuntime(bundle, threads=1)
    shape = Shape(manifest.state_shape, manifest.shape, manifest.z_dim)
    network = FakeNetwork(driver, shape, lambda inputs: step_arrays(cpu, inputs), buckets)
    decoder = FakeDecoder(driver, shape, lambda x: cpu.decode(HostStates(x)), buckets) if bundle.decodes else None
    gpu = DeviceRuntime(driver, network, decoder, shape, images=64, buckets=buckets, encode=cpu.encode)
    image, mask = png(noisy(32, 32)), png(half(32, 32))
    noise = np.random.default_rng(0).standard_normal(manifest.state_shape).astype("<f4").tobytes()
    results = []
    for runtime in (cpu, gpu):
        jobs = [
            job(bundle, seed=1, n=2, steps=3),
            job(bundle, seed=2, n=2, steps=4, image=image, strength=0.5),
            job(bundle, seed=3, n=3, steps=4, image=image, mask=mask, class_label=2),
            job(bundle, seed=4, n=3, steps=3, to_seed=5),
            job(bundle, seed=6, steps=3, noise=base64_of(noise)),
            inversion(bundle, seed=0, steps=3, image=image),
        ]
        engine = new_engine({manifest.digest: runtime}, max_batch=8, max_queued_images=64)
        results.append([image.pixels.tobytes() for done in finished(engine, jobs) for image in done.images])  # type: ignore[union-attr]
    assert results[0] == results[1]
    assert len(set(results[0])) == 12
