"""The terms of bounds over a fake GPU."""

from typing import Any

import numpy as np
import pytest

from bundle.loading import Bundle
from service.engine.jobs import Job
from service.engine.lanes import LikelihoodJob
from tests.gpu.test_device_runtime import OPTIONS, Fixture, engine_over, finished
from tests.service.engine.conftest import alone, job
from tests.service.engine.test_lanes import alone as alone_scored
from tests.service.engine.test_lanes import scoring


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_terms_of_a_bound_are_those_of_the_cpu_beside_images(toy: Bundle, options: dict[str, Any]) -> None:
    fixture = Fixture(**options)
    scored, image = finished(engine_over(toy, fixture.runtime), [scoring(toy, [0, 1, 2]), job(toy, seed=1)])
    assert isinstance(scored, LikelihoodJob)
    assert scored.parts() == [alone_scored(toy, index) for index in range(3)]
    assert isinstance(image, Job)
    np.testing.assert_array_equal(image.images[0].pixels, alone(job(toy, seed=1))[0])
