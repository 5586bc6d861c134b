"""The reference trainer: its gradient is Eq. 6 and that of the seams, it resumes exactly, and it learns."""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from lycoris import create_lycoris_from_weights
from safetensors import safe_open
from safetensors.torch import load_file

from sga_kohya.config import SgaConfig
from sga_kohya.equations.paths import PATHS
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.reference.__main__ import main
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.families import FAMILIES
from sga_kohya.reference.models import make_stack
from sga_kohya.reference.objectives import Diffusion, FlowMatching, slice_losses
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.sample import sample
from sga_kohya.reference.trainer import Trainer, make_objective
from tests.tiny_pipelines import TINY, tiny_vae

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are then in the same order every time, and a busy machine is not slower for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five photos through H-SD at 128 pixels, in buckets of several sizes."""
    import skimage

    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("slices")
    for name in PHOTOS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, photos)
    levels = tuple(LevelConfig(name, resolution=128) for name in ("macro", "meso", "micro"))
    every = {"threshold": 0}  # a part of each photo, however poor
    run(photos, out, HsdConfig(levels=levels, min_size=64, batch_size=2, detector_options=every), workers=1)
    return out / "dataset.toml"


@pytest.fixture
def options(dataset, tmp_path):
    return RunOptions(dataset, tmp_path / "run", steps=4, width=32, depth=2, pool=8)


def checkpoint(folder: Path) -> tuple[dict, dict]:
    """Weights and the optimizer's state."""
    return load_file(folder / "diffusion_pytorch_model.safetensors"), torch.load(folder / "optimizer.pt")["state"]


def gradients(trainer: Trainer) -> list[torch.Tensor]:
    """What the optimizer is given in the first step, before clipping."""
    found: list[torch.Tensor] = []

    class Done(Exception):
        pass

    def capture(parameters, *_):
        found.extend(p.grad.clone() for p in parameters if p.grad is not None)
        raise Done

    trainer.accelerator.clip_grad_norm_ = capture
    with pytest.raises(Done):
        trainer.run()
    return found


def assert_gradient_is_eq_6(trainer: Trainer) -> None:
    """Of the first step, against the same losses summed by hand."""
    config = trainer.config
    step, generator = trainer.dataset.plan(0)[0], trainer.seeded(0)
    losses = defaultdict(list)
    for sub_batch in step:
        _, loss = trainer.losses(trainer.dataset.load(sub_batch), sub_batch, generator)
        losses[sub_batch.granularities[0]] += list(loss)
    assert len(step) > len(losses), "the step should have a level in more than one bucket"
    levels = [config.loss_weight.get(k, 1.0) * torch.stack(values).mean() for k, values in losses.items()]
    objective = sum(levels) / (len(levels) if config.tuple_reduction == "mean" else 1)
    parameters = [p for p in trainer.stack.denoiser.parameters() if p.requires_grad]
    expected = [g for g in torch.autograd.grad(objective, parameters, allow_unused=True) if g is not None]
    torch.testing.assert_close(gradients(trainer), expected, rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 1e-4 for g in expected)


@pytest.mark.parametrize(
    ("arch", "settings"),
    [("dit", {}), ("unet", {}), ("dit", {"loss_weight": {"micro": 2.0}}), ("dit", {"tuple_reduction": "sum"})],
)
def test_accumulated_gradient_is_eq_6(options, arch, settings):
    config = SgaConfig(groups_per_step=5, **settings)
    trainer = Trainer(replace(options, arch=arch), config)
    assert_gradient_is_eq_6(trainer)


def test_baseline_takes_every_slice_once_an_epoch_in_plain_batches(options):
    trainer = Trainer(replace(options, steps=None, epochs=2), SgaConfig(enabled=False))
    seen: list[str] = []
    trainer.observe = lambda sub_batch, timesteps, losses: seen.extend(sub_batch.keys)
    spent = trainer.run()
    slices = [item.key for item in trainer.dataset.slices]
    assert spent.steps == spent.model_calls
    assert sorted(seen) == sorted(slices * 2)
    labels = [set(sub_batch.granularities) for (sub_batch,) in trainer.dataset.plan(0)]
    assert any(len(mixed) > 1 for mixed in labels), "plain batches mix granularities"


