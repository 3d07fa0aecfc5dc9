"""The measurement of likelihoods: its ROC area against SciPy's, and the served bound against the trainer's own."""

import io

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from scipy import stats

from evaluate.detection import Settings, roc_area, score, shuffled
from evaluate.measure import trained
from models.data import to_model
from models.vdm import measures
from service.app import create_app
from service.settings import Settings as ServiceSettings
from tests.conftest import REPOSITORY
from tests.service.conftest import wait_until_loaded

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_roc_area_is_that_of_the_rank_test() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 9, 50).astype(float), rng.integers(3, 12, 70).astype(float)
    assert roc_area(low, high) == pytest.approx(stats.mannwhitneyu(high, low).statistic / (50 * 70))
    assert roc_area(np.zeros(3), np.ones(2)) == 1


def test_shuffled_images_have_the_same_pixels_in_orders_of_their_own() -> None:
    images = np.arange(3 * 2 * 36, dtype=np.uint8).reshape(3, 2, 6, 6)
    mixed = shuffled(images)
    for before, after in zip(images, mixed, strict=True):
        pairs = [set(zip(*each.reshape(2, -1).tolist(), strict=True)) for each in (before, after)]
        assert pairs[0] == pairs[1]  # both channels of a pixel stay together
    orders = (mixed - images[:, :, :1, :1])[:, 0]
    assert not np.array_equal(orders[0], orders[1])


def test_the_served_bound_is_the_trainers_and_tells_images_from_shuffled_ones() -> None:
    with TestClient(create_app(ServiceSettings(max_backlog_s=3600, max_request_s=3600))) as client:
        wait_until_loaded(client)
        labels = np.arange(30) % 10
        images = pictures(client, labels)
        settings = Settings(data=REPOSITORY, other=REPOSITORY, terms=4)
        own = score(client, settings, images, [str(label) for label in labels])
        mixed = score(client, settings, shuffled(images))
    found = trained("vdm", REPOSITORY / "checkpoints")
    assert found is not None
    x = torch.from_numpy(to_model(images, 32))
    theirs = torch.stack(measures.bounds(found[1], x, torch.from_numpy(labels), None, "")).sum(dim=0).numpy()
    # The same images, so that their own spread is in neither: what is left is the noise of 1 and of 4 terms an image.
    difference = own.bits - theirs
    error = difference.std() / np.sqrt(len(difference))
    assert abs(difference.mean()) < 4 * error < own.bits.mean() / 2
    assert roc_area(own.bits, mixed.bits) == 1


def pictures(client: TestClient, labels: np.ndarray) -> np.ndarray:
    """Digits of ddim on a ground that is black, as MNIST's is, uint8 (n, 1, 32, 32)."""
    arrays = []
    for seed, label in enumerate(labels):
        body = {"method": "ddim", "class_label": int(label), "seed": seed}
        answer = client.post("/generate", json=body, headers={"Accept": "application/x-npy"})
        arrays.append(np.load(io.BytesIO(answer.content)))
    values = ((np.concatenate(arrays).clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    return np.where(values < 32, 0, values).astype(np.uint8)
