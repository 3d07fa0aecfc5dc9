"""EDM's pickles beside what NVIDIA's code computed, and what a pickle must not do."""

import pytest

from importers import edm
from importers.cards import Card
from importers.formats import Format
from importers.imported import Imported
from tests.importers import parity
from tests.importers.parity import assert_near, denoised, output

FILE = "edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl"


@pytest.fixture(scope="module")
def recorded() -> Imported:
    return edm.load(parity.path(FILE), Card(format=Format.EDM))


def test_the_recorded_outputs_are_given(recorded: Imported) -> None:
    io = parity.arrays("edm_vp_ddpmpp16_io.npz")
    assert_near(output(recorded, io["x"], io["F_c_noise"]), io["F_out"])
    assert_near(denoised(recorded, io["x"], io["sigma"]), io["out"])
    for index, sigma in enumerate(io["sigma_grid"]):
        assert_near(denoised(recorded, io["x"], sigma), io[f"out_grid{index}"])


@pytest.mark.parametrize("run", ["heun10", "vp_euler10", "vp_heun10"])
def test_every_call_of_the_samplers_is_reproduced(recorded: Imported, run: str) -> None:
    calls = parity.arrays("edm_vp_ddpmpp16_traj.npz")
    for x, sigma, expected in zip(
        calls[f"{run}_call_x"], calls[f"{run}_call_sigma"], calls[f"{run}_call_denoised"], strict=True
    ):
        assert_near(denoised(recorded, x, sigma), expected)


def test_the_range_of_sigma_is_that_of_the_pickle(recorded: Imported) -> None:
    assert recorded.schedule.sigma_min == 0.0009765625
    assert recorded.schedule.sigma_max == 152.16697692871094
    assert recorded.shape == (3, 16, 16)
