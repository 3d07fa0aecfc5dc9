"""diffusers' networks behind the one call that a step makes, and decoders behind the one of the end.

diffusers' classes are `Any` here: to mypy they are stand-ins without members.
"""

from typing import Any

import torch
from torch import Tensor, nn


class OptionalEmbedding(nn.Module):
    """y (n,) → a row of `embedding` each; zeros for a label beyond its rows, which means "no class"."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, y: Tensor) -> Tensor:
        rows = self.embedding.num_embeddings
        return torch.where((y < rows)[:, None], self.embedding(y.clamp(max=rows - 1)), 0.0)


class UNetNetwork(nn.Module):
    """A UNet2DModel as network(x, t, y)."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.classes = unet.class_embedding is not None
        self.whole_times = unet.config.time_embedding_type == "learned"  # a table, by timestep
        if isinstance(unet.class_embedding, nn.Embedding):
            unet.class_embedding = OptionalEmbedding(unet.class_embedding)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        times = t.long() if self.whole_times else t
        out: Tensor = self.unet(x, times, class_labels=y if self.classes else None, return_dict=False)[0]
        return out


class TransformerNetwork(nn.Module):
    """A diffusion transformer (Peebles & Xie 2022, arXiv 2212.09748) as network(x, t, y)."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.transformer(x, timestep=t, class_labels=y, return_dict=False)[0]
        return out


class Decoder(nn.Module):
    """The decoder of a VQModel, which quantises first, or of an AutoencoderKL; x is divided by the scaling factor."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.scale = float(autoencoder.config.scaling_factor)

    def decode(self, x: Tensor) -> Tensor:
        """x (n, C, H, W), a latent → its image."""
        image: Tensor = self.autoencoder.decode(x / self.scale, return_dict=False)[0]
        return image
