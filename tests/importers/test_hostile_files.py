"""Files that were made to harm, or were cut short: one clear line each, nothing run, nothing left behind."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import torch

from importers import ddgan, ddim, dit, latent_diffusion, lucidrains, openai_checkpoint, vdm
from importers.cards import Card
from importers.imported import Imported
from importers.problems import ImportProblem
from tests.importers import parity


class Format(NamedTuple):
    """A format whose checkpoints PyTorch saves: its importer, a good file and that file's settings."""

    load: Callable[[Path, Card], Imported]
    good: str
    settings: dict[str, Any]


def settings_of(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(parity.path(f"{name}_config.json").read_text())
    return settings


FORMATS = {
    "ddgan": Format(ddgan.load, "ddgan_gray28_netG.pth", settings_of("ddgan_gray28")),
    "ddim": Format(ddim.load, "ddim_gray28_model.ckpt", settings_of("ddim_gray28")),
    "latent-diffusion": Format(latent_diffusion.load, "ldm_vq_model.ckpt", settings_of("ldm_vq")),
    "improved-diffusion": Format(openai_checkpoint.load, "id_cosine32.pt", settings_of("id_cosine32")["args"]),
    "consistency-models": Format(openai_checkpoint.load, "cm_edm_uncond16.pt", settings_of("cm_edm_uncond16")["args"]),
    "denoising-diffusion-pytorch": Format(lucidrains.load, "luci_v_sigmoid16_model-1.pt", {"image_size": 16}),
    "dit": Format(dit.load, "ddim_gray28_model.ckpt", {}),  # a good file, but of another network
}


class Writer:
    """What a pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def good(format: Format) -> Any:
    return torch.load(parity.path(format.good), weights_only=True)


def changed(content: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """The checkpoint after a change of its weights."""
    change(content.get("state_dict") or content.get("ema") or content)
    return content


def is_read(name: str) -> bool:
    """Whether an importer reads a weight of that name: training leaves others beside those."""
    return not name.startswith(("model_ema", "online_model"))


def first_large(state: dict[str, Any]) -> str:
    """A weight that every importer reads."""
    return next(name for name in state if state[name].ndim > 1 and is_read(name))


def write_pickle(path: Path, format: Format) -> None:
    torch.save(changed(good(format), lambda state: state.update({"x": Writer(path.with_name("harm"))})), path)


def write_legacy_pickle(path: Path, format: Format) -> None:
    content = changed(good(format), lambda state: state.update({"x": Writer(path.with_name("harm"))}))
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_zip_bomb(path: Path, format: Format) -> None:
    torch.save(good(format), path.with_name("good"))
    with zipfile.ZipFile(path.with_name("good")) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, b"\0" * 2**24 if name.endswith("/data/0") else source.read(name))
    path.with_name("good").unlink()


def write_truncated(path: Path, format: Format) -> None:
    path.write_bytes(parity.path(format.good).read_bytes()[:-100_000])


def write_endless_tensor(path: Path, format: Format) -> None:
    endless = torch.zeros(1).expand(10**12)
    torch.save(changed(good(format), lambda state: state.update({first_large(state): endless})), path)


def write_wrong_dtype(path: Path, format: Format) -> None:
    def change(state: dict[str, Any]) -> None:
        state[first_large(state)] = state[first_large(state)].to(torch.complex64)

    torch.save(changed(good(format), change), path)


FIRST_CONVOLUTIONS = (
    "conv_in.weight", "all_modules.2.weight", "input_blocks.0.0.weight", "init_conv.weight",
    "model_ema.diffusion_modelinput_blocks00weight",
)  # fmt: skip


def write_integers(path: Path, format: Format) -> None:
    def change(state: dict[str, Any]) -> None:
        for name in state:
            if name.endswith(FIRST_CONVOLUTIONS):
                state[name] = state[name].long()

    torch.save(changed(good(format), change), path)


def write_without_a_weight(path: Path, format: Format) -> None:
    torch.save(changed(good(format), lambda state: state.pop(list(state)[-1])), path)


def write_nothing(path: Path, format: Format) -> None:
    path.write_bytes(b"")


def write_text(path: Path, format: Format) -> None:
    path.write_text("<!DOCTYPE html><title>Quota exceeded</title>")


def write_list(path: Path, format: Format) -> None:
    torch.save([1, 2, 3], path)


WRITERS = [
    write_pickle, write_legacy_pickle, write_zip_bomb, write_truncated, write_endless_tensor, write_wrong_dtype,
    write_integers, write_without_a_weight, write_nothing, write_text, write_list,
]  # fmt: skip


def refuse(path: Path, load: Callable[[], Imported]) -> None:
    """Asserts that it is refused in one line that names the file, and leaves the folder as it was."""
    with pytest.raises(ImportProblem) as problem:
        load()
    assert path.name in str(problem.value)
    assert "\n" not in str(problem.value)
    assert len(str(problem.value)) < 400
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", FORMATS)
def test_a_hostile_file_is_refused_in_one_line(
    tmp_path: Path, name: str, write: Callable[[Path, Format], None]
) -> None:
    format, path = FORMATS[name], tmp_path / "model.ckpt"
    write(path, format)
    refuse(path, lambda: format.load(path, Card(format=name, settings=format.settings)))


@pytest.mark.parametrize("name", ["ddgan", "ddim", "improved-diffusion", "consistency-models"])
def test_a_surplus_weight_is_refused(tmp_path: Path, name: str) -> None:
    format, path = FORMATS[name], tmp_path / "model.ckpt"
    torch.save(good(format) | {"extra.weight": torch.zeros(2)}, path)
    refuse(path, lambda: format.load(path, Card(format=name, settings=format.settings)))


def test_a_surplus_weight_of_any_part_of_a_latent_model_is_refused(tmp_path: Path) -> None:
    format, path = FORMATS["latent-diffusion"], tmp_path / "model.ckpt"
    kinds = "model.diffusion_model.x", "model_ema.diffusion_modelx", "first_stage_model.decoder.x", "cond_stage_model.x"
    for name in (*kinds, "extra.weight"):
        content = good(format)
        content["state_dict"][name] = torch.zeros(2)
        torch.save(content, path)
        refuse(path, lambda: format.load(path, Card(format="latent-diffusion", settings=format.settings)))


def extension(shape: Any, dtype: str, data: bytes) -> msgpack.ExtType:
    """An array as flax packs it."""
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def flax_file(**score: Any) -> bytes:
    packed: bytes = msgpack.packb({"ema_params": {"score_model": score}})
    return packed


FLAX = {
    "nothing": b"",
    "a pickle": b"\x80\x04cos\nsystem\n",
    "text": b"<!DOCTYPE html>",
    "a list": msgpack.packb([1, 2, 3]),
    "no parameters": msgpack.packb({"step": 3}),
    "a number for an array": flax_file(conv_in={"kernel": 3}),
    "10^12 elements": flax_file(conv_in={"kernel": extension([10**6, 10**6], "float32", b"\0" * 16)}),
    "elements of no size": flax_file(conv_in={"kernel": extension([0, 10**12], "float32", b"")}),
    "a negative size": flax_file(conv_in={"kernel": extension([-1, -4], "float32", b"\0" * 16)}),
    "a long list": b"\xdd\xff\xff\xff\xff",
    "a long map": b"\xdf\xff\xff\xff\xff",
    "long bytes": b"\xc6\xff\xff\xff\xff",
    "a long extension": b"\xc9\xff\xff\xff\xff\x01",
    "a list in a list, a thousand times": b"\x91" * 2000,
    "objects": flax_file(conv_in={"kernel": extension([2], "object", b"\0" * 16)}),
    "integers": flax_file(conv_in={"kernel": extension([2], "int32", b"\0" * 8)}),
    "another extension": flax_file(conv_in={"kernel": msgpack.ExtType(7, b"\0" * 8)}),
    "other weights": flax_file(conv_in={"kernel": extension([2], "float32", b"\0" * 8)}),
}


@pytest.mark.parametrize("kind", FLAX)
def test_a_hostile_flax_checkpoint_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "checkpoints-0"
    path.write_bytes(FLAX[kind])
    refuse(path, lambda: vdm.load(path, Card(format="vdm", settings=settings_of("vdm_nnet16"))))


def test_a_flax_checkpoint_cut_short_or_with_other_names_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "checkpoints-0", parity.path("vdm_nnet16.flax").read_bytes()
    for data in (whole[:-1000], whole + b"\0", whole.replace(b"dense0", b"dense9"), whole.replace(b"gamma", b"gemma")):
        path.write_bytes(data)
        refuse(path, lambda: vdm.load(path, Card(format="vdm", settings=settings_of("vdm_nnet16"))))
