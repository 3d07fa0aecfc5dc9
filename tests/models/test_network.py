"""DDIM's network: its skip, its "no class", and rows that do not see each other."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.ddim.network import Network
from models.schedules import cosine_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

ABAR = cosine_schedule(1000)
SCHEDULE = {"alphas_cumprod": ABAR.tolist()}
CLASSES, SHAPE = 3, (2, 8, 8)
NO_CLASS = CLASSES
TIMES = torch.tensor([0.0, 250.0, 700.0, 999.0])


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(shape=SHAPE, classes=CLASSES, schedule=SCHEDULE, channels=[8, 32]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(len(TIMES), *SHAPE, generator=torch.Generator().manual_seed(1))


def blocks_to_channels(x: Tensor) -> Tensor:
    """(n, C, H, W) → (n, 4C, H/2, W/2): channel 4c + 2i + j holds channel c of row i and column j of each 2×2 block."""
    return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2)


def test_the_prediction_is_sigma_x_plus_alpha_f(network: Network, x: Tensor) -> None:
    y = torch.tensor([0, 1, 2, NO_CLASS])
    inner = network.unet(blocks_to_channels(x), TIMES, class_labels=y).sample
    abar = torch.from_numpy(ABAR[TIMES.long().numpy()]).view(-1, 1, 1, 1)
    expected = (1 - abar).sqrt() * blocks_to_channels(x) + abar.sqrt() * inner
    torch.testing.assert_close(blocks_to_channels(network(x, TIMES, y)).double(), expected, rtol=1e-5, atol=1e-5)


def test_with_f_at_zero_the_prediction_is_sigma_x_and_x0_is_alpha_x(x: Tensor) -> None:
    network = Network(shape=SHAPE, classes=CLASSES, schedule=SCHEDULE, channels=[8, 32]).eval()
    for parameter in network.unet.get_submodule("conv_out").parameters():
        nn.init.zeros_(parameter)
    abar = torch.from_numpy(ABAR[TIMES.long().numpy()]).float().view(-1, 1, 1, 1)
    predicted = network(x, TIMES, torch.zeros(len(x), dtype=torch.int64))
    torch.testing.assert_close(predicted, (1 - abar).sqrt() * x)
    # So the error of x0 is that of F: 1/α does not multiply it.
    torch.testing.assert_close((x - (1 - abar).sqrt() * predicted) / abar.sqrt(), abar.sqrt() * x, rtol=1e-3, atol=1e-4)


def test_every_class_and_no_class_give_predictions_of_their_own(network: Network, x: Tensor) -> None:
    predictions = [network(x, TIMES, torch.full((len(x),), y)) for y in range(CLASSES + 1)]
    for i, one in enumerate(predictions):
        assert one.isfinite().all()
        for other in predictions[:i]:
            assert (one - other).abs().max() > 1e-4


def test_a_label_past_no_class_is_refused(network: Network, x: Tensor) -> None:
    with pytest.raises(IndexError):
        network(x, TIMES, torch.full((len(x),), NO_CLASS + 1))


def test_the_inner_network_depends_on_the_time(network: Network, x: Tensor) -> None:
    y = torch.zeros(len(x), dtype=torch.int64)
    early, late = (network.unet(blocks_to_channels(x), time, class_labels=y).sample for time in (0, 999))
    assert (early - late).abs().max() > 1e-3


def test_rows_of_a_batch_do_not_see_each_other(network: Network, x: Tensor) -> None:
    y = torch.tensor([2, 0, NO_CLASS, 1])
    together = network(x, TIMES, y)
    for row in range(len(x)):
        alone = network(x[row : row + 1], TIMES[row : row + 1], y[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    reversed_rows = network(x.flip(0), TIMES.flip(0), y.flip(0)).flip(0)
    torch.testing.assert_close(together, reversed_rows, rtol=1e-5, atol=1e-5)


def test_the_schedule_is_no_part_of_the_weights(network: Network) -> None:
    assert {name.partition(".")[0] for name in network.state_dict()} == {"unet"}
    np.testing.assert_allclose(network.alpha.square() + network.sigma.square(), 1, rtol=1e-6)


def test_the_shipped_size_has_at_most_2_million_parameters() -> None:
    network = Network(shape=(1, 32, 32), classes=10, schedule=SCHEDULE, channels=[32, 64, 96])
    assert sum(parameter.numel() for parameter in network.parameters()) <= 2_000_000
