"""Finds the architecture of OpenAI's U-Net from the names and shapes of its weights."""

import re
from collections.abc import Mapping

from torch import Tensor

from importers.networks.openai_unet import Layout
from importers.weights import size

# Only these show that a stage changes the size: a residual block that does so has the weights of any other.
UPWARD = r"output_blocks\.(\d+)\.(?:\d+\.conv|[12]\.in_layers\.0)\.weight"


def find_layout(state: Mapping[str, Tensor], source: str) -> Layout:
    """The layout that a state dictionary has. Raises ImportProblem if it is of another network."""
    model_channels = size(state, "time_embed.0.weight", 1, source)
    count = 1 + max(indices(state, r"input_blocks\.(\d+)\."), default=0)
    blocks = blocks_a_level(state, count)
    starts = range(1, count, blocks + 1)  # the first stage of each level
    channels = tuple(size(state, f"input_blocks.{start}.0.out_layers.0.weight", 0, source) for start in starts)
    modulation = size(state, "input_blocks.1.0.emb_layers.1.weight", 0, source)
    qkv = state.get("middle_block.1.qkv.weight")
    return Layout(
        in_channels=size(state, "input_blocks.0.0.weight", 1, source),
        out_channels=size(state, "out.2.weight", 0, source),
        model_channels=model_channels,
        channels=channels,
        blocks=blocks,
        attention=tuple(f"input_blocks.{start}.1.qkv.weight" in state for start in starts),
        classes=size(state, "label_emb.weight", 0, source) if "label_emb.weight" in state else 0,
        scale_shift=modulation == 2 * channels[0],
        residual_resampling=f"input_blocks.{blocks + 1}.0.in_layers.0.weight" in state,
        convolved_resampling=f"input_blocks.{blocks + 1}.0.op.weight" in state,
        flat_attention=qkv is not None and qkv.ndim == 3,
    )


def blocks_a_level(state: Mapping[str, Tensor], count: int) -> int:
    """How many residual blocks a level has, where there are `count` stages downward: those before the size changes."""
    gaps = set(range(count)) - indices(state, r"input_blocks\.(\d+)\.")  # means of pixels have no weights
    if gaps:
        return max(min(gaps) - 1, 1)
    return min(indices(state, UPWARD), default=count - 1) or 1


def indices(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    """The numbers that the first group of `pattern` matches at the beginning of names."""
    return {int(match[1]) for name in state if (match := re.match(pattern, name))}