def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(options):
    whole, broken = replace(options, steps=7), replace(options, steps=7, out=options.out / "b", save_every=4)
    Trainer(whole, SgaConfig()).run()

    class Crash(Exception):
        pass

    def crash_after_the_checkpoint(sub_batch, timesteps, losses):
        if trainer.step == 5:
            raise Crash

    trainer = Trainer(broken, SgaConfig(), crash_after_the_checkpoint)
    with pytest.raises(Crash):
        trainer.run()
    Trainer(replace(broken, resume="latest"), SgaConfig()).run()
    assert trainer.steps_per_epoch == 3, "the run should resume inside a later epoch"
    states = [checkpoint(options.out / "checkpoints" / "step-00000007") for options in (whole, broken)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert not list(broken.out.rglob("*.part"))


@pytest.mark.parametrize(
    "choice",
    [
        {"arch": "dit"},
        {"arch": "unet"},
        {"arch": "unet", "prediction": "v_prediction", "zero_terminal_snr": True},
    ],
)
def test_loss_goes_down(options, choice):
    by_step: list[list[float]] = []
    trainer = Trainer(replace(options, steps=40, lr=3e-3, **choice), SgaConfig())
    trainer.observe = lambda sub_batch, timesteps, losses: by_step.append(losses.tolist())
    trainer.run()
    means = [sum(values) / len(values) for values in by_step]
    assert sum(means[-20:]) / 20 < 0.7 * sum(means[:10]) / 10
    assert len(list((options.out / "samples").glob("*.png"))) > 0
    assert any((options.out / "logs").iterdir())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_zero_terminal_snr_gives_no_nan(options, prediction):
    options = replace(options, arch="unet", prediction=prediction, zero_terminal_snr=True)
    objective = Diffusion(make_stack(options).scheduler, {"micro": 7.0})
    for seed in range(40):
        noised = objective(torch.ones(64, 3, 4, 4), ["micro"] * 64, torch.Generator().manual_seed(seed))
        if (noised.timesteps == 999).any():
            break
    last = noised.timesteps == 999
    assert last.any()
    assert torch.isfinite(slice_losses(noised.target, noised)).all()
    assert (noised.weight[last] == (0.0 if prediction == "v_prediction" else 1.0)).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_slice_without_gamma_has_weight_1_as_through_the_seams(options, prediction):
    """Without modulation, without a label, with a label that the table does not name; never a Min-SNR of our own."""
    scheduler = make_stack(replace(options, arch="unet", prediction=prediction)).scheduler
    labels, latents = [None, "meso", "micro"] * 16, torch.ones(48, 3, 4, 4)
    for table, named in (({}, ()), ({"micro": 7.0}, ("micro",))):
        noised = Diffusion(scheduler, table)(latents, labels, torch.Generator().manual_seed(0))
        for label, weight, t in zip(labels, noised.weight.tolist(), noised.timesteps.tolist(), strict=True):
            snr = float(scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t]))
            ours = min(1, 7 / snr) if prediction == "epsilon" else min(snr, 7) / (snr + 1)
            assert weight == pytest.approx(ours if label in named else 1.0, rel=1e-4)
    for config in (SgaConfig(modulation=False), SgaConfig(enabled=False)):
        assert make_objective(make_stack(replace(options, arch="unet")), config).gamma == {}


