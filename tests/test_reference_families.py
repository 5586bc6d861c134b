"""Each family of the reference trainer against diffusers' own pipeline of it, by this diffusers and by the newest."""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import free_memory
from lycoris import create_lycoris_from_weights
from safetensors.torch import load_file
from torch import Tensor

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.reference import folders
from sga_kohya.reference.__main__ import main
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.families import FAMILIES, family_of
from sga_kohya.reference.latents import VaeCodec
from sga_kohya.reference.models import make_stack
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.precision import autocast
from sga_kohya.reference.published import load
from sga_kohya.reference.sample import sample
from sga_kohya.reference.stack import Stack
from sga_kohya.reference.text import PipelineText
from sga_kohya.reference.trainer import Trainer, make_objective
from sga_kohya.tuples.accelerator import TupleAccelerator
from tests.reference_world import assert_gradient_is_eq_6, cut_photos, expected_gradients, gradients
from tests.tiny_pipelines import TINY, flux, flux_without_text, tiny_vae

ROOT = Path(__file__).parents[1]
NEWEST = "0.42.1"
CAPTIONS, SIZE, STEPS = ["a cat on a mat", "the red rocket"], (64, 96), 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return cut_photos(tmp_path_factory.mktemp("cut"))


@pytest.fixture
def options(dataset, tmp_path):
    return RunOptions(dataset, tmp_path / "run", steps=4, network_dim=4, pool=8)


