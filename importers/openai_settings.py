"""The flags of OpenAI's three repositories, by their own names and with their own defaults."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from importers.cards import Settings

Count = Annotated[int, Field(ge=1, le=100_000)]


def split(value: object) -> object:
    """ "16,8" → [16, 8], as a command line has it; "" → nothing."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part] or None
    return value


class NetworkFlags(Settings):
    """What all three share. The weights show the flags that may be None; one that is set is compared with them."""

    image_size: Annotated[int, Field(ge=4, le=4096)]
    num_channels: Count | None = None
    num_res_blocks: Count | None = None
    channel_mult: Annotated[tuple[float, ...] | None, BeforeValidator(split)] = None
    attention_resolutions: Annotated[tuple[int, ...] | None, BeforeValidator(split)] = None
    class_cond: bool | None = None
    learn_sigma: bool | None = None
    use_scale_shift_norm: bool | None = None
    num_heads: Count = 4
    num_heads_upsample: int = -1  # -1: as num_heads
    dropout: float = 0.0  # in training only, as the next one is
    use_checkpoint: bool = False
    clip_denoised: bool = True


class GaussianFlags(NetworkFlags):
    """Of improved-diffusion."""

    diffusion_steps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    timestep_respacing: str = ""
    use_ddim: bool = False
    sigma_small: bool = False
    predict_xstart: bool = False
    rescale_timesteps: bool = True
    use_kl: bool = False  # in training only, as the next one is
    rescale_learned_sigmas: bool = True


class HeadFlags(Settings):
    """Of the two later repositories."""

    num_head_channels: int = -1  # -1: num_heads heads
    resblock_updown: bool | None = None
    use_new_attention_order: bool = False
    use_fp16: bool = False  # computing is in float32 here


class GuidedFlags(GaussianFlags, HeadFlags):
    """Of guided-diffusion."""

    rescale_timesteps: bool = False


class ConsistencyFlags(NetworkFlags, HeadFlags):
    """Of consistency models."""

    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    training_mode: Literal["edm", "progdist", "consistency_distillation", "consistency_training"] = "edm"
    distillation: bool = False  # the same as a training_mode of consistency
    weight_schedule: str = "karras"  # in training only
    sampler: Literal["heun", "euler", "ancestral", "dpm", "onestep", "multistep"] | None = None
    steps: Count = 40  # of the schedule of σ, in which `ts` counts
    ts: Annotated[tuple[int, ...] | None, BeforeValidator(split)] = None
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
