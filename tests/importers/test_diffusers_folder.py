"""Folders that diffusers wrote, beside what diffusers itself makes of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from importers import diffusers_folder
from importers.cards import Card
from importers.formats import Format
from importers.problems import ImportProblem
from tests.importers import parity
from tests.importers.parity import assert_near, output

CARD = Card(format=Format.DIFFUSERS)
SMALL: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def unet(**changes: Any) -> Any:
    """A small UNet2DModel with random weights, none of which is zero."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**{**SMALL, **changes}).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def saved(folder: Path, network: Any, scheduler: Any = None) -> Path:
    """A pipeline's folder."""
    diffusers.DDPMPipeline(unet=network, scheduler=scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def test_the_recorded_outputs_are_given() -> None:
    recorded = diffusers_folder.load(parity.path("diffusers_gray28"), CARD)
    io = parity.arrays("diffusers_gray28_io_traj.npz")
    assert_near(output(recorded, io["x"], io["t"]), io["out"])
    assert_near(output(recorded, io["x"], 0), io["out_t0"])
    assert recorded.shape == (1, 28, 28)
    assert recorded.sampler == "ddim"
    assert recorded.clip == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None},
        {"num_class_embeds": 5, "out_channels": 6, "resnet_time_scale_shift": "scale_shift", "attention_head_dim": 16},
        {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), "downsample_type": "resnet",
         "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "upsample_type": "resnet"},
        {"center_input_sample": True, "add_attention": False, "time_embedding_dim": 64, "act_fn": "gelu"},
        {"time_embedding_type": "learned", "num_train_timesteps": 1000, "mid_block_type": None},
        {"time_embedding_type": "fourier", "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
         "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"), "mid_block_scale_factor": 2**0.5,
         "block_out_channels": (32, 64), "norm_num_groups": None, "attn_norm_num_groups": 16},
        {"sample_size": (16, 24), "in_channels": 1, "out_channels": 1, "mid_block_scale_factor": 1.5},
        {"class_embed_type": "timestep"},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*gaussian.*")
def test_a_unet_gives_what_diffusers_own_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    network = unet(**changes)
    card = Card(format=Format.DIFFUSERS, classes=("a", "b", "c", "d", "e")) if "class_embed_type" in changes else CARD
    model = diffusers_folder.load(saved(tmp_path, network), card)
    x, t, y = torch.randn(2, *model.shape), torch.tensor([3, 981]), torch.tensor([4, 0])
    with torch.inference_mode():
        expected = network(x, t, class_labels=y if network.class_embedding is not None else None).sample
    assert_near(output(model, x, t, y), expected.numpy())
    assert len(model.classes) == (5 if network.class_embedding is not None else 0)


def test_no_class_adds_nothing_and_may_be_the_tables_last_row(tmp_path: Path) -> None:
    network = unet(num_class_embeds=5)
    folder = saved(tmp_path, network)
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        last = network(x, torch.tensor([7, 7]), class_labels=torch.tensor([4, 4])).sample
        network.class_embedding.weight[3] = 0
        nothing = network(x, torch.tensor([7, 7]), class_labels=torch.tensor([3, 3])).sample
    assert_near(output(diffusers_folder.load(folder, CARD), x, 7), nothing.numpy())
    model = diffusers_folder.load(folder, Card(format=Format.DIFFUSERS, classes=("a", "b", "c", "d")))
    assert_near(output(model, x, 7), last.numpy())
    assert model.unconditional


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", variance_type="fixed_large", num_train_timesteps=500
        ),
        diffusers.DDPMScheduler(beta_schedule="laplace", prediction_type="sample", clip_sample=False),
        diffusers.DDPMScheduler(beta_schedule="sigmoid", thresholding=True, dynamic_thresholding_ratio=0.9),
        diffusers.DDPMScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3, timestep_spacing="trailing"),
        diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample_range=2.0),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1),
    ],
)
def test_a_scheduler_gives_its_own_schedule_and_settings(tmp_path: Path, scheduler: Any) -> None:
    model = diffusers_folder.load(saved(tmp_path, unet(), scheduler), CARD)
    np.testing.assert_array_equal(model.schedule.betas.astype(np.float32), scheduler.betas.numpy())
    np.testing.assert_array_equal(model.schedule.alphas_cumprod.astype(np.float32), scheduler.alphas_cumprod.numpy())
    kept = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    assert dict(model.settings) == kept
    names = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
    assert model.prediction == names[kept["prediction_type"]]
    clips = kept["clip_sample"] and not kept["thresholding"]
    assert model.clip == (kept["clip_sample_range"] if clips else float("inf"))


