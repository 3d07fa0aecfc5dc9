"""The options of `./run train --family ddim --data FOLDER --output CHECKPOINT`: --help needs no PyTorch."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models import command_line

NAME = r"[a-z0-9][a-z0-9_.-]*"  # as a bundle's manifest has it
RESERVED = "auto"  # as `method`, it leaves the choice to the service


class Settings(BaseSettings):
    """Train a model on a folder of idx files, a folder of images or a zip of one.

    Stopped by Ctrl-C, SIGTERM or SIGHUP it saves; the same command goes on from there.
    """

    model_config = SettingsConfigDict(env_prefix="TRILEMMA_TRAIN_", cli_kebab_case=True, cli_prog_name="./run train")

    family: str = Field("ddim", description="the folder under models/ to train")
    data: Path = Field(
        description="the data set: idx files, or train/CLASS/NAME.png of any kind that Pillow reads, or a zip of that"
    )
    output: Path = Field(description="the checkpoint's folder; training goes on from what is there")
    start: Path | None = Field(None, description="a checkpoint to begin from: its weights, where name and shape match")
    name: str = Field("", description="what callers will ask for as `method`; default: the family's name")
    images: PositiveInt = Field(720_000, description="how many images to train on, counted with repeats")
    batch_size: PositiveInt = 64
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1e-3, description="at its peak; it warms up and falls to 0 as a cosine"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the products; bfloat16 takes 0.7 times as long where the processor has it"
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="cuda: a GPU, where a repeated run differs in its last bits"
    )
    label_dropout: float = Field(0.1, ge=0, le=1, description='how often a label is replaced by "no class"')
    flips: bool = Field(False, description="mirror half of the images of each batch, left to right")
    size: PositiveInt | None = Field(
        None,
        description="height and width of the model's images, which smaller ones are padded to; default: the smallest "
        "that the images fit in and the network takes",
    )
    network: dict[str, Any] = Field({}, description="the network's settings, as JSON, over the family's defaults")
    objective: dict[str, Any] = Field({}, description="the loss's settings, as JSON, over the family's defaults")
    recommended_steps: PositiveInt | None = Field(
        None, description="the default `steps` of a request; default: the family's"
    )
    seed: int = Field(0, ge=0, lt=2**63)
    save_every: PositiveInt = Field(500, description="batches between two checkpoints")

    @field_validator("name")
    @classmethod
    def _can_be_requested(cls, name: str) -> str:
        if name == RESERVED or not re.fullmatch(f"({NAME})?", name):
            raise ValueError(f"a name has lower-case letters, digits and _ . - only, and is not {RESERVED!r}")
        return name

    def cli_cmd(self) -> None:
        from models.training_loop import Training  # here, as it takes PyTorch

        Training(self).run()


if __name__ == "__main__":
    command_line.run(Settings)