def test_noise_levels_follow_delta_and_the_resolution():
    """Eq. 29-31: sigmoid(z + Delta), then odds times exp(mu), with mu of FLUX: 0.5 at 256 tokens, 1.15 at 4096."""
    labels, table = ["macro", None] * 8, {"macro": 0.5}
    for side, mu in ((32, 0.5), (128, 1.15)):
        latents = torch.zeros(16, 1, side, side)
        noised = FlowMatching(table, by_resolution=True)(latents, labels, torch.Generator().manual_seed(3))
        z = torch.randn(16, generator=torch.Generator().manual_seed(3))
        delta = torch.tensor([table.get(label or "", 0.0) for label in labels])
        torch.testing.assert_close(noised.timesteps, 1000 * torch.sigmoid(z + delta + mu), rtol=1e-4, atol=1e-2)
        plain = FlowMatching(table)(latents, labels, torch.Generator().manual_seed(3))
        torch.testing.assert_close(plain.timesteps, 1000 * torch.sigmoid(z + delta), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dynamic", [True, False])
def test_eq_31_applies_where_the_model_s_scheduler_says_so(options, tmp_path, dynamic):
    pipeline = make_pipeline("flux", tmp_path)
    pipeline.scheduler.register_to_config(use_dynamic_shifting=dynamic)
    pipeline.save_pretrained(tmp_path / "model")
    stack = make_stack(replace(options, model=tmp_path / "model"))
    assert make_objective(stack, SgaConfig()).by_resolution is dynamic


@pytest.fixture(params=["flux", "sd", "sdxl"])
def model_folder(request, tmp_path):
    """(arch, folder): a tiny pipeline, weights random, tokenizer built on the spot."""
    folder = tmp_path / "model"
    make_pipeline(request.param, tmp_path).save_pretrained(folder)
    return "dit" if request.param == "flux" else "unet", folder


def test_dora_on_a_local_folder(options, model_folder):
    arch, folder = model_folder
    trainer = Trainer(replace(options, arch=arch, model=folder, network_dim=4, steps=2), SgaConfig())
    model = trainer.stack.denoiser.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.run()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    weights = load_file(options.out / "model" / "adapter.safetensors")
    assert any(name.endswith("dora_scale") for name in weights)
    assert any(value.abs().sum() > 0 for name, value in weights.items() if "lora_up" in name)


@pytest.fixture(scope="module", params=TINY)
def family_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    TINY[request.param]().save_pretrained(folder / "model")
    return folder / "model"


def test_gradient_of_every_family_is_eq_6(options, family_folder):
    config = SgaConfig(groups_per_step=5, loss_weight={"micro": 2.0})
    assert_gradient_is_eq_6(Trainer(replace(options, model=family_folder, network_dim=4), config))


def test_a_trained_family_draws_in_diffusers_what_it_draws_here(options, family_folder, tmp_path):
    """The pipeline's own loop against ours: packing, time, sign, text, mask, size, codec, and the saved adapter."""
    trainer = Trainer(replace(options, model=family_folder, network_dim=4, lr=0.05, steps=3), SgaConfig())
    captions, size = ["a cat on a mat", "the red rocket"], (64, 96)
    untrained = sample(trainer.stack, captions, size, steps=4)
    trainer.run()
    ours = sample(trainer.stack, captions, size, steps=4)
    assert (ours - untrained).abs().max() > 0.05
    pipeline = in_diffusers(family_folder)
    adapter = options.out / "model" / "adapter.safetensors"
    create_lycoris_from_weights(1.0, str(adapter), pipeline.transformer)[0].merge_to()
    pipeline.save_pretrained(tmp_path / "merged")
    theirs = drawn_by(in_diffusers(tmp_path / "merged"), trainer.stack, captions, size, steps=4)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["flux", "pixart"])
def test_an_adapter_in_diffusers_format_is_the_lycoris_one(options, tmp_path, kind):
    """W' = magnitude (W + B A) / |W + B A|, rows apart: DoRA as PEFT computes it, against LyCORIS' own merge."""
    pipeline = make_pipeline("flux", tmp_path) if kind == "flux" else TINY[kind]()
    pipeline.save_pretrained(tmp_path / "model")
    adapter = {"network_dim": 4, "network_alpha": 2.0}
    Trainer(replace(options, model=tmp_path / "model", lr=0.05, steps=2, **adapter), SgaConfig()).run()
    ours = load_file(options.out / "model" / "pytorch_lora_weights.safetensors")
    layers = dict(pipeline.transformer.named_modules())
    names = {name.split(".lora_")[0].removeprefix("transformer.") for name in ours}
    expected = {}
    for name in names:
        parts = (f"transformer.{name}.lora_{part}" for part in ("A.weight", "B.weight", "magnitude_vector"))
        a, b, magnitude = (ours[part] for part in parts)
        weight = layers[name].weight.detach() + b @ a
        expected[name] = magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
    adapter_file = options.out / "model" / "adapter.safetensors"
    create_lycoris_from_weights(1.0, str(adapter_file), pipeline.transformer)[0].merge_to()
    assert len(names) == len(load_file(adapter_file)) / 4 > 5
    torch.testing.assert_close({name: layers[name].weight.detach() for name in names}, expected)


