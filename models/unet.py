"""The U-Net that the families share, small enough to serve on a CPU."""

from diffusers import UNet2DModel
from torch import nn

FOLD = 2  # a block of FOLD × FOLD pixels becomes channels: convolutions have a quarter of the positions
TIMESTEPS = 1000  # the range of times of the sinusoidal embedding


def small_unet(*, size: int, inputs: int, outputs: int, channels: list[int], **conditioning: object) -> nn.Module:
    """A U-Net (n, inputs, size, size) → (n, outputs, size, size): a block a level, attention at the lowest.

    Time and `conditioning` (the class, in diffusers' terms) scale and shift the group norms.
    """
    levels = len(channels)
    unet: nn.Module = UNet2DModel(  # type: ignore[assignment]  # its mixins hide that it is a Module
        sample_size=size,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=channels,
        down_block_types=["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * (levels - 1),
        layers_per_block=1,
        attention_head_dim=32,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        **conditioning,
    )
    return unet