@pytest.fixture(scope="module", params=TINY)
def folder(request, tmp_path_factory):
    """A pipeline of random weights, as diffusers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    TINY[request.param]().save_pretrained(folder)
    return folder


def arch(folder: Path) -> str:
    return family_of(json.loads((folder / "model_index.json").read_text())["_class_name"]).arch


@dataclass
class Trained:
    """What it draws, (B, 3, H, W) in [-1, 1], before and after; out: its files."""

    stack: Stack
    before: Tensor
    after: Tensor
    out: Path


@pytest.fixture(scope="module")
def trained(dataset, folder, tmp_path_factory):
    options = RunOptions(dataset, tmp_path_factory.mktemp("run"), arch(folder), folder, steps=3, lr=0.05, network_dim=4)
    trainer = Trainer(options, SgaConfig())
    model = trainer.stack.denoiser.model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = sample(trainer.stack, CAPTIONS, SIZE, STEPS)
    trainer.run()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    return Trained(trainer.stack, before, sample(trainer.stack, CAPTIONS, SIZE, STEPS), options.out / "model")


def test_gradient_of_every_family_is_eq_6(options, folder):
    config = SgaConfig(groups_per_step=5, loss_weight={"micro": 2.0})
    assert_gradient_is_eq_6(Trainer(replace(options, arch=arch(folder), model=folder), config))


def test_frozen_weights_in_bfloat16_take_half_the_bytes_and_predict_the_same(options, folder):
    """Of every family; the smallest pictures that its network takes. 2^-4: some forty roundings of 2^-9, one by one."""
    run = replace(options, arch=arch(folder), model=folder)
    whole, half = make_stack(run), make_stack(replace(run, mixed_precision="bf16"))
    for part, other in zip(frozen(whole), frozen(half), strict=True):
        assert 2 * sum(map(size, other)) == sum(map(size, part)) > 0
    assert {p.dtype for p in half.denoiser.adapter.parameters()} == {torch.float32}
    images, timesteps = torch.rand(2, 3, *[4 * whole.multiple] * 2) * 2 - 1, torch.tensor([300, 700])
    expected, found = (
        stack.denoiser(stack.codec.encode(images), timesteps, *stack.text(CAPTIONS)) for stack in (whole, half)
    )
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() <= 2**-4 * expected.norm()


@pytest.mark.parametrize("kind", ["sd3", "pixart-512"])
def test_a_gradient_in_bfloat16_is_eq_6(options, tmp_path, kind):
    """Both sides run the same passes, so they differ by the rounding in float32 of what a sub-batch counts, and by the
    few bfloat16 of the way back which that lets round the other way: far less than one unit, 2^-8, of the whole."""
    TINY[kind]().save_pretrained(tmp_path / "model")
    config = SgaConfig(groups_per_step=5, loss_weight={"micro": 2.0})
    trainer = Trainer(replace(options, model=tmp_path / "model", mixed_precision="bf16"), config)
    expected, found = (torch.cat([g.flatten() for g in each(trainer)]) for each in (expected_gradients, gradients))
    assert expected.abs().max() > 1e-4 and found.dtype == torch.float32
    assert (found - expected).norm() <= 2**-8 * expected.norm()


def test_checkpointing_computes_the_blocks_twice_and_changes_no_gradient(options, folder):
    """Of every family, bit for bit. Layers outside of blocks are computed once."""
    found, calls = [], []
    for recomputed in (False, True):
        stack = make_stack(replace(options, arch=arch(folder), model=folder, gradient_checkpointing=recomputed))
        layers, computed, seeded = stack.denoiser.adapter.loras, Counter(), torch.Generator().manual_seed(0)
        for layer in layers:
            torch.nn.init.normal_(layer.lora_up.weight, std=0.1, generator=seeded)
            layer.lora_down.register_forward_hook(lambda *_, name=layer.lora_name, to=computed: to.update([name]))
        side = 4 * stack.family.multiple(stack.denoiser.model.config)
        noisy, timesteps = torch.randn(2, stack.codec.channels, side, side, generator=seeded), torch.tensor([300, 700])
        prediction = stack.denoiser(noisy, timesteps, *stack.text(CAPTIONS))
        trained = [parameter for parameter in stack.denoiser.parameters() if parameter.requires_grad]
        found.append(torch.autograd.grad(prediction.square().sum(), trained, allow_unused=True))
        calls.append(computed)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in found[0]) > 10
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True) if pair != (None, None))
    more = [calls[True][name] / count for name, count in calls[False].items()]
    assert sum(factor == 2 for factor in more) >= 0.75 * len(more) and set(more) <= {1, 2}


def test_encoders_are_gone_and_the_vae_rests_before_the_network_comes_onto_the_device(options, tmp_path, monkeypatch):
    """And nothing brings them back: samples are of captions that are known, and the VAE is there only to decode. Nor
    are they let go again in each step, because looking through all objects for garbage takes longer than one."""
    events: list[str] = []
    encoders: list[weakref.ref] = []

    def prepared(self, *things):
        events.append("prepared")
        assert encoders and not any(reference() is not None for reference in encoders)
        return prepare(self, *things)

    def loaded(self, device):
        events.append("loaded")
        pipeline = load_encoders(self, device)
        parts = [part for name, part in pipeline.components.items() if name.startswith("text_encoder")]
        encoders.extend(weakref.ref(part) for part in parts if part is not None)
        return pipeline

    @contextlib.contextmanager
    def on(self, device):
        events.append("vae")
        with vae_on(self, device):
            yield
        events.append("rest")
        assert self.vae.device.type == "cpu"

    prepare, load_encoders, vae_on = TupleAccelerator.prepare, PipelineText._loaded, VaeCodec.on
    monkeypatch.setattr(TupleAccelerator, "prepare", prepared)
    monkeypatch.setattr(PipelineText, "_loaded", loaded)
    monkeypatch.setattr(VaeCodec, "on", on)
    monkeypatch.setattr("sga_kohya.reference.text.free_memory", lambda: (free_memory(), events.append("freed")))
    TINY["sd3"]().save_pretrained(tmp_path / "model")
    trainer = Trainer(replace(options, model=tmp_path / "model", steps=1), SgaConfig())
    assert events == ["loaded", "freed", "vae", "rest", "prepared"]
    monkeypatch.setattr(VaeCodec, "encode", None)
    trainer.run()
    assert events[5:] == ["vae", "rest"]


def test_a_vae_goes_to_the_device_and_back_whatever_happens_there(monkeypatch):
    codec, places = VaeCodec(tiny_vae()), []
    monkeypatch.setattr(codec.vae, "to", places.append)
    with pytest.raises(MemoryError), codec.on(torch.device("meta")):
        assert places == [torch.device("meta")]
        raise MemoryError
    assert places == [torch.device("meta"), "cpu"]


def test_a_network_without_checkpointing_is_refused_before_anything_is_encoded(options, tmp_path, monkeypatch):
    TINY["pixart-512"]().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(diffusers.PixArtTransformer2DModel, "_supports_gradient_checkpointing", False)
    monkeypatch.setattr(SliceDataset, "encode", None)
    run = replace(options, model=tmp_path / "model", gradient_checkpointing=True)
    with pytest.raises(
        SgaError, match="^--gradient_checkpointing: diffusers' PixArtTransformer2DModel has none: leave"
    ):
        Trainer(run, SgaConfig())


def frozen(stack: Stack) -> list[list[Tensor]]:
    """Parameters of the network without its adapter, of each text encoder and of the VAE."""
    encoders = [part for name, part in sorted(stack.text.load().components.items()) if name.startswith("text_enc")]
    return [list(part.parameters()) for part in (stack.denoiser.model, *encoders, stack.codec.vae) if part is not None]


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def test_a_run_in_bfloat16_resumes_exactly_and_saves_in_float32(options, tmp_path):
    TINY["pixart-512"]().save_pretrained(tmp_path / "model")
    half = replace(options, model=tmp_path / "model", mixed_precision="bf16", lr=0.05, steps=2)
    Trainer(half, SgaConfig()).run()
    broken = replace(half, out=tmp_path / "broken")
    Trainer(replace(broken, steps=1), SgaConfig()).run()
    with pytest.raises(SgaError, match="mixed_precision was bf16, now no; resume with the same"):
        Trainer(replace(broken, resume="latest", mixed_precision=None), SgaConfig())
    Trainer(replace(broken, resume="latest"), SgaConfig()).run()
    ours, theirs = (out / "checkpoints" / "step-00000002" for out in (options.out, broken.out))
    adapters = [load_file(folder / "adapter.safetensors") for folder in (ours, theirs)]
    states = [torch.load(folder / "optimizer.pt")["state"] for folder in (ours, theirs)]
    torch.testing.assert_close(*adapters, rtol=0, atol=0)
    torch.testing.assert_close(*states, rtol=0, atol=0)
    files = [adapters[0], load_file(broken.out / "model" / "pytorch_lora_weights.safetensors")]
    tensors = [tensor for file in files for name, tensor in file.items() if not name.endswith("alpha")]
    assert {tensor.dtype for tensor in [*tensors, states[0][0]["exp_avg"]]} == {torch.float32}


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("kind", ["flux", "sd"])
def test_an_adapted_layer_is_dora_and_keeps_no_second_weight_for_the_way_back(tmp_path, kind, dtype, near):
    """x W'^T + bias with W' = m (W + s B A) / n, and its gradients. near: a product's error, in bfloat16 of three."""
    TINY[kind]().save_pretrained(tmp_path / "model")
    denoiser = load(arch(tmp_path / "model"), tmp_path / "model", {}, None, 4, dtype).denoiser
    denoiser.add_adapter(4, 8.0)
    layers = denoiser.adapter.loras
    assert {layer.org_module[0].weight.ndim for layer in layers} == ({2, 4} if kind == "sd" else {2})
    for layer in layers:
        torch.nn.init.normal_(layer.lora_up.weight, std=0.1)
        weight = layer.org_module[0].weight
        x = torch.randn(3, *weight.shape[1:2], *[2] * (weight.ndim - 2))
        kept: list[Tensor] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t)
        with hooks, autocast(x.device, dtype):
            computed = layer.org_module[0](x)
        as_large = [tensor.data_ptr() for tensor in kept if tensor.numel() == weight.numel()]
        assert set(as_large) == {weight.data_ptr()}
        towards, trained = torch.randn_like(computed), [layer.lora_up.weight, layer.lora_down.weight, layer.dora_scale]
        ours = [computed, *torch.autograd.grad(computed, trained, towards)]
        expected = dora(layer, x)
        theirs = [expected, *torch.autograd.grad(expected, trained, towards.float())]
        assert all((one.float() - other).norm() <= near * other.norm() for one, other in zip(ours, theirs, strict=True))


