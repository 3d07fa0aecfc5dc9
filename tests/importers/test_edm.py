"""EDM's pickles beside what NVIDIA's code computed, and what a pickle must not do."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from importers import edm
from importers.cards import Card
from importers.edm import DhariwalArguments, SongArguments
from importers.formats import Format
from importers.imported import Imported
from importers.problems import ImportProblem
from tests.importers import parity, pickled_network
from tests.importers.parity import assert_near, denoised, output
from tests.importers.pickled_network import Persistent

FILE = "edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl"
CARD = Card(format=Format.EDM)
SMALL: dict[str, Any] = {
    "img_resolution": 16, "in_channels": 3, "out_channels": 3, "label_dim": 4, "model_channels": 32,
    "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> Imported:
    return edm.load(parity.path(FILE), CARD)


def test_the_recorded_outputs_are_given(recorded: Imported) -> None:
    io = parity.arrays("edm_vp_ddpmpp16_io.npz")
    assert_near(output(recorded, io["x"], io["F_c_noise"]), io["F_out"])
    assert_near(denoised(recorded, io["x"], io["sigma"]), io["out"])
    for index, sigma in enumerate(io["sigma_grid"]):
        assert_near(denoised(recorded, io["x"], sigma), io[f"out_grid{index}"])


@pytest.mark.parametrize("run", ["heun10", "vp_euler10", "vp_heun10"])
def test_every_call_of_the_samplers_is_reproduced(recorded: Imported, run: str) -> None:
    recorded_calls = parity.arrays("edm_vp_ddpmpp16_traj.npz")
    calls = zip(recorded_calls[f"{run}_call_x"], recorded_calls[f"{run}_call_sigma"], strict=True)
    for (x, sigma), expected in zip(calls, recorded_calls[f"{run}_call_denoised"], strict=True):
        assert_near(denoised(recorded, x, sigma), expected)


def test_the_range_of_sigma_is_that_of_the_pickle(recorded: Imported) -> None:
    assert recorded.schedule.sigma_min == 0.0009765625
    assert recorded.schedule.sigma_max == 152.16697692871094
    assert recorded.shape == (3, 16, 16)


def network(arguments: DhariwalArguments | SongArguments) -> nn.Module:
    torch.manual_seed(0)
    module = arguments.build()
    for tensor in module.state_dict().values():
        tensor.normal_(std=0.2)
    return module


def write(path: Path, precondition: str, *, source: str = "", key: str = "ema", **changes: Any) -> nn.Module:
    """A small DhariwalUNet in a pickle; `changes` are of its arguments."""
    arguments = {**SMALL, **changes}
    inner = network(DhariwalArguments(**SMALL))
    levels = torch.linspace(90, 0, 1001) ** 2 / 90
    attributes = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.7, "M": 1000, "beta_d": 19.9, "beta_min": 0.1}
    outer = nn.Module()
    outer.register_buffer("u", levels)
    pickled = Persistent(precondition, outer, {}, source, **attributes)
    pickled.meta["state"]["_modules"] = {"model": Persistent("DhariwalUNet", inner, arguments, source)}
    pickled_network.write(path, {key: pickled, "augment_pipe": None})
    return inner.eval()


def test_edms_preconditioning_is_table_1s(tmp_path: Path) -> None:
    """Karras et al. 2022, table 1, in float64, with the paper's own columns."""
    path, sigma = tmp_path / "network.pkl", np.array([0.002, 0.1, 3.0, 80.0])
    table = {
        "VPPrecond": (np.ones(4), -sigma, 1 / np.sqrt(sigma**2 + 1)),
        "VEPrecond": (np.ones(4), sigma, np.ones(4)),
        "iDDPMPrecond": (np.ones(4), -sigma, 1 / np.sqrt(sigma**2 + 1)),
        "EDMPrecond": (0.49 / (sigma**2 + 0.49), sigma * 0.7 / np.sqrt(sigma**2 + 0.49), 1 / np.sqrt(sigma**2 + 0.49)),
    }
    noise = {"VEPrecond": np.log(sigma / 2), "EDMPrecond": np.log(sigma) / 4}
    for name, columns in table.items():
        write(path, name)
        functions = edm.load(path, CARD).schedule.preconditioning
        for function, expected in zip((functions.c_skip, functions.c_out, functions.c_in), columns, strict=True):
            np.testing.assert_allclose(function(sigma), expected, rtol=1e-12)
        np.testing.assert_allclose(functions.c_noise(sigma), noise.get(name, functions.c_noise(sigma)), rtol=1e-5)