@pytest.mark.parametrize("pipeline", ["DDIMPipeline", "DDPMPipeline"])
def test_another_solvers_scheduler_is_taken_as_ddim_as_ddim_pipeline_does(tmp_path: Path, pipeline: str) -> None:
    scheduler = diffusers.PNDMScheduler(beta_end=0.01, steps_offset=1)
    getattr(diffusers, pipeline)(unet=unet(), scheduler=scheduler).save_pretrained(tmp_path)
    model = diffusers_folder.load(tmp_path, CARD)
    expected = diffusers.DDIMPipeline(unet=None, scheduler=scheduler).scheduler
    np.testing.assert_array_equal(model.schedule.betas.astype(np.float32), expected.betas.numpy())
    assert model.settings["steps_offset"] == 1
    assert model.sampler == "ddim"


def old_names(name: str) -> str:
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def flat(folder: Path, network: Any) -> Path:
    """The network as diffusers 0.0.4 wrote it: in the root, by old attention names, in a .bin."""
    saved(folder, network, diffusers.DDPMScheduler(variance_type="fixed_large"))
    state = {
        old_names(name): tensor for name, tensor in load_file(folder / "unet" / diffusers_folder.WEIGHTS[0]).items()
    }
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    shutil.copy(folder / "unet" / "config.json", folder)
    shutil.copy(folder / "scheduler" / "scheduler_config.json", folder)
    shutil.rmtree(folder / "unet")
    shutil.rmtree(folder / "scheduler")
    return folder


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_flat_folder_with_old_attention_names_is_as_diffusers_loads_it(tmp_path: Path) -> None:
    folder = flat(tmp_path, unet(attention_head_dim=None))
    model = diffusers_folder.load(folder, CARD)
    network = diffusers.UNet2DModel.from_pretrained(folder).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 981])
    with torch.inference_mode():
        expected = network(x, t).sample
    assert_near(output(model, x, t), expected.numpy())
    assert model.sampler == "ddpm"
    assert model.variance == "fixed_large"


def test_a_folder_of_the_first_version_has_other_names_for_everything(tmp_path: Path) -> None:
    network = unet()
    folder = flat(tmp_path, network)
    config = json.loads((folder / "config.json").read_text())
    for new, old in {
        "sample_size": "image_size",
        "layers_per_block": "num_res_blocks",
        "norm_eps": "resnet_eps",
    }.items():
        config[old] = config.pop(new)
    config["down_block_types"] = ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"]
    config["_class_name"] = "UNetUnconditionalModel"
    (folder / "config.json").write_text(json.dumps(config))
    scheduler = {
        "_class_name": "GaussianDDPMScheduler",
        "timesteps": 100,
        "clip_predicted_image": True,
        "tensor_format": "pt",
    }
    (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    state = torch.load(folder / "diffusion_pytorch_model.bin", weights_only=True)
    moved = {name.replace("down_blocks.", "downsample_blocks."): tensor for name, tensor in state.items()}
    moved |= {name.replace(".conv.", ".op."): tensor for name, tensor in moved.items() if "downsamplers.0.conv" in name}
    torch.save(moved, folder / "diffusion_pytorch_model.bin")
    model = diffusers_folder.load(folder, CARD)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 81])
    with torch.inference_mode():
        expected = network(x, t).sample
    assert_near(output(model, x, t), expected.numpy())
    assert len(model.schedule.betas) == 100


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    network = unet().half()
    network.save_pretrained(tmp_path / "unet", variant="fp16")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    model = diffusers_folder.load(tmp_path, CARD)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 981])
    with torch.inference_mode():
        expected = network.float()(x, t).sample
    assert_near(output(model, x, t), expected.numpy())


