"""The denoising diffusion GAN: its large steps, their posterior, and the losses of both players."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Generator, Tensor, nn
from torch.nn.functional import group_norm, pixel_unshuffle

from models import checkpoint
from models.ddgan.loss import R1_WEIGHT, SCHEDULE, Diffusion, Objective, generator_loss, r1_penalty
from models.ddgan.measures import evaluate
from models.ddgan.network import GAIN, Discriminator, Network
from models.ddgan.plan import large_steps, max_steps, posterior_plan
from models.ddim import loss as ddim
from models.schedules import cosine_schedule
from models.solvers import ddim as ddim_step
from models.step import update
from models.unet import FOLD

ABAR = large_steps(4)
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 16, 16)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network(shape=SHAPE, classes=3, schedule=SCHEDULE, channels=[8, 32], latent=5)


def test_each_step_equals_that_of_diffusers() -> None:
    betas = 1 - ABAR / np.append(1.0, ABAR[:-1])
    scheduler = DDPMScheduler(
        num_train_timesteps=4, trained_betas=betas, prediction_type="sample", variance_type="fixed_small"
    )
    scheduler.set_timesteps(4)
    for k, t in zip(posterior_plan(SCHEDULE, 4), scheduler.timesteps.tolist(), strict=True):
        assert k.t == t
        x, out = torch.randn((2, 2, 1, 4, 4), generator=Generator().manual_seed(t))
        expected = scheduler.step(out, t, x, generator=Generator().manual_seed(9))
        noise = torch.randn(x.shape, generator=Generator().manual_seed(9)) if t else torch.zeros_like(x)
        x_new, x0 = update(k, x, out, torch.zeros_like(x), noise)
        torch.testing.assert_close(x0, expected.pred_original_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x_new, expected.prev_sample, rtol=1e-4, atol=1e-5)


def test_fewer_steps_jump_over_timesteps_and_more_are_refused() -> None:
    assert max_steps(SCHEDULE) == 4
    assert [[k.t for k in posterior_plan(SCHEDULE, steps)] for steps in (1, 2, 4)] == [[3], [3, 1], [3, 2, 1, 0]]
    assert all(posterior_plan(SCHEDULE, steps)[-1].x_from_x0 == 1 for steps in (1, 2, 3, 4))
    with pytest.raises(ValueError, match="5 steps"):
        posterior_plan(SCHEDULE, 5)


def test_a_real_pair_has_the_marginals_of_the_diffusion() -> None:
    x = torch.full((200_000, 1, 1, 1), 0.7)
    pair = Diffusion(ABAR, CPU).real(x, torch.zeros(len(x), dtype=torch.int64), Generator().manual_seed(0))
    for t in range(4):
        rows = pair.t == t
        before = ABAR[t - 1] if t else 1.0
        for values, abar in ((pair.x_t[rows], ABAR[t]), (pair.x_s[rows], before)):
            assert values.mean().item() == pytest.approx(0.7 * abar**0.5, abs=0.02)
            assert values.var().item() == pytest.approx(1 - abar, abs=0.02)


def test_a_pair_that_is_noised_further_has_the_marginals_of_its_angle() -> None:
    x = torch.full((400_000, 1, 1, 1), 0.7)
    diffusion = Diffusion(ABAR, CPU)
    pair = diffusion.real(x, torch.zeros(len(x), dtype=torch.int64), Generator().manual_seed(0))
    share = (torch.arange(len(x)) % 3) / 2  # none of the way, half of it, all
    noise = torch.randn(x.shape, generator=Generator().manual_seed(1))
    noised, angle = diffusion.renoised(pair, share, noise)
    edges = np.arccos(np.sqrt([1.0, *ABAR]))
    for t in range(4):
        for part in (0, 0.5, 1):
            rows = (pair.t == t) & (share == part)
            expected = edges[t] + part * (edges[t + 1] - edges[t])
            torch.testing.assert_close(angle[rows], torch.full_like(angle[rows], expected), rtol=0, atol=1e-3)
            assert noised[rows].mean().item() == pytest.approx(0.7 * np.cos(expected), abs=0.03)
            assert noised[rows].var().item() == pytest.approx(np.sin(expected) ** 2, abs=0.03)


class Oracle(nn.Module):
    """A generator that knows the image."""

    z_dim = 1

    def forward(self, x: Tensor, _: Tensor, __: Tensor, ___: Tensor) -> Tensor:
        return torch.full_like(x, 0.7)


def test_a_perfect_generators_pairs_are_distributed_as_the_real_ones() -> None:
    x = torch.full((200_000, 1, 1, 1), 0.7)
    diffusion, generator = Diffusion(ABAR, CPU), Generator().manual_seed(1)
    real = diffusion.real(x, torch.zeros(len(x), dtype=torch.int64), generator)
    generated, error = diffusion.generated(Oracle(), real, x, generator)  # type: ignore[arg-type]
    assert error == 0
    for t in range(4):
        rows = real.t == t
        pairs = [torch.stack([p.x_s[rows].flatten(), p.x_t[rows].flatten()]) for p in (real, generated)]
        torch.testing.assert_close(pairs[0].mean(dim=1), pairs[1].mean(dim=1), rtol=0, atol=0.02)
        torch.testing.assert_close(torch.cov(pairs[0]), torch.cov(pairs[1]), rtol=0, atol=0.02)


def test_the_penalty_is_half_gamma_times_the_squared_gradient_for_each_level_of_the_features() -> None:
    """Of logits whose gradients are known: 3 and 5 for every number of a level."""
    levels = [torch.randn(4, 2, 8, 8, requires_grad=True), torch.randn(4, 6, 4, 4, requires_grad=True)]
    logits = torch.stack([3 * levels[0].sum(dim=(1, 2, 3)), 5 * levels[1].sum(dim=(1, 2, 3))], dim=1)
    value = r1_penalty(logits, levels).item()
    assert value == pytest.approx(R1_WEIGHT / 2 * (9 * 128 + 25 * 96) / 2, rel=1e-6)


def test_z_changes_the_image_and_its_scale_does_not(network: Network) -> None:
    x, t, y = torch.randn(1, *SHAPE), torch.tensor([3.0]), torch.tensor([0])
    z, other = torch.randn(2, 1, 5)
    with torch.no_grad():
        assert (network(x, t, y, z) - network(x, t, y, other)).abs().max() > 1e-4
        torch.testing.assert_close(network(x, t, y, z), network(x, t, y, 7 * z), rtol=1e-4, atol=1e-5)


def card_of(family: str, schedule: dict[str, Any], network: dict[str, Any]) -> checkpoint.Card:
    return checkpoint.Card(
        name=family,
        family=family,
        shape=SHAPE,
        classes=["a", "b", "c"],
        noise_schedule=schedule,
        network=network,
        recommended_steps=1,
        training={},
    )


def test_with_a_ddims_weights_and_no_z_the_generator_gives_gain_times_its_x0(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = card_of("ddim", ddim.SCHEDULE, {"channels": [8, 32]})
    denoiser = card.build()
    checkpoint.save(tmp_path, card, denoiser.state_dict())
    network = Network(shape=SHAPE, classes=3, schedule=SCHEDULE, channels=[8, 32], latent=0)
    checkpoint.load_matching(network, tmp_path)
    for t in range(4):
        # Where DDIM's own schedule is nearest to this one's noise.
        timestep = np.abs(cosine_schedule(1000) - ABAR[t]).argmin()
        k = ddim_step(np.array([float(timestep)]), cosine_schedule(1000)[[timestep]], np.ones(1), clip=np.inf)[0]
        x, y = torch.randn(2, *SHAPE), torch.tensor([1, 3])
        with torch.no_grad():
            out = denoiser(x, torch.full((2,), k.t), y)
            expected = update(k, x, out, torch.zeros_like(x), torch.zeros_like(x))[1]
            bounded = (GAIN * expected).clip(-1, 1)
            torch.testing.assert_close(network(x, torch.full((2,), t), y), bounded, rtol=0, atol=0.02)


def test_a_generator_begins_with_all_the_weights_of_another(tmp_path: Path) -> None:
    card = card_of("ddgan", SCHEDULE, {"channels": [8, 32], "latent": 5})
    first, second = card.build(), card.build()
    checkpoint.save(tmp_path, card, first.state_dict())
    checkpoint.load_matching(second, tmp_path)
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], rtol=0, atol=0)


def test_the_discriminator_sees_the_time_and_the_class(network: Network) -> None:
    judge = Discriminator(network)
    x_s, x_t = torch.randn(2, 1, *SHAPE)

    def judged(t: int, label: int) -> tuple[float, ...]:
        y = torch.tensor([label])
        of_s, of_t = (judge.features(x, torch.tensor([angle]), y) for x, angle in ((x_s, t / 4), (x_t, (t + 1) / 4)))
        return tuple(judge(of_s, of_t, y)[0].tolist())

    assert len({judged(t, y) for t, y in ((0, 0), (1, 0), (0, 1), (0, 3))}) == 4
    assert len(judged(0, 0)) == 3  # two levels and the middle


def test_the_encoder_has_the_generators_first_features_and_is_never_trained(network: Network) -> None:
    objective = Objective(network, learning_rate=1e-2, discriminator_batches=1, anchor=0.1)
    x, y = torch.rand(8, *SHAPE) * 2 - 1, torch.zeros(8, dtype=torch.int64)
    angle = torch.full((8,), float(np.arccos(np.sqrt(ABAR[1]))))
    before = objective.discriminator.features(x, angle, y)
    hidden = network.unet.conv_in(pixel_unshuffle(x, FOLD))
    style = network.unet.time_embedding(network.unet.time_proj(network.time[torch.full((8,), 1)])) + network.label(y)
    _, skips = network.unet.down_blocks[0](hidden, style)
    torch.testing.assert_close(before[0], group_norm(skips[0], 1))
    for batch in range(2):
        objective.step(x, y, Generator().manual_seed(batch))
    for a, b in zip(before, objective.discriminator.features(x, angle, y), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_step_trains_each_player_on_its_own_loss(network: Network) -> None:
    objective = Objective(network, learning_rate=1e-4, discriminator_batches=1, anchor=0.1)
    x, y = torch.rand(8, *SHAPE) * 2 - 1, torch.zeros(8, dtype=torch.int64)

    def weights(player: str) -> list[Any]:
        return [p.detach().clone() for p in objective.modules[player].parameters()]

    def trained_by_a_step() -> list[str]:
        before = {player: weights(player) for player in objective.modules}
        objective.step(x, y, Generator().manual_seed(0))
        for optimizer in objective.optimizers.values():
            optimizer.param_groups[0]["lr"] = 1e-4  # as the training loop sets it before each batch
        changed = {p: zip(before[p], weights(p), strict=True) for p in objective.modules}
        return [player for player, pairs in changed.items() if any((a != b).any() for a, b in pairs)]

    assert [trained_by_a_step(), trained_by_a_step()] == [["discriminator"], ["network", "discriminator"]]

    diffusion, generator = objective.diffusion, Generator().manual_seed(5)
    judge, real = objective.discriminator, diffusion.real(x, y, generator)
    of_s, of_t = diffusion.angle[real.t], judge.features(real.x_t, diffusion.angle[real.t + 1], y)
    losses = []
    for _ in range(30):  # the discriminator held still, the generator's own update lowers its loss on fixed draws
        generated, _ = diffusion.generated(network, real, x, Generator().manual_seed(6))
        loss = generator_loss(judge(judge.features(generated.x_s, of_s, y), of_t, y))
        losses.append(loss.item())
        objective._update("network", loss)
    assert losses[-1] < losses[0]


def test_the_spread_of_x0_over_z_is_measured_by_timestep() -> None:
    class OnePixel:
        """z changes one pixel of 16, more at later timesteps; the result does not depend on x_t there."""

        alpha, sigma, z_dim = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8]), 1

        def __call__(self, x: Tensor, t: Tensor, y: Tensor, z: Tensor) -> Tensor:
            moved = x.clone()
            moved[:, 0, 1, 2] = (1 + t) * z[:, 0]
            return moved

    x, y = torch.zeros(100, 1, 4, 4), torch.zeros(100, dtype=torch.int64)
    spread = evaluate(OnePixel(), x, y)["spread"]  # type: ignore[arg-type]
    assert list(spread) == ["t = 1", "t = 2"]
    for t, figures in enumerate(spread.values()):
        assert figures["largest"] == pytest.approx(1 + t, rel=0.05)
        assert figures["pixels"] == pytest.approx(figures["largest"] / 4, rel=1e-5)


def test_without_z_there_is_no_spread() -> None:
    plain = Network(shape=SHAPE, classes=3, schedule=SCHEDULE, channels=[8, 32], latent=0)
    spread = evaluate(plain, torch.zeros(2, *SHAPE), torch.zeros(2, dtype=torch.int64))["spread"]
    assert {value for figures in spread.values() for value in figures.values()} == {0.0}
