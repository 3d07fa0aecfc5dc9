"""`./run import` of the parity sets: through the exported bundle, each recorded step from its stored state."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.loading import load
from importers import __main__ as command
from importers.cards import Card
from importers.formats import Format
from importers.importer import load as load_model
from importers.problems import ImportProblem
from tests.importers import parity


def settings(name: str, *keys: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(parity.path(f"{name}_config.json").read_text())
    return {flag: value for key in keys for flag, value in config[key].items()} if keys else config


SETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddim": ("ddim_gray28_model.ckpt", "ddim", settings("ddim_gray28")),
    "ddgan": ("ddgan_gray28_netG.pth", "ddgan", settings("ddgan_gray28")),
    "openai": ("id_cosine32.pt", "improved-diffusion", settings("id_cosine32", "args")),
    "lucidrains": (
        "luci_v_sigmoid16_model-1.pt",
        "denoising-diffusion-pytorch",
        settings("luci_v_sigmoid16", "unet", "diffusion"),
    ),
    "latent": ("ldm_vq_model.ckpt", "latent-diffusion", settings("ldm_vq")),
    "vdm": ("vdm_nnet16.flax", "vdm", {"image_size": 16, **settings("vdm_nnet16")}),
    "diffusers": ("diffusers_gray28", "diffusers", {}),
    "edm": ("edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl", "edm", {}),
}
# A set, its recorded file, the names there of x, t, z, out, xs and noises, and the command's options.
RUNS = [
    ("ddim", "ddim_gray28_traj", {"xs": "uniform20_eta05_xs", "noises": "noises"}, ["--eta", "0.5", "--steps", "20"]),
    ("ddgan", "ddgan_gray28_io", {"x": "x_t", "t": "t_mixed", "z": "z", "out": "out_t_mixed"}, []),
    ("ddgan", "ddgan_gray28_traj", {"xs": "xs", "zs": "zs", "noises": "noises"}, []),
    ("openai", "id_cosine32_io", {"x": "x", "t": "t", "out": "out"}, []),
    ("openai", "id_cosine32_traj", {"xs": "p20_xs", "noises": "noises"}, ["--solver", "ddpm"]),
    ("openai", "id_cosine32_traj", {"xs": "ddim20_eta0_xs"}, ["--solver", "ddim"]),
    ("lucidrains", "luci_v_sigmoid16_traj", {"xs": "ddim7_eta1_xs", "noises": "noises"}, ["--eta", "1"]),
    ("latent", "ldm_vq_io_traj", {"x": "x", "t": "t", "out": "out", "xs": "eta1_xs", "noises": "noises"}, ["--eta=1"]),
    ("vdm", "vdm_nnet16_io", {"x": "z", "t": "g1", "out": "eps_hat_g1", "xs": "zs", "noises": "noises"}, []),
    ("diffusers", "diffusers_gray28_io_traj", {"x": "x", "t": "t", "out": "out", "xs": "lead0_clip_xs"}, []),
]


def run(folder: Path, name: str, *options: str) -> str:
    """The command's last line; the bundle is in `folder`/bundle."""
    file, format, flags = SETS[name]
    card = folder / "card.json"
    card.write_text(json.dumps({"format": format, "settings": flags}))
    arguments = [str(parity.path(file)), "-o", str(folder / "bundle"), "--card", str(card), *options]
    return command.run(command.parser().parse_args(arguments))


@pytest.mark.parametrize(("name", "file", "names", "options"), RUNS)
def test_a_bundle_gives_what_the_original_code_gave(
    tmp_path: Path, name: str, file: str, names: dict[str, str], options: list[str]
) -> None:
    recorded = parity.arrays(f"{file}.npz")
    arrays: dict[str, Any] = {ours: recorded[theirs] for ours, theirs in names.items()}
    np.savez(tmp_path / "reference.npz", **arrays)
    run(tmp_path, name, "--reference", str(tmp_path / "reference.npz"), *options)
    kept = load(tmp_path / "bundle").manifest.checkpoint["reference"]["comparisons"]
    steps = len(recorded[names["xs"]]) - 1 if "xs" in names else 0
    assert len(kept) == steps + ("out" in names)
    assert max(each["rms"] for each in kept) <= parity.RMS
    assert max(each["largest"] for each in kept) <= parity.MAXIMUM


@pytest.mark.parametrize("name", SETS)
def test_what_a_card_says_for_people_is_kept(name: str) -> None:
    file, format, flags = SETS[name]
    said = {"data": "MNIST", "licence": "MIT", "source": "https://example.org/models"}
    card = Card(format=Format(format), settings=flags, **said)
    assert said.items() <= load_model(parity.path(file), card).facts.items()


def test_an_import_that_is_off_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    recorded = parity.arrays("ddim_gray28_traj.npz")
    np.savez(tmp_path / "reference.npz", xs=recorded["uniform20_eta0_xs"] * 1.001)
    with pytest.raises(ImportProblem, match=r"\d+ of 20 comparisons are off, first ddim, step 1 of 20"):
        run(tmp_path, "ddim", "--reference", str(tmp_path / "reference.npz"), "--eta", "0.5")
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / ".bundle.partial").exists()