@pytest.mark.parametrize("kind", ["flux", "sd", "sdxl", "auraflow", "sd3"])
def test_load_lora_weights_draws_what_the_trainer_draws(options, tmp_path, kind):
    pytest.importorskip("peft", reason="load_lora_weights needs peft")
    torch.manual_seed(0)
    pipeline = TINY[kind]() if kind in TINY else make_pipeline(kind, tmp_path)
    if not hasattr(pipeline, "load_lora_weights"):
        pytest.skip(f"this diffusers has no load_lora_weights for {kind}")
    pipeline.save_pretrained(tmp_path / "model")
    chosen = {"arch": "unet" if kind in ("sd", "sdxl") else "dit", "model": tmp_path / "model"}
    trainer = Trainer(replace(options, **chosen, network_dim=4, lr=0.05, steps=3), SgaConfig())
    trainer.run()
    pipeline = in_diffusers(tmp_path / "model")
    stack, network = trainer.stack, pipeline.unet if kind in ("sd", "sdxl") else pipeline.transformer
    noisy, timesteps = torch.randn(2, 4, 16, 24), torch.tensor([300.0, 700.0])
    text = stack.text(["a cat", "a dog"])
    with torch.no_grad():
        ours = stack.denoiser(noisy, timesteps, *text)
        untrained = stack.family.predict(network, noisy, timesteps, text, 4)
        pipeline.load_lora_weights(options.out / "model", weight_name="pytorch_lora_weights.safetensors")
        theirs = stack.family.predict(network, noisy, timesteps, text, 4)
    assert (ours - untrained).abs().max() > 0.05
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3)


def in_diffusers(folder: Path) -> DiffusionPipeline:
    """Parts that the folder lacks are named as absent, as diffusers wants it."""
    parts = json.loads((folder / "model_index.json").read_text()).items()
    return DiffusionPipeline.from_pretrained(folder, **{name: None for name, part in parts if part == [None, None]})


def drawn_by(pipeline, stack, captions: list[str], size: tuple[int, int], steps: int) -> torch.Tensor:
    """(B, 3, H, W), in [-1, 1], from the noise and the noise levels of `sample`."""
    (width, height), factor = size, stack.codec.factor
    shape = len(captions), stack.codec.channels, height // factor, width // factor
    options = {"latents": torch.randn(shape, generator=torch.Generator().manual_seed(0)), "guidance_scale": 1.0}
    if stack.family.flow:
        options["sigmas"] = np.linspace(1, 1 / steps, steps).tolist()
    else:
        pipeline.scheduler = stack.scheduler
        options |= {"use_resolution_binning": False, "clean_caption": False}
    images = pipeline(captions, height=height, width=width, num_inference_steps=steps, output_type="pt", **options)
    return 2 * images.images - 1


@pytest.mark.parametrize(("kind", "side"), [("auraflow", 16), ("sd3", 16)])
def test_a_slice_beyond_a_model_s_positions_is_named(options, tmp_path, kind, side):
    TINY[kind](side=side).save_pretrained(tmp_path / "model")
    with pytest.raises(SgaError, match="this model's positions end at sides of 64"):
        Trainer(replace(options, model=tmp_path / "model"), SgaConfig())


def test_help_names_every_family(capsys):
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in FAMILIES)


