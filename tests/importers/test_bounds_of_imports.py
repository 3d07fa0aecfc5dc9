"""Terms of bounds beside what the official code computed, for imported networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from importers import vdm
from importers.cards import Card
from importers.formats import Format
from models.bound import ContinuousBound, DiscreteBound, prior
from models.step import Step, update
from service.engine.runtime import StepInputs
from service.runtimes.cpu import OrtRuntime
from tests.importers import parity
from tests.importers.test_guided_service import imported


def test_the_terms_of_vdm_are_the_losses_of_the_original_at_its_own_time_and_noise() -> None:
    io = parity.arrays("vdm_nnet16_io.npz")
    model = vdm.load(parity.path("vdm_nnet16.flax"), Card(format=Format.VDM, settings={"image_size": 16}))
    bound = ContinuousBound(model.schedule.gamma)
    # The original has t = (t0 + k/2) mod 1 for its two images, which are the times of two terms from a start of 2·t0.
    terms = bound.terms(2 * float(io["loss_t0"]), 2)
    for k, (image, eps) in enumerate(zip(io["encoded"], io["loss_eps"], strict=True)):
        image, eps = (array.transpose(2, 0, 1).astype(np.float64) for array in (image, eps))
        step = Step(*terms.table[k].astype(np.float64).tolist())
        state = terms.alpha[k] * image + terms.sigma[k] * eps
        with torch.inference_mode():
            out = model.network(
                torch.tensor(state[None], dtype=torch.float32), torch.tensor([step.t]), torch.tensor([0])
            )
        x_new, x0 = update(step, state, out[0].double().numpy(), 0.0, 1.0)
        np.testing.assert_allclose(bound.nats(terms, k, image, x0, x_new), io["loss_diff"][k], rtol=1e-3)
        assert prior(image, 1 / (1 + np.exp(bound.gamma[-1]))) == pytest.approx(io["loss_klz"][k], rel=1e-3)


def test_the_step_of_a_learned_variance_is_the_originals_with_its_mean_and_its_deviation(tmp_path: Path) -> None:
    io = parity.arrays("id_cosine32_io.npz")
    settings = json.loads(parity.path("id_cosine32_config.json").read_text())["args"]
    bundle = imported(
        tmp_path, parity.path("id_cosine32.pt"), "improved", format="improved-diffusion", settings=settings
    )
    bound = bundle.bound
    assert isinstance(bound, DiscreteBound)
    table = bound._table(io["t"].astype(np.int64))
    x, ones = io["x"].astype(np.float32), np.ones_like(io["x"], dtype=np.float32)
    labels = np.full(len(x), len(bundle.manifest.classes))
    x_new, x0 = OrtRuntime(bundle, threads=1).step(
        StepInputs(x=x, t=table[:, 0], y=labels, noise=ones, x0_prev=0 * ones, coefficients=table[:, 1:])
    )
    np.testing.assert_allclose(x0.array, io["pmv_pred_xstart"], atol=1e-3)  # 1/α makes much of float32's rounding
    least = bound.least[io["t"].astype(np.int64)][:, None, None, None]
    np.testing.assert_allclose(np.log(least * x_new.array.astype(np.float64) ** 2), io["pmv_log_variance"], atol=2e-4)
