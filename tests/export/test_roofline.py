"""Operations and bytes against PyTorch's own counter, and by hand."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from bundle.loading import load
from export.fuse import Modulations, fuse
from export.onnx_bundle import random_inputs
from export.roofline import Gpu, roofline
from export.step_module import DecodeModule, StepModule
from models import checkpoint
from tests.conftest import REPOSITORY

CHECKPOINTS = sorted(path.parent for path in REPOSITORY.glob("checkpoints/*/model.json"))


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_a_steps_operations_are_those_that_pytorch_counts(folder: object) -> None:
    card, network = checkpoint.load(folder)  # type: ignore[arg-type]
    network = fuse(network)
    bundle = load(REPOSITORY / "bundles" / folder.name)  # type: ignore[attr-defined]
    inputs = [torch.from_numpy(array) for array in random_inputs(card, 3, seed=0).values()]
    modules = {"step.onnx": (StepModule(network), inputs), "decode.onnx": (DecodeModule(network), inputs[:1])}
    for name in bundle.graphs:
        module, arguments = modules[name]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*arguments)
        # Each block of a U-Net computes the modulations of all blocks; the graph computes them once.
        shared = [part for part in module.modules() if isinstance(part, Modulations)]
        repeated = sum((len(part.channels) // 2 - 1) * 2 * 3 * part.weight.numel() for part in shared)
        expected = counter.get_total_flops() - repeated
        assert roofline(onnx.load(bundle.folder / name), rows=3).flops == pytest.approx(expected, rel=0.01)


def test_a_products_bytes_chain_and_time_are_what_one_counts_by_hand() -> None:
    weights = [numpy_helper.from_array(np.zeros((8, 8), np.float16), name) for name in ("first", "second")]
    nodes = [helper.make_node("MatMul", ["x", "first"], ["a"]), helper.make_node("MatMul", ["a", "second"], ["out"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["rows", 8]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    roof = roofline(model, rows=4)
    assert roof == (2 * 2 * 4 * 8 * 8, 2 * 8 * 8 * 2, 2 * 4 * 8 * 2, 2)
    assert roof.lower_bound_s(Gpu("", flops_per_s=1024, bytes_per_s=1e9)) == 1.0  # bound by its operations
    assert roof.lower_bound_s(Gpu("", flops_per_s=1e9, bytes_per_s=384)) == 1.0  # by its bytes
