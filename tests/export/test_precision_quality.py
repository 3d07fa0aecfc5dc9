"""The judge gets the images of the default request, in the precision of the table's row."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bundle.gpu_manifest import Precision
from bundle.loading import Bundle, load
from bundle.manifest import Quality
from export.accuracy import images
from export.precision_quality import line
from service.runtimes.cpu import OrtRuntime
from tests.conftest import REPOSITORY

LATENT: Path = REPOSITORY / "bundles" / "latent"


class FakeJudge:
    """Keeps the images that it gets."""

    labels = np.array([3, 0, 9])

    def measure(self, images: Tensor, labels: Tensor) -> Quality:
        assert labels.tolist() == self.labels.tolist()
        self.images = images
        return Quality(class_agreement=0.5, frechet_distance=2.0, precision=0.25, recall=0.75)


def judged(bundle: Bundle, precision: Precision) -> Tensor:
    judge = FakeJudge()
    row = line(bundle, precision, judge)  # type: ignore[arg-type]
    assert row == f"| latent, ddim, 2 steps, {precision} | 50.0% | 2.000 | 0.250 | 0.750 |"
    return judge.images


def test_the_judge_sees_the_default_request_in_each_precision() -> None:
    bundle = load(LATENT)
    bundle.manifest.recommended_steps = 2
    exact = images(bundle, OrtRuntime(bundle, threads=1), "ddim", 2, [3, 0, 9])
    assert torch.equal(judged(bundle, "fp32"), torch.from_numpy(exact))
    error = (judged(bundle, "fp16") - torch.from_numpy(exact)).abs()
    assert 0 < error.mean() < 0.01
