"""The fused network against the one that was trained."""

import copy
import warnings
from typing import Any

import onnx
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from export.fuse import GroupNorm, Residual, SelfAttention, fuse
from models.unet import small_unet

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"size": 8, "inputs": 4, "outputs": 2, "channels": [8, 32], "num_class_embeds": 3}
OTHERS: dict[str, dict[str, Any]] = {
    "time is added": {"resnet_time_scale_shift": "default"},
    "blocks resize": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "another activation": {"act_fn": "gelu"},
    "attention has a norm": {"attn_norm_num_groups": 4},
    "no attention": {"add_attention": False},
}


def random(network: nn.Module) -> nn.Module:
    """The network with random parameters: many of them start at 0 or 1, where an error would not show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.eval().requires_grad_(False)


def other(**how: Any) -> UNet2DModel:
    """A U-Net of diffusers with another configuration than ours."""
    default = {"resnet_time_scale_shift": "scale_shift", "down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}
    kinds = {**default, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "num_class_embeds": 3, **how}
    return UNet2DModel(
        sample_size=8, in_channels=4, out_channels=2, block_out_channels=[8, 32], norm_num_groups=8, **kinds
    )


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.0, 250.5, 999.0]), torch.tensor([2, 0, 1])


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def graph(network: nn.Module) -> list[str]:
    """The operators of its exported graph, one for each node."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, inputs(), opset_version=20, dynamo=True, verbose=False)
    assert program is not None
    nodes: list[onnx.NodeProto] = program.model_proto.graph.node
    return [node.op_type for node in nodes]


def test_the_fused_network_computes_the_same_and_leaves_the_original_unchanged() -> None:
    network = random(small_unet(**SMALL))
    before = copy.deepcopy(network.state_dict())
    exported = fuse(network)
    assert count(exported, Residual) == 8
    assert count(exported, SelfAttention) == 4
    torch.testing.assert_close(exported(*inputs()).sample, network(*inputs()).sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("how", OTHERS.values(), ids=OTHERS)
def test_a_block_of_another_configuration_is_not_replaced(how: dict[str, Any]) -> None:
    network = random(other(**how))
    exported = fuse(network)
    assert count(exported, GroupNorm) > 0
    torch.testing.assert_close(exported(*inputs()).sample, network(*inputs()).sample, rtol=1e-4, atol=1e-4)


def test_its_graph_has_fewer_nodes_and_no_resize_before_a_convolution() -> None:
    network = random(small_unet(**SMALL))
    plain, exported = graph(network), graph(fuse(network))
    assert len(exported) < 0.75 * len(plain)
    assert "Resize" in plain
    assert "Resize" not in exported
    assert exported.count("Gemm") == 3  # two of the time embedding, and one for the modulations of all blocks