def test_an_unknown_pipeline_is_one_sentence_that_names_the_known(options, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(SgaError, match="is a KandinskyPipeline; --arch dit trains FluxPipeline, .*PixArtAlphaPipeline"):
        make_stack(replace(options, model=tmp_path))


def test_a_path_is_refused_for_a_transformer_that_learns_no_flow(options, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(SgaError, match="for flow matching: use it with --arch dit and another --model"):
        make_stack(replace(options, model=tmp_path), "shell")


def test_metadata(options):
    Trainer(replace(options, steps=1), SgaConfig(loss_weight={"micro": 2.0})).run()
    with safe_open(options.out / "model" / "diffusion_pytorch_model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_sga_loss_weight"] == "micro:2"
    assert metadata["ss_sga_timestep_shift"] == "macro:0.5,meso:0,micro:-0.5"
    assert metadata["ss_sga_groups_by_k"] == "3:5"
    assert (metadata["ss_steps"], metadata["ss_seed"]) == ("1", "0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sga_tuple=false"], "did you mean sga_tuples?"),
        ([], "either --steps or --epochs"),
        (["--steps=1", "--dataset_config=none.toml"], "none.toml: no such file"),
        (["--steps=1", "--model=none"], "no model_index.json"),
        (["--steps=1", "--pool=48"], "multiples of 96"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(options, arguments, message, capsys):
    assert main(["--dataset_config", str(options.dataset_config), "--out", str(options.out), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "optimizer.pt", "run.json"])
def test_a_damaged_checkpoint_is_one_sentence_with_another_to_resume(options, name):
    Trainer(replace(options, steps=2, save_every=1), SgaConfig()).run()
    first, last = (options.out / "checkpoints" / f"step-0000000{step}" for step in (1, 2))
    (last / name).write_bytes((last / name).read_bytes()[:20])
    with pytest.raises(
        SgaError, match=f"--resume {last}: .* damaged .*{first.name if name != 'run.json' else 'anoth'}"
    ):
        Trainer(replace(options, steps=3, resume="latest"), SgaConfig())
    Trainer(replace(options, steps=3, resume=str(first)), SgaConfig()).run()


def test_resume_refuses_other_settings(options):
    Trainer(replace(options, steps=1), SgaConfig()).run()
    with pytest.raises(SgaError, match="already holds a run"):
        Trainer(options, SgaConfig())
    with pytest.raises(SgaError, match="seed was 0, now 1"):
        Trainer(replace(options, resume="latest", seed=1), SgaConfig())


@pytest.mark.parametrize("path", ["linear", "spherical-slerp"])
def test_gradient_equals_that_of_the_sd_scripts_seams(options, tmp_path, path):
    """Same batches, noise and model function; there the host's own function draws and noises, moved by the seam."""
    try:
        checkout = find_checkout().root
    except SgaError as error:
        pytest.skip(f"no sd-scripts checkout, so nothing to compare with: {error}")
    trainer = Trainer(options, SgaConfig(groups_per_step=5, path=path))
    torch.save(trainer.stack.denoiser.state_dict(), tmp_path / "weights.pt")
    expected = gradients(trainer)
    job = {"checkout": str(checkout), "dataset": str(options.dataset_config), "folder": str(tmp_path), "path": path}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).with_name("reference_through_seams.py")), json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    through_seams = torch.load(tmp_path / "gradients.pt")
    assert any(g.abs().max() > 1e-3 for g in expected)
    torch.testing.assert_close(through_seams, expected, rtol=1e-4, atol=1e-6)


def make_pipeline(kind: str, folder: Path):
    from diffusers import (
        DDIMScheduler,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    vae = tiny_vae()
    if kind == "flux":  # without text encoders, as a folder may be
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=20,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        return FluxPipeline(scheduler, vae, None, None, None, None, transformer)
    characters = [chr(c) for c in range(97, 123)]
    words = characters + [c + "</w>" for c in characters] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    clip = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=16,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    xl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40}
    unet = UNet2DConditionModel(
        block_out_channels=[16, 16],
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        cross_attention_dim=32 if kind == "sdxl" else 16,
        attention_head_dim=2,
        norm_num_groups=4,
        **(xl if kind == "sdxl" else {}),
    )
    if kind == "sd":
        return StableDiffusionPipeline(
            vae,
            CLIPTextModel(clip),
            tokenizer,
            unet,
            DDIMScheduler(steps_offset=1, clip_sample=False),
            None,
            None,
            requires_safety_checker=False,
        )
    second = CLIPTextModelWithProjection(clip)
    return StableDiffusionXLPipeline(vae, CLIPTextModel(clip), second, tokenizer, tokenizer, unet, DDIMScheduler())