@pytest.mark.parametrize("kind", ["vq", "kl"])
@torch.inference_mode()
def test_latent_diffusion_decodes_what_its_pipeline_decodes(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "block_out_channels": (32, 32), "norm_num_groups": 8, "latent_channels": 3, "scaling_factor": 0.5,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    }  # fmt: skip
    autoencoder = diffusers.VQModel(num_vq_embeddings=64, **sizes) if kind == "vq" else diffusers.AutoencoderKL(**sizes)
    pipeline = diffusers.LDMPipeline(vqvae=autoencoder.eval(), unet=unet(), scheduler=diffusers.DDIMScheduler())
    pipeline.save_pretrained(tmp_path)
    model = diffusers_folder.load(tmp_path, CARD)
    assert model.state_shape == (3, 16, 16)
    assert model.shape == (3, 32, 32)
    latent = torch.randn(2, 3, 16, 16)
    assert model.decoder is not None
    assert_near(model.decoder.decode(latent).numpy(), autoencoder.decode(latent / 0.5).sample.numpy())


def test_a_transformer_gives_what_diffusers_own_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    autoencoder = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    names = {str(label): f"class {label}" for label in range(10)}
    pipeline = diffusers.DiTPipeline(transformer=network, vae=autoencoder, scheduler=diffusers.DDIMScheduler())
    pipeline.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": names}))
    model = diffusers_folder.load(tmp_path, CARD)
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([3, 981]), torch.tensor([9, 10])
    with torch.inference_mode():
        expected = network(x, timestep=t, class_labels=y).sample
    assert_near(output(model, x, t, y), expected.numpy())
    assert model.classes[3] == "class 3"
    assert model.variance == "learned_range"


def test_a_consistency_pipeline_has_the_scalings_of_its_scheduler(tmp_path: Path) -> None:
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40)
    diffusers.ConsistencyModelPipeline(unet=unet(), scheduler=scheduler).save_pretrained(tmp_path)
    model = diffusers_folder.load(tmp_path, CARD)
    sigma = np.array([0.002, 0.5, 80.0])
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition(sigma)
    np.testing.assert_allclose(model.schedule.preconditioning.c_skip(sigma), c_skip)
    np.testing.assert_allclose(model.schedule.preconditioning.c_out(sigma), c_out)
    np.testing.assert_allclose(model.schedule.preconditioning.c_noise(sigma), scheduler.sigma_to_t(sigma), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers_per_block": 90_000}, "more layers than the weights have"),
        ({"block_out_channels": [10**12, 64]}, "larger than any network's"),
        ({"block_out_channels": [32]}, "does not take it"),
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "do not fit"),
        ({"rotary": True}, "has no rotary = True"),
        ({"_class_name": "UNet3DModel"}, "a UNet3DModel, not one of"),
        ({"class_embed_type": "identity"}, "a card has to name classes"),
        ({"sample_size": None}, "no sample_size"),
    ],
)
def test_a_config_that_is_off_gets_one_clear_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, unet()) / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ImportProblem, match=message):
        diffusers_folder.load(tmp_path, CARD)


def test_a_folder_without_a_scheduler_or_weights_says_which(tmp_path: Path) -> None:
    folder = saved(tmp_path, unet())
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(ImportProblem, match="no scheduler_config"):
        diffusers_folder.load(folder, CARD)
    scheduler = {"_class_name": "ScoreSdeVeScheduler"}
    with pytest.raises(ImportProblem, match="a ScoreSdeVeScheduler"):
        diffusers_folder.load(folder, Card(format=Format.DIFFUSERS, settings={"scheduler": scheduler}))
    (folder / "unet" / diffusers_folder.WEIGHTS[0]).unlink()
    with pytest.raises(ImportProblem, match="none of diffusion_pytorch_model"):
        diffusers_folder.load(folder, CARD)
    save_file({}, folder / "unet" / diffusers_folder.WEIGHTS[0])
    with pytest.raises(ImportProblem, match="no weights"):
        diffusers_folder.load(folder, CARD)
