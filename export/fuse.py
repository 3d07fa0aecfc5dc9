"""Graph fusion before the export: the same function of the same weights, in fewer nodes.

Each node costs a CPU some microseconds, whatever it computes: a large share of a small network's step for one image.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, instance_norm, linear, silu


def fuse(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, in which the blocks below replace those of diffusers and torch that they match."""
    network = copy.deepcopy(network).eval()
    for unet in [module for module in network.modules() if isinstance(module, UNet2DModel)]:
        blocks = {name: module for name, module in unet.named_modules() if is_modulated(module)}
        if blocks:
            modulations = Modulations([*blocks.values()])
            for index, (name, block) in enumerate(blocks.items()):
                unet.set_submodule(name, Residual(block, modulations, index))
    replacements = (
        (is_self_attention, SelfAttention),
        (is_nearest_upsample, upsample_as_transposed_conv),
        (is_group_norm, GroupNorm),
    )
    for matches, replacement in replacements:
        for name, module in [*network.named_modules()]:
            if matches(module):
                network.set_submodule(name, replacement(module))
    return network


def is_modulated(module: Any) -> bool:
    """Whether it is a residual block at one resolution whose second norm is scaled and shifted by the time."""
    return (
        isinstance(module, ResnetBlock2D)
        and module.time_embedding_norm == "scale_shift"
        and not module.skip_time_act
        and isinstance(module.nonlinearity, nn.SiLU)
        and module.upsample is None
        and module.downsample is None
        and module.output_scale_factor == 1
    )


def is_self_attention(module: Any) -> bool:
    """Whether it is self-attention with a residual connection, without norms of queries and keys."""
    return (
        isinstance(module, Attention)
        and module.residual_connection
        and module.rescale_output_factor == 1
        and module.spatial_norm is None
        and module.norm_q is None
        and module.to_q.bias is not None
    )


def is_nearest_upsample(module: Any) -> bool:
    """Whether it doubles height and width by nearest-neighbour interpolation, and then applies a 3×3 convolution."""
    return (
        isinstance(module, Upsample2D)
        and module.interpolate
        and module.norm is None
        and module.name == "conv"
        and isinstance(module.conv, nn.Conv2d)
        and (module.conv.kernel_size, module.conv.padding) == ((3, 3), (1, 1))
    )


def is_group_norm(module: Any) -> bool:
    return isinstance(module, nn.GroupNorm)


def upsample_as_transposed_conv(upsample: Any) -> nn.ConvTranspose2d:
    """An upsample that `is_nearest_upsample` as one transposed convolution, with 4/9 of the products.

    Nearest-neighbour interpolation repeats each pixel 2×2 times, so the weights of the repeated pixels can be summed.
    """
    conv = upsample.conv
    result = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1)
    summed = avg_pool2d(conv.weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
    result.weight, result.bias = nn.Parameter(summed.transpose(0, 1)), conv.bias
    return result


class Modulations(nn.Module):
    """γ·(1 + scale) and β·(1 + scale) + shift of every block, (n, C, 1, 1) each, by one matrix product.

    Every block computes all of them and uses its own. The exporter merges equal nodes, so the graph has one product.
    """

    def __init__(self, blocks: Sequence[ResnetBlock2D]) -> None:
        super().__init__()
        weights, biases = [], []
        for block in blocks:
            gamma, beta = block.norm2.weight, block.norm2.bias
            (scale, shift), (scale_0, shift_0) = block.time_emb_proj.weight.chunk(2), block.time_emb_proj.bias.chunk(2)
            weights += [gamma[:, None] * scale, beta[:, None] * scale + shift]
            biases += [gamma * (1 + scale_0), beta * (1 + scale_0) + shift_0]
        self.channels = [len(bias) for bias in biases]
        self.weight, self.bias = nn.Parameter(torch.cat(weights)), nn.Parameter(torch.cat(biases))

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        return linear(silu(embedding), self.weight, self.bias)[:, :, None, None].split(self.channels, dim=1)


class GroupNorm(nn.Module):
    """torch's GroupNorm, with γ and β applied in one node."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.zeros, self.ones = torch.zeros(norm.num_channels), torch.ones(norm.num_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = normalised(x, self.norm.num_groups, self.norm.eps)
        return batch_norm(x, self.zeros, self.ones, self.norm.weight, self.norm.bias, eps=0.0)


def normalised(x: Tensor, groups: int, eps: float) -> Tensor:
    """(x − mean)/deviation of x (n, C, ...) by group of channels, without γ and β."""
    return instance_norm(x.reshape(x.shape[0], groups, -1), eps=eps).reshape(x.shape)


class Residual(nn.Module):
    """A ResnetBlock2D that `is_modulated`: the block `index` of `modulations`."""

    def __init__(self, block: ResnetBlock2D, modulations: Modulations, index: int) -> None:
        super().__init__()
        self.norm, self.first, self.second = block.norm1, block.conv1, block.conv2
        self.shortcut = block.conv_shortcut or nn.Identity()
        self.groups, self.eps = block.norm2.num_groups, block.norm2.eps
        self.modulations, self.index = modulations, index

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (n, C, H, W), embedding of time and class (n, width)."""
        scale, shift = self.modulations(embedding)[2 * self.index :][:2]
        hidden = self.first(silu(self.norm(x)))
        hidden = self.second(silu(normalised(hidden, self.groups, self.eps) * scale + shift))
        result: Tensor = self.shortcut(x) + hidden
        return result


class SelfAttention(nn.Module):
    """An Attention that `is_self_attention`. Its linear maps become 1×1 convolutions, so nothing is transposed."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.heads
        self.norm = attention.group_norm or nn.Identity()
        projections = [attention.to_q, attention.to_k, attention.to_v]
        factors = [attention.scale, 1.0, 1.0]
        self.inwards = pointwise_conv(
            torch.cat([projection.weight * factor for projection, factor in zip(projections, factors, strict=True)]),
            torch.cat([projection.bias * factor for projection, factor in zip(projections, factors, strict=True)]),
        )
        self.outwards = pointwise_conv(attention.to_out[0].weight, attention.to_out[0].bias)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x (n, C, H, W); `temb` is ignored, its caller passes it to every attention."""
        heads = self.inwards(self.norm(x)).reshape(x.shape[0], 3 * self.heads, -1, x.shape[2] * x.shape[3])
        query, key, value = heads.split(self.heads, dim=1)  # (n, heads, channels of one, positions)
        weights = (query.transpose(2, 3) @ key).softmax(dim=-1)
        mixed = (value @ weights.transpose(2, 3)).reshape(x.shape)
        result: Tensor = x + self.outwards(mixed)
        return result


def pointwise_conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The linear map of weight (outputs, inputs) and bias (outputs,) as a 1×1 convolution."""
    outputs, inputs = weight.shape
    result = nn.Conv2d(inputs, outputs, 1)
    result.weight, result.bias = nn.Parameter(weight[:, :, None, None]), nn.Parameter(bias)
    return result