def dora(layer, x: Tensor) -> Tensor:
    """By the weight as a whole, in float32."""
    weight, bias = layer.org_module[0].weight.float(), layer.org_module[0].bias
    rows = weight.flatten(1) + layer.scale * layer.lora_up.weight.flatten(1) @ layer.lora_down.weight.flatten(1)
    merged = layer.dora_scale.flatten()[:, None] * rows / rows.norm(dim=1, keepdim=True)
    return layer.op(x, merged.view_as(weight), None if bias is None else bias.float(), **layer.kw_dict)


def test_a_trained_family_draws_in_diffusers_what_it_draws_here(folder, trained):
    """The pipeline's own call against ours: packing, time, sign, text, mask, size, levels, codec, the saved adapter."""
    assert (trained.after - trained.before).abs().max() > 0.05
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent(folder))
    create_lycoris_from_weights(1.0, str(trained.out / "adapter.safetensors"), network(pipeline))[0].merge_to()
    torch.testing.assert_close(drawn_by(pipeline, trained.stack), trained.after, rtol=0, atol=2e-3)


def test_load_lora_weights_draws_what_the_trainer_draws(folder, trained):
    pytest.importorskip("peft", reason="load_lora_weights needs peft")
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent(folder))
    if not hasattr(pipeline, "load_lora_weights"):
        assert "no" in in_readme()[type(pipeline).__name__]
        return
    pipeline.load_lora_weights(trained.out, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(drawn_by(pipeline, trained.stack), trained.after, rtol=0, atol=2e-3)


def network(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def absent(folder: Path) -> dict[str, None]:
    """Parts that the folder lacks are named as absent, as diffusers wants it."""
    parts = json.loads((folder / "model_index.json").read_text()).items()
    return {name: None for name, part in parts if part == [None, None]}


def drawn_by(pipeline, stack: Stack) -> Tensor:
    """(B, 3, H, W), in [-1, 1], from the noise and the noise levels of `sample`."""
    (width, height), factor, kind = SIZE, stack.codec.factor, type(pipeline).__name__
    shape = len(CAPTIONS), stack.codec.channels, height // factor, width // factor
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if kind in ("FluxPipeline", "QwenImagePipeline"):
        latents = pipeline._pack_latents(latents, *shape)
    options = {"latents": latents, "guidance_scale": 0.0 if kind == "ZImagePipeline" else 1.0}
    if kind.startswith(("PixArt", "Sana")):
        options |= {"use_resolution_binning": False, "clean_caption": False}
    if stack.family.flow:
        options["sigmas"] = np.linspace(1, 1 / STEPS, STEPS).tolist()
    if not stack.family.flow or kind == "SanaPipeline":
        pipeline.scheduler = stack.scheduler
    options |= {"height": height, "width": width, "num_inference_steps": STEPS, "output_type": "pt"}
    # A list of their own: Z-Image's pipeline writes into it.
    return 2 * pipeline(prompt=list(CAPTIONS), **options).images - 1


def test_a_caption_is_read_as_if_it_were_alone_in_its_batch(folder):
    """Captions of two lengths: what fills up the shorter one changes nothing."""
    stack = load(arch(folder), folder, {}, None, 4)
    captions, side = ["a", "a long tale of cats on mats"], 16 * stack.family.multiple(stack.denoiser.model.config)
    noisy, timesteps = torch.randn(2, stack.codec.channels, side, side), torch.tensor([300.0, 700.0])
    with torch.no_grad():
        together = stack.denoiser(noisy, timesteps, *stack.text(captions))
        for index, caption in enumerate(captions):
            one = slice(index, index + 1)
            alone = stack.denoiser(noisy[one], timesteps[one], *stack.text([caption]))
            torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)
        again = stack.denoiser(noisy, timesteps, *stack.text(captions[::-1]))
    assert (again - together).abs().max() > 1e-6, "captions should matter at all"


@pytest.mark.parametrize("kind", [k for k in TINY if k in ("sd3", "sana", "flux2", "qwen-image", "z-image")])
def test_a_folder_in_bfloat16_as_they_are_published_is_trained_in_float32(tmp_path, kind):
    pipeline = TINY[kind]()
    for part in ("text_encoder", "transformer", "vae"):
        getattr(pipeline, part).to(torch.bfloat16)
    pipeline.save_pretrained(tmp_path / "model")
    stack = load("dit", tmp_path / "model", {}, None, 4)
    latents = stack.codec.encode(torch.rand(2, 3, 64, 64))
    prediction = stack.denoiser(latents, torch.tensor([300.0, 700.0]), *stack.text(CAPTIONS))
    assert prediction.dtype == latents.dtype == torch.float32
    assert torch.isfinite(prediction).all()


def test_latents_are_what_the_vae_gives_in_the_pipeline_s_units(folder, monkeypatch):
    """Encoded and decoded, the VAE gets back what it gave; the pipeline's own decoding is held by what it draws."""
    codec = load(arch(folder), folder, {}, None, 4).codec
    images, inner = torch.rand(2, 3, 64, 96) * 2 - 1, {}
    given, decode = codec.vae.encode(frames(codec, images)), codec.vae.decode
    monkeypatch.setattr(codec.vae, "decode", lambda latents: inner.update(latents=latents) or decode(latents))
    latents = codec.encode(images)
    assert latents.shape == (2, codec.channels, 64 // codec.factor, 96 // codec.factor)
    codec.decode(latents)
    expected = given.latent if hasattr(given, "latent") else given.latent_dist.mode()
    torch.testing.assert_close(inner["latents"], expected)


def frames(codec, images: Tensor) -> Tensor:
    return images.unsqueeze(2) if type(codec.vae).__name__ == "AutoencoderKLQwenImage" else images


def test_the_sampler_follows_the_target_of_training_to_the_latents(folder, monkeypatch):
    """A network that always answers with the target of a slice ends at the slice: sign, scale and levels agree."""
    stack = load(arch(folder), folder, {}, None, 4)
    if not stack.family.flow:
        return
    latents = torch.randn(2, stack.codec.channels, 96 // stack.codec.factor, 64 // stack.codec.factor)
    noised = make_objective(stack, SgaConfig())(latents, ["macro", "micro"], torch.Generator().manual_seed(0))
    sigma = (noised.timesteps / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(noised.target, (noised.noisy - latents) / sigma)

    def answer(noisy, timesteps, *text):
        return (noisy - latents) / (timesteps / 1000).view(-1, 1, 1, 1)

    monkeypatch.setattr(stack.denoiser, "forward", answer)
    monkeypatch.setattr(stack.codec, "decode", lambda found: found)
    torch.testing.assert_close(sample(stack, CAPTIONS, SIZE, STEPS), latents, rtol=1e-4, atol=1e-4)


def test_a_scheduler_shifts_training_by_resolution_where_it_shifts_sampling(tmp_path):
    """Eq. 31 through the two points of the model's own scheduler; not at all where it is not dynamic."""
    pipeline = flux()
    pipeline.scheduler.register_to_config(max_shift=0.9, max_image_seq_len=8192)
    for dynamic, at_256, at_8192 in ((True, 0.5, 0.9), (False, 0.0, 0.0)):
        pipeline.scheduler.register_to_config(use_dynamic_shifting=dynamic)
        pipeline.save_pretrained(tmp_path / str(dynamic))
        mu = make_objective(load("dit", tmp_path / str(dynamic), {}, None, 4), SgaConfig()).mu
        assert (mu(32, 32), mu(256, 128)) == pytest.approx((at_256, at_8192))


def test_a_scheduler_of_another_kind_gives_its_noise_levels_to_euler_s(tmp_path):
    """Sana's, which draws by DPM-Solver; its last level of a thousand is a thousandth from pure noise."""
    TINY["sana"]().save_pretrained(tmp_path / "model")
    theirs = DiffusionPipeline.from_pretrained(tmp_path / "model").scheduler
    ours = load("dit", tmp_path / "model", {}, None, 4).scheduler
    theirs.set_timesteps(10)
    ours.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    torch.testing.assert_close(ours.sigmas[:-1], theirs.sigmas[:-1].float(), rtol=0, atol=0.005)


@pytest.mark.parametrize("kind", ["flux", "pixart"])
def test_an_adapter_in_diffusers_format_is_the_lycoris_one(options, tmp_path, kind):
    """W' = magnitude (W + B A) / |W + B A|, rows apart: DoRA as PEFT computes it, against LyCORIS' own merge."""
    pipeline = TINY[kind]()
    pipeline.save_pretrained(tmp_path / "model")
    Trainer(replace(options, model=tmp_path / "model", lr=0.05, steps=2, network_alpha=2.0), SgaConfig()).run()
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


@pytest.mark.parametrize(("kind", "side"), [("auraflow", 16), ("sd3", 16)])
def test_a_slice_beyond_a_model_s_positions_is_named(options, tmp_path, kind, side):
    TINY[kind](side=side).save_pretrained(tmp_path / "model")
    with pytest.raises(SgaError, match="this model's positions end at sides of 64"):
        Trainer(replace(options, model=tmp_path / "model"), SgaConfig())


def test_help_names_every_family(capsys):
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in FAMILIES)


def test_the_readme_says_of_every_family_what_it_needs_and_who_loads_its_adapter():
    rows = in_readme()
    assert set(rows) == set(FAMILIES)
    versions = {"0.32.1": 2, NEWEST: 3}
    for name, cells in rows.items():
        since = family_of(name).since
        assert cells[1] == since
        pipeline = getattr(diffusers, name, None)
        if diffusers.__version__ in versions:
            loads = pipeline is not None and hasattr(pipeline, "load_lora_weights")
            old = folders.older(since)
            assert cells[versions[diffusers.__version__]] == ("–" if old else "yes" if loads else "no"), name


def written(folder: Path, index: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": "KandinskyPipeline"}, "is a KandinskyPipeline; --arch dit trains FluxPipeline, .*ZImagePipe"),
        ({"_class_name": "FluxFillPipeline"}, "is a FluxFillPipeline; .*; closest to it is FluxPipeline"),
        ({"_class_name": "StableDiffusionPipeline"}, "is a StableDiffusionPipeline: train it by --arch unet"),
        ({"_class_name": "PixArtAlphaPipeline", "vae": ["diffusers", "AutoencoderKL"]}, "lacks vae, which its model_i"),
        ({"_diffusers_version": "0.32.1"}, "model_index.json names no class of diffusers; download or convert it"),
        ("{", r"model_index.json is damaged \(.*\); download or convert it again"),
    ],
)
def test_a_folder_that_cannot_be_trained_is_one_sentence(options, tmp_path, index, message):
    with pytest.raises(SgaError, match=f"^--model {tmp_path}/model:? .*{message}"):
        make_stack(replace(options, model=written(tmp_path / "model", index)))


def test_a_file_a_part_and_a_damaged_part_are_named_with_what_to_give_instead(options, tmp_path):
    TINY["pixart-512"]().save_pretrained(tmp_path / "model")
    part, file = tmp_path / "model" / "transformer", tmp_path / "pixart.safetensors"
    file.touch()
    weights = next(part.glob("*.safetensors"))
    for model, message in (
        (file, "is a file; give the local folder of a diffusers pipeline"),
        (tmp_path / "absent", "no such folder; give"),
        (tmp_path, "no model_index.json there; give"),
        (part, f"is one part of a pipeline: give the whole, {tmp_path / 'model'}"),
    ):
        with pytest.raises(SgaError, match=f"^--model {model}:? {message}"):
            make_stack(replace(options, model=model))
    for vae, message in (
        (file, "is a file; give the local folder of a diffusers VAE"),
        (tmp_path / "model", f"is a whole pipeline: give its part, {tmp_path / 'model' / 'vae'}"),
        (part, "the VAE is a PixArtTransformer2DModel; known are AutoencoderKL, AutoencoderDC, "),
    ):
        with pytest.raises(SgaError, match=f"^--vae {vae}:? {message}"):
            make_stack(replace(options, vae=vae))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SgaError, match="^--model .* cannot be loaded: .*; download or convert it again"):
        make_stack(replace(options, model=tmp_path / "model"))


@pytest.mark.parametrize(
    ("kind", "since"), [("Flux2Pipeline", "0.37"), ("QwenImagePipeline", "0.37"), ("ZImagePipeline", "0.36")]
)
def test_a_diffusers_too_old_for_a_family_is_named_with_the_one_it_needs(options, tmp_path, monkeypatch, kind, since):
    monkeypatch.setattr(diffusers, "__version__", "0.35.2.dev0")
    sentence = f"--model .*, a {kind}, needs diffusers {since} or newer, and this is 0.35.2.dev0: install one by `pip"
    with pytest.raises(SgaError, match=sentence):
        make_stack(replace(options, model=written(tmp_path / "model", {"_class_name": kind})))
    monkeypatch.setattr(diffusers, "__version__", f"{since}.0.dev0")
    with pytest.raises(SgaError) as now:
        make_stack(replace(options, model=written(tmp_path / "model", {"_class_name": kind})))
    assert "needs diffusers" not in str(now.value)


def test_a_folder_without_text_encoders_is_trained_on_hashed_words_and_says_so(options, tmp_path, caplog):
    flux_without_text().save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING, "sga_kohya"):
        Trainer(replace(options, model=tmp_path / "model", steps=1), SgaConfig()).run()
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("sga_kohya")]
    assert f"{tmp_path / 'model'} has no text encoder: captions become random vectors" in said
    assert "Add text_encoder and text_encoder_2 and tokenizer and tokenizer_2" in said