@pytest.mark.parametrize("path", ["shell", "spherical-linear", "spherical-slerp"])
def test_loss_goes_down_on_every_path(options, path):
    by_step: list[list[float]] = []
    trainer = Trainer(replace(options, steps=40, lr=3e-3), SgaConfig(path=path))
    trainer.observe = lambda sub_batch, timesteps, losses: by_step.append(losses.tolist())
    trainer.run()
    means = [sum(values) / len(values) for values in by_step]
    assert sum(means[-20:]) / 20 < 0.8 * sum(means[:10]) / 10
    with safe_open(options.out / "model" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata()["ss_sga_path"] == path
    assert trainer.stack.scheduler.config.path == path


def test_a_straight_path_is_what_the_trainer_always_did(options):
    latents, generator = torch.randn(4, 3, 8, 8), torch.Generator().manual_seed(0)
    noised = FlowMatching({}, False)(latents, ["macro"] * 4, generator)
    again = torch.Generator().manual_seed(0)
    sigma = torch.sigmoid(torch.randn(4, generator=again))
    noise, mix = torch.randn(4, 3, 8, 8, generator=again), sigma.view(-1, 1, 1, 1)
    assert torch.equal(noised.noisy, (1 - mix) * latents + mix * noise)
    assert torch.equal(noised.target, noise - latents)
    prediction = torch.randn(4, 3, 8, 8)
    assert torch.equal(slice_losses(prediction, noised), (prediction - noised.target).square().mean(dim=(1, 2, 3)))


def test_noise_opposite_its_latents_is_drawn_anew(monkeypatch):
    """There the geodesic is not unique."""
    draws, drawn = torch.randn, []
    latents = torch.randn(1, 4, 2, 2)

    def once_opposite(*shape, **options):
        drawn.append(draws(*shape, **options))
        if len(drawn) == 2:  # the first are the noise levels
            drawn[-1][0, :, 1, 0] = -2 * latents[0, :, 1, 0]
        return drawn[-1]

    monkeypatch.setattr(torch, "randn", once_opposite)
    noised = FlowMatching({}, path=PATHS["spherical-slerp"])(latents, ["macro"], torch.Generator().manual_seed(0))
    omega = noised.target.norm(dim=1) / 2
    assert len(drawn) > 2 and omega.max() < torch.pi - 1e-3


def test_path_by_option(options, capsys):
    arguments = ["--dataset_config", str(options.dataset_config), "--out", str(options.out), "--steps=1", "--sga=false"]
    small = ["--width=32", "--depth=2", "--pool=8"]
    assert main([*arguments, *small, "--sga_path=spherical-slerp", "--path=shell"]) == 0
    with safe_open(options.out / "model" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata()["ss_sga_path"] == "shell"
    assert main([*arguments, "--resume", "--steps=2", *small, "--path=spherical-slerp"]) == 2
    assert "ss_sga_path was shell, now spherical-slerp" in capsys.readouterr().err
    assert main([*arguments, f"--out={options.out / 'other'}", "--steps=1", "--arch=unet", "--path=shell"]) == 2
    assert "use it with --arch dit" in capsys.readouterr().err


def test_a_caption_in_an_unknown_encoding_is_named_and_one_with_a_mark_is_read(dataset, tmp_path):
    slices = shutil.copytree(dataset.parent, tmp_path / "slices")
    (slices / "dataset.toml").write_text(dataset.read_text().replace(str(dataset.parent), str(slices)))
    caption = next((slices / "1_macro").glob("*.txt"))
    caption.write_bytes("zoé\n".encode("utf-16"))
    captions = SliceDataset(slices / "dataset.toml", SgaConfig()).captions
    assert captions[str(caption.with_suffix(".png"))] == "zoé"
    caption.write_bytes("zoé\n".encode("cp1252"))
    with pytest.raises(SgaError, match=f"{caption}: not UTF-8: byte 0xe9 at 2; save it as UTF-8"):
        SliceDataset(slices / "dataset.toml", SgaConfig())
