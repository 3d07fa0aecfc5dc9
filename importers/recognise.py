"""Finds the format of a published checkpoint, by what is in it and never by its name."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from importers.edm_pickle import PERSISTENT
from importers.formats import Format
from importers.pickles import inert_class, unpickle
from importers.problems import ImportProblem
from importers.reading import LEGACY_HEAD, is_pickle, open_file, read_torch
from importers.weights import sample

# A weight that networks of one format have, and the format.
SIGNATURES = {
    "all_modules.0.weight": Format.DDGAN,
    "netG_dict": Format.DDGAN,
    "temb.dense.0.weight": Format.DDIM,
    "t_embedder.mlp.0.weight": Format.DIT,
}
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not downloaded",
    b"<": "a web page, not a file of weights",
    b"\x89HDF": "an HDF5 file: Keras and TensorFlow models are not read",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
}


def recognise(path: Path) -> tuple[Format, ...]:
    """The formats that a file or a folder may be of: two where the weights do not tell them apart.

    Raises ImportProblem, which says what was seen, if there is none.
    """
    if path.is_dir():
        return recognise_folder(path)
    with open_file(path) as file:
        head = file.read(64)
        file.seek(0)
        for beginning, kind in BEGINNINGS.items():
            if head.startswith(beginning):
                raise ImportProblem(f"{path.name}: {kind}")
        if head[8:9] == b"{":
            raise ImportProblem(f"{path.name}: safetensors alone: give the folder that has its config.json too")
        if zipfile.is_zipfile(path) or head.startswith(LEGACY_HEAD):
            return recognise_content(read_torch(path), path.name)
        if is_pickle(file):
            return recognise_pickle(file, path.name)
    if head[:1] and 0x80 < head[0] <= 0x8F:  # a small map in msgpack
        return (Format.VDM,)
    raise ImportProblem(f"{path.name}: it begins with {head[:16]!r}, as no format here does")


def recognise_folder(folder: Path) -> tuple[Format, ...]:
    """diffusers' is the only format of folders."""
    marks = ("model_index.json", "config.json", "unet/config.json", "transformer/config.json")
    if any((folder / mark).is_file() for mark in marks):
        return (Format.DIFFUSERS,)
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    raise ImportProblem(f"{folder.name}: a folder with {shown or 'nothing'}, but without diffusers' model_index.json")


def recognise_pickle(file: IO[bytes], source: str) -> tuple[Format, ...]:
    """A pickle that is not PyTorch's: of EDM, if it has NVIDIA's persistent objects."""
    names: set[str] = set()

    def note(name: str) -> Any:
        names.add(name)
        return inert_class(name)

    unpickle(file, source, note)
    if PERSISTENT in names:
        return (Format.EDM,)
    raise ImportProblem(
        f"{source}: a pickle of {', '.join(sorted(names)[:6]) or 'plain data'}, which is no format here"
    )


def recognise_content(content: Any, source: str) -> tuple[Format, ...]:
    """What PyTorch saved: a state dictionary, or one in what training keeps."""
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        return recognise_state(content[0], source)  # DDIM's [weights, optimizer, epoch, step, EMA weights]
    if not isinstance(content, Mapping):
        raise ImportProblem(f"{source}: PyTorch's, but a {type(content).__name__} and no state dictionary")
    ema, inner = content.get("ema"), content.get("state_dict")
    if isinstance(ema, Mapping) and any(str(name).endswith("betas") for name in ema):
        return (Format.LUCIDRAINS,)
    for state in (inner, ema, content):
        if isinstance(state, Mapping):
            return recognise_state(state, source)
    return recognise_state(content, source)


def recognise_state(state: Mapping[Any, Any], source: str) -> tuple[Format, ...]:
    """A state dictionary."""
    names = {str(name).removeprefix("module.") for name in state}
    for name, format in SIGNATURES.items():
        if name in names:
            return (format,)
    if any(name.startswith("model.diffusion_model.") for name in names):
        return (Format.LATENT,)
    if "time_embed.0.weight" in names:
        qkv = state.get("middle_block.1.qkv.weight")
        flat = not isinstance(qkv, Tensor) or qkv.ndim == 3
        return (Format.IMPROVED, Format.GUIDED) if flat else (Format.CONSISTENCY,)
    raise ImportProblem(f"{source}: PyTorch's, with {sample(state)}, which is no format here")