def test_a_folder_with_some_of_its_text_encoders_is_refused(options, tmp_path):
    parts = flux().components
    parts["text_encoder_2"] = None
    diffusers.FluxPipeline(**parts).save_pretrained(tmp_path / "model")
    with pytest.raises(SgaError, match="some of text_encoder, .* but no text_encoder_2: add what is missing"):
        make_stack(replace(options, model=tmp_path / "model"))


def test_a_vae_of_one_s_own_takes_the_place_of_the_model_s_and_must_fit_it(options, tmp_path):
    """Also where the folder has none: averaged pixels have three channels, and no such model has."""
    own, other = tiny_vae(scaling_factor=0.5), TINY["sana"]().vae
    own.save_pretrained(tmp_path / "own")
    other.save_pretrained(tmp_path / "other")
    for kind in ("flux", "pixart-512"):
        TINY[kind]().save_pretrained(tmp_path / kind)
        with pytest.raises(
            SgaError, match="knows latents of 4 channels, and here they have 8: give the VAE .* by --vae"
        ):
            make_stack(replace(options, model=tmp_path / kind, vae=tmp_path / "other"))
        for absent_too in (False, True):
            if absent_too:
                index = json.loads((tmp_path / kind / "model_index.json").read_text())
                written(tmp_path / kind, {**index, "vae": [None, None]})
            stack = make_stack(replace(options, model=tmp_path / kind, vae=tmp_path / "own"))
            assert stack.codec.vae.config.scaling_factor == 0.5
        with pytest.raises(SgaError, match="latents of 4 channels, and here they have 3: give the VAE .* by --vae"):
            make_stack(replace(options, model=tmp_path / kind))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--prediction=epsilon"],
            "--prediction epsilon is for a model with a noise schedule, and --arch dit learns the",
        ),
        (
            ["--zero_terminal_snr", "--model=FLUX"],
            "--zero_terminal_snr is for a model with a noise schedule, and --mod",
        ),
        (["--network_dim=8"], "--network_dim is of an adapter on a --model, and here is none: leave it out"),
        (
            ["--width=64", "--depth=2", "--model=FLUX"],
            "--width is of a model from scratch, and --model has its own; --d",
        ),
        (["--pool=8", "--model=FLUX"], "--pool averages pixels where there is no VAE, and this run has one: leave it"),
        (
            ["--sga_timestep_shift=macro:1", "--model=PIXART"],
            "--sga_timestep_shift moves a flow's noise levels; this m",
        ),
        (
            ["--sga_snr_gamma=macro:1,meso:2"],
            "--sga_snr_gamma weighs a noise schedule's loss; this flow takes --sga_ti",
        ),
        (
            ["--sga_stop_at_hours=1"],
            "--sga_stop_at_hours is for sd-scripts and musubi-tuner, not for this trainer: lea",
        ),
        (
            ["--path=shell", "--sga_path=spherical-slerp"],
            "--path shell and --sga_path spherical-slerp disagree: give o",
        ),
    ],
)
def test_an_option_that_a_run_would_pass_over_is_an_error(options, tmp_path, arguments, message, capsys):
    for word, kind in (("FLUX", "FluxPipeline"), ("PIXART", "PixArtAlphaPipeline")):
        written(tmp_path / word, {"_class_name": kind, "vae": ["diffusers", "AutoencoderKL"]})
        arguments = [argument.replace(word, str(tmp_path / word)) for argument in arguments]
    common = ["--dataset_config", str(options.dataset_config), "--out", str(options.out), "--steps=1"]
    assert main([*common, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_with_sga_off_its_own_options_are_passed_over_as_everywhere(options, capsys):
    """So that a baseline is the same command with --sga=false."""
    common = ["--dataset_config", str(options.dataset_config), "--out", str(options.out), "--steps=1", "--pool=8"]
    small = ["--width=32", "--depth=2", "--sga_snr_gamma=macro:1,meso:2"]
    assert main([*common, *small, "--sga=false"]) == 0


def test_a_published_pipeline_is_loaded_in_this_diffusers_own_words(tmp_path, recwarn):
    TINY["flux"]().save_pretrained(tmp_path)
    load("dit", tmp_path, {}, None, 4).text(["a word"])
    assert not [str(warning.message) for warning in recwarn if "dtype" in str(warning.message)]


def in_readme() -> dict[str, list[str]]:
    """Pipeline -> the cells of its row."""
    rows = re.findall(r"^\| (`\w+Pipeline`.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    return {name: rest for first, *rest in cells for name in re.findall(r"`(\w+Pipeline)`", first)}


def newest() -> Path | None:
    """A folder with the newest diffusers and its transformers, for another process."""
    places = os.environ.get("SGA_DIFFUSERS"), Path.home() / ".cache" / "sga_kohya" / f"diffusers-{NEWEST}"
    return next((Path(place) for place in places if place and (Path(place) / "diffusers").is_dir()), None)


NEWER = "flux2 or qwen or z-image"
"""Families that this diffusers lacks, in the names of tests."""


@pytest.mark.timeout(900)
@pytest.mark.skipif(diffusers.__version__ == NEWEST, reason="this is the newest")
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(NEWER, id="families that it alone has"),
        # The gradient of the others is of the same code as here.
        pytest.param(
            f"((draws and not sdxl and not pixart-512) or half or readme or published or scheduler) and not ({NEWER})",
            id="the others",
        ),
    ],
)
def test_the_newest_diffusers_passes_these_tests_too(chosen):
    folder = newest()
    if folder is None:
        pytest.skip(
            f"NO diffusers {NEWEST}, so FLUX.2, Qwen-Image and Z-Image are not tested. Put it into a folder of its own "
            "as .ci/run does, and set SGA_DIFFUSERS to that folder"
        )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run([*command, "-k", chosen], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert not re.search(r"\d+ skipped", done.stdout), done.stdout[-2000:]
