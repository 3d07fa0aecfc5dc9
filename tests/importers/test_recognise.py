"""What is in a file says its format, whatever it is called; and what is in an unknown one is said."""

import gzip
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from importers import importer
from importers.cards import Card
from importers.formats import Format
from importers.problems import ImportProblem
from importers.recognise import recognise
from tests.importers import parity

FILES = {
    "cm_edm_uncond16.pt": (Format.CONSISTENCY,),
    "ddgan_gray28_netG.pth": (Format.DDGAN,),
    "ddim_gray28_model.ckpt": (Format.DDIM,),
    "diffusers_gray28": (Format.DIFFUSERS,),
    "diffusers_gray28/unet": (Format.DIFFUSERS,),
    "edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl": (Format.EDM,),
    "id_cosine32.pt": (Format.IMPROVED, Format.GUIDED),
    "ldm_vq_model.ckpt": (Format.LATENT,),
    "luci_v_sigmoid16_model-1.pt": (Format.LUCIDRAINS,),
    "vdm_nnet16.flax": (Format.VDM,),
}


@pytest.mark.parametrize("name", FILES)
def test_a_published_checkpoint_is_recognised_by_what_is_in_it(name: str) -> None:
    assert recognise(parity.path(name)) == FILES[name]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_state_dictionary_is_recognised_however_training_wrapped_it(tmp_path: Path, zipped: bool) -> None:
    path, weight = tmp_path / "model", torch.ones(1, 1)
    contents = {
        Format.DDIM: [{"module.temb.dense.0.weight": weight}, {}, 3, 7, {}],
        Format.DDGAN: {"module.all_modules.0.weight": weight},
        Format.DIT: {"model": {}, "ema": {"t_embedder.mlp.0.weight": weight}, "opt": {}},
        Format.LATENT: {"state_dict": {"model.diffusion_model.out.2.weight": weight}},
    }
    for format, content in contents.items():
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert recognise(path) == (format,)


def write_unknown(folder: Path) -> dict[str, str]:
    """Files of no format here; their names, and what is said of each."""
    torch.save({"encoder.weight": torch.ones(1), "decoder.weight": torch.ones(1)}, folder / "other.pt")
    torch.save(torch.ones(1), folder / "tensor.pt")
    np.savez(folder / "arrays.npz", a=np.ones(1))
    np.save(folder / "array.npy", np.ones(1))
    save_file({"a": torch.ones(1)}, folder / "a.safetensors")
    (folder / "data.pkl").write_bytes(pickle.dumps({"when": zipfile.ZipInfo("a")}))
    (folder / "page.pt").write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    (folder / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n")
    (folder / "packed.gz").write_bytes(gzip.compress(b"x"))
    (folder / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "empty.pt").write_bytes(b"")
    return {
        "other.pt": "2 entries: encoder.weight, decoder.weight",
        "tensor.pt": "a Tensor and no state dictionary",
        "arrays.npz": "no data.pkl",
        "array.npy": "NUMPY",
        "a.safetensors": "give the folder that has its config.json",
        "data.pkl": "a pickle of zipfile.ZipInfo",
        "page.pt": "a web page",
        "pointer.bin": "was not downloaded",
        "packed.gz": "unpack it first",
        "keras.h5": "HDF5",
        "empty.pt": "cannot be read",
    }


def test_an_unknown_file_is_refused_by_what_is_in_it(tmp_path: Path) -> None:
    for name, message in write_unknown(tmp_path).items():
        with pytest.raises(ImportProblem, match=message) as problem:
            recognise(tmp_path / name)
        assert name in str(problem.value)
    with pytest.raises(ImportProblem, match=r"a folder with a.safetensors, array.npy"):
        recognise(tmp_path)


def test_a_diffusers_folder_and_a_pickle_of_nvidias_need_no_card() -> None:
    assert importer.load(parity.path("diffusers_gray28")).format == Format.DIFFUSERS
    assert importer.load(parity.path("edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl")).format == Format.EDM


def test_the_others_ask_for_a_card_and_refuse_one_of_another_format() -> None:
    settings = json.loads(parity.path("id_cosine32_config.json").read_text())["args"]
    with pytest.raises(ImportProblem, match="of improved-diffusion or guided-diffusion, and there is no card"):
        importer.load(parity.path("id_cosine32.pt"))
    with pytest.raises(ImportProblem, match="its card is for ddim"):
        importer.load(parity.path("id_cosine32.pt"), Card(format=Format.DDIM))
    model = importer.load(parity.path("id_cosine32.pt"), Card(format=Format.IMPROVED, settings=settings))
    assert model.format == Format.IMPROVED
    with pytest.raises(ImportProblem, match="does not exist"):
        importer.load(Path("/nowhere/model.pt"))


def test_a_published_files_name_brings_its_card(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_uncond_50M_500K.pt"
    path.symlink_to(parity.path("id_cosine32.pt"))
    with pytest.raises(ImportProblem, match="the card says num_channels = 128, the weights say 32"):
        importer.load(path)
