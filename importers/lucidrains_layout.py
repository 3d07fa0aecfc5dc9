"""Finds the architecture of denoising-diffusion-pytorch's U-Net from its weights and the library's version."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from importers.networks.lucidrains_attention import AttentionLayout
from importers.networks.lucidrains_blocks import Era
from importers.networks.lucidrains_unet import Layout
from importers.problems import ImportProblem
from importers.weights import size

Version = tuple[int, ...]

OLDEST: Version = (0, 28)  # before it attention was another


def find_layout(
    state: Mapping[str, Tensor], version: Version | None, heads: int, groups: int, theta: float, source: str
) -> Layout:
    """The layout that a U-Net's weights have. Raises ImportProblem if it is another network, or its version matters.

    `heads`, `groups` and `theta` are not in the weights: of attention (in versions before 1.9), of GroupNorm (before
    2.0), and of the embedding of time.
    """
    levels = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("downs.")), default=-1)
    nested = "mid_attn.fn.fn.to_qkv.weight" in state
    learned = "time_mlp.0.weights" in state
    last = size(state, f"downs.{levels - 1}.3.weight", 0, source)
    attention = tuple(attention_at(state, f"downs.{level}.2", heads, source) for level in range(levels))
    return Layout(
        in_channels=size(state, "init_conv.weight", 1, source),
        out_channels=size(state, "final_conv.weight", 0, source),
        embedding=size(state, "time_mlp.3.weight", 0, source),
        time_width=size(state, "time_mlp.1.weight", 1, source),
        learned_times=learned,
        widths=(*(size(state, f"downs.{level}.0.block1.proj.weight", 1, source) for level in range(levels)), last),
        attention=attention,
        mid_attention=attention_at(state, "mid_attn", heads, source),
        groups=None if "mid_block1.block1.norm.g" in state else groups,
        unshuffled="downs.0.3.1.weight" in state,
        era=era_of(version, source) if nested else Era(),
        theta=theta,
    )


def attention_at(state: Mapping[str, Tensor], name: str, heads: int, source: str) -> AttentionLayout:
    """The attention layer of that name."""
    nested = f"{name}.fn.fn.to_qkv.weight" in state
    inner = f"{name}.fn.fn" if nested else name
    hidden = size(state, f"{inner}.to_qkv.weight", 0, source) // 3
    linear = f"{inner}.to_out.0.weight" in state
    if f"{inner}.mem_kv" not in state:
        return AttentionLayout(linear, heads, hidden // heads, None, nested)
    memory = f"{inner}.mem_kv"
    heads, first, second = (size(state, memory, axis, source) for axis in (1, 2, 3))
    width, kept = (first, second) if linear else (second, first)
    return AttentionLayout(linear, heads, width, kept, nested)


def era_of(version: Version | None, source: str) -> Era:
    """What a version before 1.8 computes, which its weights do not show."""
    if version is None:
        raise ImportProblem(f"{source}: of a version before 1.8, but not which; a card can have it in its settings")
    if version < OLDEST:
        raise ImportProblem(f"{source}: of version {'.'.join(map(str, version))}, older than 0.28")
    standardize: Literal["added", "least", "no"] = "added"
    if version >= (1, 7, 1):
        standardize = "least" if version < (1, 7, 2) else "no"
    return Era("layer" if version < (1, 7) else "rms", standardize, spread_values=version < (1, 7, 4))
