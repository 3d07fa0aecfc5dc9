"""The first stage of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): the way from a latent to an image.

Attributes bear the names of the published weights.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import silu

from importers.networks.ddpm_blocks import Attention, Middle, ResidualBlock, UpLevel, Upsample, group_norm


class Settings(BaseModel):
    """What shapes the decoder, of `ddconfig` in the original's configuration."""

    model_config = ConfigDict(frozen=True)

    z_channels: int = Field(ge=1)
    resolution: int = Field(ge=1)
    out_ch: int = Field(ge=1)
    ch: int = Field(ge=1)
    ch_mult: tuple[int, ...] = Field((1, 2, 4, 8), min_length=1)
    num_res_blocks: int = Field(ge=1)
    attn_resolutions: tuple[int, ...]
    resamp_with_conv: bool = True
    tanh_out: bool = False
    attn_type: Literal["vanilla", "linear", "none"] = "vanilla"
    use_linear_attn: bool = False

    @property
    def attention(self) -> type[nn.Module]:
        """The layer for so many channels."""
        kinds = {"vanilla": Attention, "linear": LinearAttention, "none": nn.Identity}
        return kinds["linear" if self.use_linear_attn else self.attn_type]


class LinearAttention(nn.Module):
    """Attention of one head whose softmax is over the keys alone (Shen et al. 2021, arXiv 1812.01243)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.to_qkv(x).flatten(2).chunk(3, dim=1)
        context = key.softmax(dim=2) @ value.transpose(1, 2)
        result: Tensor = self.to_out((context.transpose(1, 2) @ query).unflatten(2, x.shape[2:]))
        return result


class Decoder(nn.Module):
    """Images (n, out_ch, H, W) from (n, z_channels, H/f, W/f)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.ch * multiple for multiple in settings.ch_mult]
        self.conv_in = nn.Conv2d(settings.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], 0, settings.attention(widths[-1]))
        self.up = nn.ModuleList(self._level(level, widths) for level in range(len(widths)))
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], settings.out_ch, 3, padding=1)

    def _level(self, level: int, widths: list[int]) -> UpLevel:
        settings = self.settings
        inputs, outputs = widths[min(level + 1, len(widths) - 1)], widths[level]
        blocks = [ResidualBlock(inputs if i == 0 else outputs, outputs, 0) for i in range(settings.num_res_blocks + 1)]
        smallest = settings.resolution // 2 ** (len(widths) - 1)
        attends = smallest * 2 ** (len(widths) - 1 - level) in settings.attn_resolutions
        attention = [settings.attention(outputs) for _ in blocks] if attends else []
        return UpLevel(blocks, attention, Upsample(outputs, convolves=settings.resamp_with_conv) if level else None)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.mid(self.conv_in(z), None)
        for level in reversed(self.up):
            hidden = level(hidden)
        image: Tensor = self.conv_out(silu(self.norm_out(hidden)))
        return image.tanh() if self.settings.tanh_out else image


class Codes(nn.Module):
    """The code vectors of a VQ autoencoder."""

    def __init__(self, codes: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, depth)

    def forward(self, z: Tensor) -> Tensor:
        """The code nearest to each position of z (n, depth, H, W) in its place."""
        codes = self.embedding.weight
        pixels = z.permute(0, 2, 3, 1)
        distances = pixels.square().sum(dim=3, keepdim=True) + codes.square().sum(dim=1) - 2 * pixels @ codes.T
        nearest: Tensor = self.embedding(distances.argmin(dim=3))
        return nearest.permute(0, 3, 1, 2)


class FirstStage(nn.Module):
    """Latents (n, depth, H/f, W/f), `scale` times what the encoder gives, → images in [−1, 1].

    With `codes` it is a VQ autoencoder's, which quantises them first.
    """

    def __init__(self, settings: Settings, depth: int, codes: int | None, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.quantize = Codes(codes, depth) if codes else None
        self.post_quant_conv = nn.Conv2d(depth, settings.z_channels, 1)
        self.decoder = Decoder(settings)

    def decode(self, z: Tensor) -> Tensor:
        z = 1 / self.scale * z
        if self.quantize is not None:
            z = self.quantize(z)
        result: Tensor = self.decoder(self.post_quant_conv(z))
        return result
