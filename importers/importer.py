"""Imports a checkpoint of any format: recognises it, finds its card, and lets the format's own importer read it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from importers import (
    cards,
    ddgan,
    ddim,
    diffusers_folder,
    dit,
    edm,
    latent_diffusion,
    lucidrains,
    openai_checkpoint,
    vdm,
)
from importers.cards import Card
from importers.formats import Format
from importers.imported import Imported
from importers.problems import ImportProblem
from importers.recognise import recognise

LOADERS: Mapping[Format, Callable[[Path, Card], Imported]] = {
    Format.DIFFUSERS: diffusers_folder.load,
    Format.IMPROVED: openai_checkpoint.load,
    Format.GUIDED: openai_checkpoint.load,
    Format.CONSISTENCY: openai_checkpoint.load,
    Format.LUCIDRAINS: lucidrains.load,
    Format.EDM: edm.load,
    Format.DDGAN: ddgan.load,
    Format.DDIM: ddim.load,
    Format.VDM: vdm.load,
    Format.LATENT: latent_diffusion.load,
    Format.DIT: dit.load,
}
NEED_NO_CARD = (Format.DIFFUSERS, Format.EDM)


def load(path: Path, card: Card | None = None) -> Imported:
    """The model in a published file or folder, with what `card`, or the published card for its name, says of it.

    Raises ImportProblem if its format is not known, or a card is missing or of another format.
    """
    if not path.exists():
        raise ImportProblem(f"{path} does not exist")
    formats = recognise(path)
    card = card or cards.published(path.name)
    if card is None and formats[0] in NEED_NO_CARD:
        card = Card(format=formats[0])
    if card is None:
        raise ImportProblem(f"{path.name}: of {' or '.join(formats)}, and there is no card for it: name one by --card")
    if card.format not in formats:
        raise ImportProblem(f"{path.name}: of {' or '.join(formats)}, but its card is for {card.format}")
    return LOADERS[card.format](path, card)