def test_vps_noise_label_undoes_its_sigma(recorded: Imported) -> None:
    """σ(t) = √(exp(½·β_d·t² + β_min·t) − 1), and the label is 999·t."""
    t = np.array([0.1, 0.5, 1.0])
    sigma = np.sqrt(np.expm1(0.5 * 19.9 * t**2 + 0.1 * t))
    np.testing.assert_allclose(recorded.schedule.preconditioning.c_noise(sigma), 999 * t, rtol=1e-5)


def test_iddpms_label_is_the_place_of_the_nearest_level(tmp_path: Path) -> None:
    write(tmp_path / "network.pkl", "iDDPMPrecond")
    schedule = edm.load(tmp_path / "network.pkl", CARD).schedule
    assert schedule.levels is not None
    place = np.array([0, 3, 500, 1000])
    np.testing.assert_array_equal(schedule.preconditioning.c_noise(schedule.levels[place] + 1e-7), 999 - place)


def test_the_network_and_its_classes_are_those_of_the_pickle(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    inner = write(path, "EDMPrecond", source="raise SystemExit('the source was run')")
    model = edm.load(path, CARD)
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([0.1, 1.0]), torch.tensor([3, 4])
    with torch.inference_mode():
        expected = inner(x, t, y)
    assert_near(output(model, x, t, y), expected.numpy())
    assert model.classes == ("0", "1", "2", "3")
    assert not model.unconditional


class Command:
    """What a pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def call(target: Any, *arguments: Any) -> Any:
    """An object whose pickle calls `target`."""

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return target, arguments

    return Call()


def nested_without_end() -> Persistent:
    outer = Persistent("EDMPrecond", nn.Module(), {}, "")
    outer.meta["state"]["_modules"] = {"model": outer}
    return outer


HOSTILE = {
    "a command": lambda path: {"ema": Command(path.with_name("harm"))},
    "a command beside the network": lambda path: {"ema": None, "loss_fn": Command(path.with_name("harm"))},
    "code": lambda path: {"ema": call(exec, "raise SystemExit")},
    "an import": lambda path: {"ema": call(__import__, "antigravity")},
    "an attribute": lambda path: {"ema": call(getattr, "", "join")},
    "bytes that are no storage": lambda path: {"ema": call(torch.storage._load_from_bytes, b"\x80\x02.")},
    "a pickle within": lambda path: {
        "ema": call(torch.storage._load_from_bytes, pickle.dumps(Command(path.with_name("harm"))))
    },
    "modules without end": lambda path: {"ema": nested_without_end()},
    "a network without state": lambda path: {"ema": call(nn.ModuleDict)},
    "another key": lambda path: {"G_ema": 3},
    "nothing": lambda path: None,
}


def refuse(path: Path, message: str | None = None) -> None:
    """Asserts that it is refused in one line, and that nothing else is in its folder."""
    with pytest.raises(ImportProblem, match=message) as problem:
        edm.load(path, CARD)
    assert "\n" not in str(problem.value)
    assert path.name in str(problem.value)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "network.pkl"
    pickled_network.write(path, HOSTILE[kind](path))
    refuse(path)


def test_a_pickle_that_is_cut_short_or_no_pickle_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "network.pkl", parity.path(FILE).read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-1], b"", b"<html>", b"\x80\x04\x95" + b"\xff" * 8 + b"."):
        path.write_bytes(data)
        refuse(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04r\xff\xff\xff\xff.",  # a memo of 2^32 places
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",  # 2^62 bytes
        b"\x80\x04" + b"(" * 100_000 + b".",
        b"\x80\x04" + b"]\x94" + b"h\x00a" * 1000 + b".",
    ],
)
def test_a_pickle_that_says_more_than_it_has_allocates_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "network.pkl").write_bytes(data)
    refuse(tmp_path / "network.pkl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 10**9}, "num_blocks"),
        ({"img_resolution": 10**12}, "img_resolution"),
        ({"channel_mult": [1] * 1000}, "channel_mult"),
        ({"model_channels": 64}, "has shape"),
        ({"num_blocks": 2}, "missing"),
        ({"label_dim": 0}, "surplus"),
        ({"dual": True}, "dual"),
        ({"channel_mult": None}, "channel_mult"),
    ],
)
def test_arguments_that_do_not_fit_the_weights_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path / "network.pkl", "EDMPrecond", **changes)
    refuse(tmp_path / "network.pkl", message)


def test_another_network_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "network.pkl", "Precond")
    refuse(tmp_path / "network.pkl", "a Precond of a DhariwalUNet")
