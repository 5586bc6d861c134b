"""The diffusers scheduler: exact on the path, at home in a pipeline, kept by save and load."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from sga_kohya.equations.paths import PATHS, as_it_came, project, tokens_of
from sga_kohya.reference.scheduler import PathScheduler
from tests.tiny_pipelines import flux_without_text

EXAMPLE = Path(__file__).parents[1] / "examples" / "spherical_sampling.py"


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 16, 4, 6), (2, 16, 1, 4, 6), (2, 12, 64)])
@pytest.mark.parametrize("path", ["spherical-linear", "spherical-slerp"])
def test_the_true_velocity_leads_to_the_data(shape, path):
    latents, noise, scheduler = gaussian(*shape), gaussian(*shape, seed=1), PathScheduler(path, shift=3.0)
    scheduler.set_timesteps(5)
    x, z, eps = scheduler.prior(noise), tokens_of(latents), tokens_of(noise)
    for number, timestep in enumerate(scheduler.timesteps):
        here = PATHS[path].at(z, eps, scheduler.sigmas[number])
        torch.testing.assert_close(tokens_of(x), here.x, rtol=0, atol=1e-5)
        x = scheduler.step(as_it_came(here.velocity, noise), timestep, x).prev_sample
    torch.testing.assert_close(tokens_of(x), project(z), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", ["spherical-linear", "spherical-slerp"])
def test_what_is_decoded_lies_on_the_sphere_whatever_the_model_predicts(path):
    """On a chord no step ends there by itself, so the last one projects; the ones before do not."""
    scheduler = PathScheduler(path)
    scheduler.set_timesteps(3)
    x = scheduler.prior(gaussian(2, 16, 4, 4))
    norms = []
    for number, timestep in enumerate(scheduler.timesteps):
        x = scheduler.step(3 * gaussian(2, 16, 4, 4, seed=number + 1), timestep, x).prev_sample
        norms.append(x.norm(dim=1))
    torch.testing.assert_close(norms[-1], torch.full_like(norms[-1], 4.0))
    if path == "spherical-linear":
        assert (norms[0] - 4).abs().min() > 1e-3


def test_packing_is_that_of_diffusers():
    from diffusers import FluxPipeline

    latents = gaussian(2, 16, 6, 8)
    packed = FluxPipeline._pack_latents(latents, 2, 16, 6, 8)
    expected = FluxPipeline._pack_latents(project(latents), 2, 16, 6, 8)
    torch.testing.assert_close(PathScheduler().prior(packed), expected)


def test_a_straight_path_is_diffusers_own_euler():
    ours, theirs = PathScheduler("linear", shift=3.0), FlowMatchEulerDiscreteScheduler(shift=3.0)
    x = y = gaussian(1, 4, 4, 4)
    assert torch.equal(ours.prior(x), x)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(4)
    for mine, timestep in zip(ours.timesteps, theirs.timesteps, strict=True):
        assert mine == timestep
        velocity = gaussian(1, 4, 4, 4, seed=int(timestep))
        x, y = (s.step(velocity, timestep, v, return_dict=False)[0] for s, v in ((ours, x), (theirs, y)))
        torch.testing.assert_close(x, y)


def test_config_survives_saving_and_comes_from_a_pipelines_scheduler(tmp_path):
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, max_shift=1.3)
    ours = PathScheduler.from_config(theirs.config, path="spherical-linear")
    ours.save_pretrained(tmp_path)
    again = PathScheduler.from_pretrained(tmp_path)
    for name in ("path", "shift", "use_dynamic_shifting", "max_shift"):
        assert again.config[name] == ours.config[name]
    assert (again.config.path, again.config.max_shift) == ("spherical-linear", 1.3)
    assert again.path == PATHS["spherical-linear"]


def test_in_a_flux_pipeline():
    """The real FluxPipeline on a tiny transformer: its model sees points of the sphere at every step."""
    pipeline = flux_without_text()
    pipeline.scheduler = PathScheduler.from_config(pipeline.scheduler.config)
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tokens_of(kwargs["hidden_states"])), with_kwargs=True
    )
    noise = gaussian(1, 16, 16)  # 4x4 packed tokens of 4 channels, 32x32 pixels
    text = {"prompt_embeds": gaussian(1, 3, 16), "pooled_prompt_embeds": gaussian(1, 16)}
    result = pipeline(
        **text,
        latents=pipeline.scheduler.prior(noise),
        height=32,
        width=32,
        num_inference_steps=4,
        output_type="latent",
    ).images
    assert len(seen) == 4
    for tokens in [*seen, tokens_of(result)]:
        np.testing.assert_allclose(tokens.norm(dim=1), 2.0, rtol=1e-5)
    assert not torch.allclose(seen[0], seen[-1])


def test_the_example_samples_from_a_saved_pipeline(tmp_path, monkeypatch):
    """examples/spherical_sampling.py from end to end, but for the text encoders, which the tiny pipeline lacks."""
    spec = importlib.util.spec_from_file_location("spherical_sampling", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    pipeline = flux_without_text()
    pipeline.vae.register_to_config(shift_factor=0.0)
    text = (gaussian(1, 3, 16), gaussian(1, 16), torch.zeros(3, 3))
    monkeypatch.setattr(type(pipeline), "encode_prompt", lambda *args, **kwargs: text)
    monkeypatch.setattr(type(pipeline), "from_pretrained", lambda folder, torch_dtype: pipeline)
    out = tmp_path / "image.png"
    words = ["spherical_sampling.py", "folder", "a cat", "--size", "64", "32", "--steps", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    example.main()
    with Image.open(out) as image:
        assert image.size == (64, 32)
    assert isinstance(pipeline.scheduler, PathScheduler)
