"""`./run import` of EDM's pickle and of OpenAI's weights: each recorded step through the exported bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from bundle.loading import load as load_bundle
from importers import __main__ as command
from importers import bundle as bundles
from importers import edm, noise_schedule, openai_checkpoint, reference
from importers.cards import Card
from importers.formats import Format
from importers.imported import Imported
from importers.noise_schedule import HIGHER_ORDER
from importers.problems import ImportProblem
from importers.storage import Tolerance
from service.engine import noise
from service.engine.denoise import default_job, denoise
from service.runtimes.cpu import OrtRuntime
from tests.importers import parity

PICKLE = "edm_vp_ddpmpp16_network-snapshot-200000_nosrc.pkl"
FLAGS = json.loads(parity.path("cm_edm_uncond16_config.json").read_text())["args"]
CHURN = {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "edm": (PICKLE, {"format": "edm", "settings": {"S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}}),
    "karras": ("cm_edm_uncond16.pt", {"format": "consistency-models", "settings": {**FLAGS, **CHURN, "s_churn": 0.0}}),
}
# A set, its recorded file, the names there of what a reference has, and how it was sampled.
RUNS: list[tuple[str, str, dict[str, str], str | None, dict[str, float]]] = [
    ("edm", "edm_vp_ddpmpp16_io", {"x": "F_x", "t": "F_c_noise", "out": "F_out"}, None, {}),
    ("edm", "edm_vp_ddpmpp16_io", {"x": "x", "sigma": "sigma", "out": "out"}, None, {}),
    ("edm", "edm_vp_ddpmpp16_traj", {"xs": "heun10_xs"}, None, {}),
    ("edm", "edm_vp_ddpmpp16_traj", {"xs": "vp_euler10_xs"}, "vp_euler", {}),
    ("edm", "edm_vp_ddpmpp16_traj", {"xs": "vp_heun10_xs"}, "vp_heun", {}),
    ("karras", "cm_edm_uncond16_io", {"x": "x", "t": "F_t", "out": "F_out"}, None, {}),
    ("karras", "cm_edm_uncond16_io", {"x": "x", "sigma": "sigma_mixed", "out": "denoised_mixed"}, None, {}),
    ("karras", "cm_edm_uncond16_traj", {"xs": "heun10_xs"}, "heun", {}),
    ("karras", "cm_edm_uncond16_traj", {"xs": "heun10_churn_xs", "noises": "noises"}, "heun", {"churn": 4.0}),
    ("karras", "cm_edm_uncond16_traj", {"xs": "euler10_xs"}, "euler", {}),
    ("karras", "cm_edm_uncond16_traj", {"xs": "ancestral10_xs", "noises": "noises"}, "ancestral", {}),
    ("karras", "cm_edm_uncond16_traj", {"xs": "dpm10_xs"}, "dpm", {}),
]
Compare = Callable[[str, dict[str, Any], str | None, dict[str, float]], list[dict[str, Any]]]


def imported(name: str, folder: Path) -> Path:
    """The bundle of a set, by the command."""
    file, card = SOURCES[name]
    (folder / "card.json").write_text(json.dumps(card))
    arguments = [str(parity.path(file)), "-o", str(folder / "bundle"), "--card", str(folder / "card.json")]
    command.run(command.parser().parse_args(arguments))
    return folder / "bundle"


@pytest.fixture(scope="module", name="edm")
def edm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported("edm", tmp_path_factory.mktemp("edm"))


@pytest.fixture(scope="module", name="karras")
def karras_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported("karras", tmp_path_factory.mktemp("karras"))


@pytest.fixture
def compare(request: pytest.FixtureRequest, tmp_path: Path) -> Compare:
    """What the command's `--reference` keeps of a comparison with these arrays."""

    def of(name: str, arrays: dict[str, Any], solver: str | None, settings: dict[str, float]) -> list[dict[str, Any]]:
        np.savez(tmp_path / "reference.npz", **arrays)
        options = reference.Options(tmp_path / "reference.npz", solver, None, settings, Tolerance.of(parity.RMS))
        wiring = bundles.wiring(model_of(name))
        kept = reference.compare(load_bundle(request.getfixturevalue(name)), wiring, options)
        comparisons: list[dict[str, Any]] = kept["reference"]["comparisons"]
        return comparisons

    return of


def model_of(name: str) -> Imported:
    file, card = SOURCES[name]
    load = edm.load if name == "edm" else openai_checkpoint.load
    return load(parity.path(file), Card.model_validate(card))


@pytest.mark.parametrize(("name", "file", "names", "solver", "settings"), RUNS)
def test_a_bundle_gives_what_the_original_code_gave(
    compare: Compare, name: str, file: str, names: dict[str, str], solver: str | None, settings: dict[str, float]
) -> None:
    recorded = parity.arrays(f"{file}.npz")
    arrays: dict[str, Any] = {ours: recorded[theirs] for ours, theirs in names.items()}
    if (last := names.get("xs", "").replace("_xs", "_final_raw")) in recorded:
        arrays["xs"] = np.append(arrays["xs"], recorded[last][None], axis=0)
    kept = compare(name, arrays, solver, settings)
    assert len(kept) == (10 if "xs" in names else 1)
    assert max(each["rms"] for each in kept) <= parity.RMS
    assert max(each["largest"] for each in kept) <= parity.MAXIMUM


