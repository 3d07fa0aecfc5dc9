"""The configuration of latent diffusion, section by section, by the original's names and with its defaults.

What only training reads is there to be accepted; it is `Any` then.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from importers import cards
from importers.networks import autoencoder

Count = Annotated[int, Field(ge=1, le=100_000)]


class UNetParams(cards.Settings):
    """Of `UNetModel`. `attention_resolutions` are factors by which sides are smaller."""

    in_channels: Count
    out_channels: Count
    model_channels: Count
    num_res_blocks: Annotated[int, Field(ge=1, le=100)]
    attention_resolutions: tuple[int, ...]
    channel_mult: Annotated[tuple[Count, ...], Field(min_length=1, max_length=12)] = (1, 2, 4, 8)
    conv_resample: bool = True
    num_heads: int = -1
    num_head_channels: int = -1  # −1: as num_heads has it
    num_heads_upsample: int = -1  # −1: num_heads
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    use_spatial_transformer: bool = False
    transformer_depth: Annotated[int, Field(ge=1, le=100)] = 1
    context_dim: Count | None = None
    legacy: bool = True
    num_classes: None = None  # labels that are added to the time's embedding, which no published model has
    n_embed: None = None  # a network that predicts codes
    dims: Literal[2] = 2
    image_size: Any = None
    dropout: Any = None
    use_checkpoint: Any = None
    use_fp16: Any = None


class UNetConfig(cards.Settings):
    target: Literal["ldm.modules.diffusionmodules.openaimodel.UNetModel"]
    params: UNetParams


class DecoderConfig(autoencoder.Settings, cards.Settings):
    """`ddconfig`: the decoder's, and the encoder's."""

    in_channels: Any = None
    double_z: Any = None
    dropout: Any = None


class FirstStageParams(cards.Settings):
    """Of an autoencoder; `n_embed` is the number of codes of a VQ one."""

    embed_dim: Count
    n_embed: Count | None = None
    ddconfig: DecoderConfig
    lossconfig: Any = None
    monitor: Any = None
    ckpt_path: Any = None
    ignore_keys: Any = None
    image_key: Any = None
    colorize_nlabels: Any = None
    batch_resize_range: Any = None
    scheduler_config: Any = None
    lr_g_factor: Any = None
    remap: Any = None
    sane_index_shape: Any = None
    use_ema: Any = None


class FirstStageConfig(cards.Settings):
    """`VQModelInterface` quantises what it decodes; `VQModel` is for latents that are codes already."""

    target: Literal[
        "ldm.models.autoencoder.VQModelInterface",
        "ldm.models.autoencoder.VQModel",
        "ldm.models.autoencoder.AutoencoderKL",
    ]
    params: FirstStageParams


class ClassEmbedderParams(cards.Settings):
    embed_dim: Count
    n_classes: Count = 1000
    key: Any = None


class ClassEmbedderConfig(cards.Settings):
    target: Literal["ldm.modules.encoders.modules.ClassEmbedder"]
    params: ClassEmbedderParams


class Flags(cards.Settings):
    """`model.params`, and which label means "no class"."""

    unet_config: UNetConfig
    first_stage_config: FirstStageConfig
    cond_stage_config: ClassEmbedderConfig | Literal["__is_unconditional__"] = "__is_unconditional__"
    conditioning_key: Literal["crossattn"] | None = None
    null_label: int | None = Field(None, ge=0)  # the last one, if the network knows "no class"
    image_size: Count
    channels: Count = 3
    timesteps: Count = 1000
    parameterization: Literal["eps", "x0"] = "eps"
    scale_factor: float | None = None
    scale_by_std: bool = False  # the factor is in the file
    use_ema: bool | None = None  # None: if there are EMA weights
    # The schedule is in the file, as the network was trained with it.
    beta_schedule: Any = None
    linear_start: Any = None
    linear_end: Any = None
    cosine_s: Any = None
    given_betas: Any = None
    v_posterior: Any = None
    base_learning_rate: Any = None
    num_timesteps_cond: Any = None
    log_every_t: Any = None
    first_stage_key: Any = None
    cond_stage_key: Any = None
    cond_stage_trainable: Any = None
    concat_mode: Any = None
    monitor: Any = None
    loss_type: Any = None
    scheduler_config: Any = None
    clip_denoised: Any = None  # latents never are
    original_elbo_weight: Any = None
    l_simple_weight: Any = None
    learn_logvar: Any = None
    logvar_init: Any = None
    ckpt_path: Any = None
    ignore_keys: Any = None
    load_only_unet: Any = None
