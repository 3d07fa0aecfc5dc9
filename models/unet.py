"""The U-Net that the families share, small enough to serve on a CPU."""

from diffusers import UNet2DModel
from torch import nn

FOLD = 2  # a block of FOLD × FOLD pixels becomes channels: convolutions have a quarter of the positions
TIMESTEPS = 1000  # the range of times of the sinusoidal embedding


def small_unet(
    *, size: int, inputs: int, outputs: int, channels: list[int], fold: int = 1, **conditioning: object
) -> nn.Module:
    """A U-Net for images of size × size: a block a level, attention at the lowest.

    It takes (n, inputs, size/fold, size/fold) and gives (n, outputs, …): `fold` is what the caller folds the images by.
    Time and `conditioning` (the class, in diffusers' terms) scale and shift the group norms. Raises ValueError, naming
    the sizes that go, for one that cannot be halved from level to level.
    """
    levels = len(channels)
    check_size(size, fold * 2 ** (levels - 1))
    unet: nn.Module = UNet2DModel(  # type: ignore[assignment]  # its mixins hide that it is a Module
        sample_size=size // fold,
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


def check_size(size: int, multiple: int) -> None:
    """Raises ValueError, naming the next sizes that go, unless `size` is a multiple of `multiple`."""
    if size % multiple:
        below, above = size // multiple * multiple, (size // multiple + 1) * multiple
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"its images cannot be {size}×{size}: the sides are multiples of {multiple}, as {near}")