def test_edms_stochastic_sampler_is_algorithm_2(compare: Compare) -> None:
    """Karras et al. 2022, algorithm 2, from states that do not have the next step's churn yet."""
    model, rng, steps, s_noise = model_of("edm"), np.random.default_rng(3), 6, 1.003
    at = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), steps) ** 7
    noises = rng.standard_normal((steps, 2, 3, 16, 16))
    x = 80 * rng.standard_normal((2, 3, 16, 16))
    xs = [x]
    for t, s, drawn in zip(at, [*at[1:], 0.0], noises, strict=True):
        gamma = min(2.0 / steps, 2**0.5 - 1) if 0.05 <= t <= 50 else 0.0
        t_hat = t + gamma * t
        x_hat = x + np.sqrt(t_hat**2 - t**2) * s_noise * drawn
        d = (x_hat - parity.denoised(model, x_hat, t_hat)) / t_hat
        x = x_hat + (s - t_hat) * d
        if s:
            x = x_hat + (s - t_hat) * (d + (x - parity.denoised(model, x, s)) / s) / 2
        xs.append(x)
    kept = compare("edm", {"xs": np.array(xs), "noises": noises}, "heun", {"churn": 2.0})
    assert len(kept) == steps


def test_other_states_are_off(compare: Compare) -> None:
    xs = parity.arrays("edm_vp_ddpmpp16_traj.npz")["heun10_xs"]
    with pytest.raises(ImportProblem, match="of 10 comparisons are off, first vp_heun, step 1 of 10"):
        compare("edm", {"xs": xs}, "vp_heun", {})


def test_an_image_of_the_engine_is_that_of_algorithm_1(karras: Path) -> None:
    """From the engine's own noise: the first row takes unit noise for a state of σ_max."""
    bundle, model = load_bundle(karras), model_of("karras")
    image = denoise([default_job(bundle, steps=3, seed=5)], OrtRuntime(bundle, threads=1), 1)
    x = 80.0 * noise.normal(5, 0, noise.INITIAL, (3, 16, 16))[None]
    at = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 3) ** 7
    for t, s in zip(at, [*at[1:], 0.0], strict=True):
        d = (x - parity.denoised(model, x, t).clip(-1, 1)) / t
        euler = x + (s - t) * d
        x = x + (s - t) * (d + (euler - parity.denoised(model, euler, s).clip(-1, 1)) / s) / 2 if s else euler
    np.testing.assert_allclose(image, x, atol=2e-3 * x.std())


def schedule_of(name: str, **changes: object) -> noise_schedule.Sampling:
    model = (
        model_of(name)
        if not changes
        else openai_checkpoint.load(
            parity.path("cm_edm_uncond16.pt"), Card(format=Format.CONSISTENCY, settings={**FLAGS, **changes})
        )
    )
    return noise_schedule.sampling(model)


def test_a_format_has_its_own_samplers_first() -> None:
    edms, karras = schedule_of("edm"), schedule_of("karras")
    assert edms.noise_schedule["solvers"] == ["heun", "euler", "dpmpp_2m", *HIGHER_ORDER, "vp_euler", "vp_heun"]
    assert karras.noise_schedule["solvers"] == ["heun", "euler", "dpm", "ancestral", "dpmpp_2m", *HIGHER_ORDER]
    assert (edms.steps, karras.steps) == (18, 40)
    churning = schedule_of("karras", s_churn=3.0, sampler="dpm")
    assert churning.noise_schedule["solvers"][0] == "dpm"
    assert churning.noise_schedule["defaults"]["dpm"] == {"churn": 3.0}


def test_a_consistency_model_has_its_published_levels() -> None:
    two = schedule_of("karras", training_mode="consistency_distillation", sampler="multistep", ts="0,22,39")
    assert two.noise_schedule["solvers"] == ["multistep"]
    assert (two.steps, two.noise_schedule["ts"], two.noise_schedule["scale_steps"]) == (2, [0, 22, 39], 40)
    assert schedule_of("karras", training_mode="consistency_training").steps == 1
    with pytest.raises(ImportProblem, match="not places that rise"):
        schedule_of("karras", training_mode="consistency_training", sampler="multistep", ts="0,40")


def test_a_consistency_pipeline_of_diffusers_is_sampled_as_there(tmp_path: Path) -> None:
    """Against its scheduler, from the network's output on."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(32,), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    scheduler = diffusers.CMStochasticIterativeScheduler()
    diffusers.ConsistencyModelPipeline(unet=network, scheduler=scheduler).save_pretrained(tmp_path / "source")
    command.run(command.parser().parse_args([str(tmp_path / "source"), "-o", str(tmp_path / "bundle")]))
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.default_solver == "multistep"
    image = denoise([default_job(bundle, steps=3, seed=5)], OrtRuntime(bundle, threads=1), 1)
    scheduler.set_timesteps(3)
    x = torch.from_numpy(noise.normal(5, 0, noise.INITIAL, (3, 8, 8))[None]) * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        with torch.inference_mode():
            out = network(scheduler.scale_model_input(x, t), t).sample
        clean = scheduler.step(out, t, x, generator=torch.Generator().manual_seed(step)).prev_sample
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(step))
        ours = torch.from_numpy(noise.normal(5, 0, step + 1, (3, 8, 8))[None])
        rise = (scheduler.sigmas[step + 1] ** 2 - 0.002**2).clamp(min=0).sqrt()
        x = clean + rise * (ours - drawn)
    np.testing.assert_allclose(image, x, atol=1e-4)
