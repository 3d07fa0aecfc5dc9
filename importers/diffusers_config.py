"""Reads the configurations in a diffusers folder, also those of its first versions, and checks them."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from importers.problems import ImportProblem

Config = dict[str, Any]

MAX_BYTES = 10_000_000  # of a configuration: one with every class's name has 50 kB
MAX_NUMBER = 100_000
MAX_BLOCKS = 32

# What diffusers called things, mostly before version 0.1 (its scripts/change_naming_configs_and_checkpoints.py).
OLD_CLASSES = {
    "UNetModel": "UNet2DModel",
    "UNetUnconditionalModel": "UNet2DModel",
    "GaussianDDPMScheduler": "DDPMScheduler",
    "DDPMParallelScheduler": "DDPMScheduler",  # today's, and the same but for whole trajectories at once
    "DDIMParallelScheduler": "DDIMScheduler",
    "Transformer2DModel": "DiTTransformer2DModel",
}
OLD_KEYS = {
    "image_size": "sample_size",
    "num_res_blocks": "layers_per_block",
    "block_channels": "block_out_channels",
    "down_blocks": "down_block_types",
    "up_blocks": "up_block_types",
    "downscale_freq_shift": "freq_shift",
    "resnet_num_groups": "norm_num_groups",
    "resnet_act_fn": "act_fn",
    "resnet_eps": "norm_eps",
    "num_head_channels": "attention_head_dim",
}
OLD_SCHEDULER_KEYS = {"timesteps": "num_train_timesteps", "clip_predicted_image": "clip_sample"}
WITHOUT_EFFECT = {"tensor_format", "timestep_values", "force_upcast"}  # on what is computed in float32

OLD_WEIGHTS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"^time_steps\.", "time_proj."),
        (r"^mid\.", "mid_block."),
        (r"^downsample_blocks\.", "down_blocks."),
        (r"^upsample_blocks\.", "up_blocks."),
        (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
        (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
        (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
        (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    ]
]


def read(path: Path) -> Config:
    """The object in a JSON file. Raises ImportProblem, also for numbers beyond any network's."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImportProblem(f"{path.name}: larger than any configuration")
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ImportProblem(f"{path.name}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise ImportProblem(f"{path.name}: no JSON object")
    for key, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        if key.endswith("_types") and len(numbers) > MAX_BLOCKS:
            raise ImportProblem(f"{path.name}: {key} has {len(numbers)} entries")
        if any(isinstance(number, int | float) and abs(number) > MAX_NUMBER for number in numbers):
            raise ImportProblem(f"{path.name}: {key} is {value}, larger than any network's")
    return config


def class_name(config: Mapping[str, Any]) -> str:
    """The configuration's class, by today's name."""
    name = str(config.get("_class_name", "none"))
    return OLD_CLASSES.get(name, name)


def network_config(config: Config, network: type, source: str) -> Config:
    """Today's arguments of a network's class. Raises ImportProblem for a key that the class does not have.

    A key without a value may be one: older versions wrote what they did not use.
    """
    renamed = {OLD_KEYS.get(key, key): value for key, value in config.items() if not key.startswith("_")}
    for key in ("down_block_types", "up_block_types"):
        if isinstance(renamed.get(key), list):
            renamed[key] = [str(name).replace("UNetRes", "") for name in renamed[key]]
    return only_known(renamed, network, source)


def scheduler_config(config: Config, scheduler: type, source: str) -> Config:
    """The same for a scheduler."""
    renamed = {OLD_SCHEDULER_KEYS.get(key, key): value for key, value in config.items() if not key.startswith("_")}
    return only_known(renamed, scheduler, source)


def only_known(config: Config, target: type, source: str) -> Config:
    """The keys that `target` takes. Raises ImportProblem for another that says something."""
    parameters = inspect.signature(target).parameters
    unknown = [key for key, value in config.items() if key not in parameters and value not in (None, False)]
    surprising = sorted(set(unknown) - WITHOUT_EFFECT)
    if surprising:
        raise ImportProblem(f"{source}: {target.__name__} has no {surprising[0]} = {config[surprising[0]]}")
    return {key: value for key, value in config.items() if key in parameters}


def todays_name(weight: str) -> str:
    """What a weight of an older version is called today."""
    for pattern, replacement in OLD_WEIGHTS:
        weight = pattern.sub(replacement, weight)
    return weight
