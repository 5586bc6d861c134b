"""The path without a host: which target the loss takes, and the sampler that walks inside a host's Euler loop."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sga_kohya.config import SgaConfig
from sga_kohya.equations.paths import PATHS, project, tangent
from sga_kohya.equations.timesteps import shift_logit
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts import loss
from sga_kohya.hosts.sd_scripts import noise as noise_seam
from sga_kohya.hosts.sd_scripts import sampler as sampler_seam
from sga_kohya.hosts.sd_scripts.families import check_path
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import SubBatch

SLERP = PATHS["spherical-slerp"]
ARGS = argparse.Namespace(min_timestep=None, max_timestep=None)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mse(model_pred, target, loss_type, reduction, huber_c=None):
    return (model_pred - target).square()


def flux(args, noise_scheduler, latents, noise, device, dtype):
    sigmas = torch.tensor([0.3, 0.8]).view(-1, 1, 1, 1)
    return ((1 - sigmas) * latents + sigmas * noise).to(dtype), sigmas.flatten() * 1000, sigmas


def sd3(args, latents, noise, device, dtype):
    """As the host, which casts only the noise level."""
    return flux(args, None, latents, noise, device, torch.promote_types(dtype, noise.dtype))


FAMILIES = {  # timestep function, its replacement, sign of the model's velocity
    "flux": (flux, noise_seam._replace_flux, 1),
    "lumina": (flux, noise_seam._replace_lumina, -1),
    "sd3": (sd3, noise_seam._replace_sd3, 1),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["shell", "spherical-linear", "spherical-slerp"])
def test_each_familys_loss_compares_the_paths_velocity(family, mode):
    function, replace, sign = FAMILIES[family]
    session, path = Session(SgaConfig(path=mode, modulation=False)), PATHS[mode]
    latents, noise, raw = (gaussian(2, 16, 4, 4, seed=i) for i in range(3))
    scheduler = [] if family == "sd3" else [None]
    noisy, _, sigmas = replace(function, session)(ARGS, *scheduler, latents, noise, "cpu", torch.bfloat16)
    x, velocity = path.at(latents, noise, torch.tensor([0.3, 0.8]))
    assert torch.equal(noisy, x if family == "sd3" else x.bfloat16())
    raw.requires_grad_()
    if family == "sd3":  # what its trainers do
        prediction, target = raw * (-sigmas) + noisy, latents
    else:
        prediction, target = raw, sign * (noise - latents)
    found = loss._replace_loss(mse, session)(prediction.float(), target.float(), "l2", "none", None)
    expected = (path.velocity(sign * raw, x) - velocity).square()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), raw)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), raw)[0], rtol=1e-4, atol=1e-4)
    assert session.fired == set(), "validation is on the path, too, and is no training step"
    assert session.batch is None, "a loss without a batch of its own must stay as it is"
    assert torch.equal(loss._replace_loss(mse, session)(raw, target, "l2", "none"), mse(raw, target, "l2", "none"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_of_the_hosts_own_making_stays(family):
    """Differential output preservation writes the prediction of the model without its network over the target."""
    function, replace, sign = FAMILIES[family]
    session = Session(SgaConfig(path="spherical-slerp"))
    latents, noise, raw, prior = (gaussian(2, 16, 4, 4, seed=i) for i in range(4))
    scheduler = [] if family == "sd3" else [None]
    noisy, _, sigmas = replace(function, session)(ARGS, *scheduler, latents, noise, "cpu", torch.float32)
    x = session.batch.x.clone()
    velocity = session.batch.velocity.clone()
    target = latents if family == "sd3" else sign * (noise - latents)
    target[1] = (prior * -sigmas + noisy)[1] if family == "sd3" else prior[1]  # in place, as the host does
    prediction = raw * -sigmas + noisy if family == "sd3" else raw
    found = loss._replace_loss(mse, session)(prediction, target, "l2", "none")
    torch.testing.assert_close(found[0], (tangent(raw, x)[0] - sign * velocity[0]).square(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], tangent(raw - prior, x)[1].square(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_opposite_its_latents_is_drawn_anew(family):
    """There the geodesic is not unique: the training path must leave the token's own noise, and only its."""
    function, replace, _ = FAMILIES[family]
    latents, noise = gaussian(2, 16, 4, 4), gaussian(2, 16, 4, 4, seed=1)
    noise[1, :, 2, 3] = -3 * latents[1, :, 2, 3]
    scheduler = [] if family == "sd3" else [None]
    torch.manual_seed(4)
    session = Session(SgaConfig(path="spherical-slerp"))
    replace(function, session)(ARGS, *scheduler, latents, noise, "cpu", torch.float32)
    kept = SLERP.at(latents, noise, torch.tensor([0.3, 0.8]))
    other = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    other[1, :, 2, 3] = False
    found = session.batch
    torch.testing.assert_close(found.x.where(other, 0 * found.x), kept.x.where(other, 0 * kept.x))
    omega = found.velocity[1, :, 2, 3].norm() / 4
    assert omega < torch.pi - 1e-3 and not torch.allclose(found.x[1, :, 2, 3], kept.x[1, :, 2, 3])


def test_the_returned_noisy_latents_may_ask_for_gradients():
    session = Session(SgaConfig(path="spherical-slerp"))
    noisy, *_ = noise_seam._replace_flux(flux, session)(
        ARGS, None, gaussian(2, 16, 4, 4), gaussian(2, 16, 4, 4, seed=1), "cpu", torch.float32
    )
    noisy.requires_grad_(True)
    assert not session.batch.x.requires_grad


def test_the_path_is_evaluated_where_modulation_moved_sigma():
    session = Session(SgaConfig(path="spherical-slerp", timestep_shift={"macro": 0.5}))
    session.accelerator = SimpleNamespace(current=SubBatch(0, (), ("macro", "macro")))
    latents, noise = gaussian(2, 16, 4, 4), gaussian(2, 16, 4, 4, seed=1)
    scheduler = SimpleNamespace(config=SimpleNamespace(num_train_timesteps=1000))
    drawn = noise_seam._replace_flux(flux, session)(ARGS, scheduler, latents, noise, "cpu", torch.float32)
    noisy, timesteps, sigmas = drawn
    expected = shift_logit(torch.tensor([0.3, 0.8]), 0.5)
    torch.testing.assert_close(timesteps, 1000 * expected)
    assert torch.equal(noisy, SLERP.at(latents, noise, sigmas).x)
    torch.testing.assert_close(sigmas.flatten(), expected)
    assert session.fired == {"noised"}


class Oracle(nn.Module):
    """Predicts the true velocity of the slerp path from `noise` to `latents` at the time it is given.

    seen: how far each image it was shown lies from that path.
    """

    def __init__(self, latents, noise, packed):
        super().__init__()
        self.latents, self.noise, self.packed, self.off = latents, noise, packed, []

    def forward(self, img, timesteps):
        path = SLERP.at(self.latents.expand(len(img), -1, -1, -1), self.noise.expand(len(img), -1, -1, -1), timesteps)
        self.off.append((img - pack(path.x, self.packed)).abs().max().item())
        return pack(path.velocity, self.packed)


def pack(latents, packed):
    """FLUX's order: (B, C, H, W) to (B, H/2 * W/2, C * 2 * 2)."""
    return nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2) if packed else latents


def euler_loop(model, img, timesteps, guidance=None, twice=False):
    """As the hosts' are: with guidance, by one call of a doubled batch, or by two calls."""
    for now, after in zip(timesteps, timesteps[1:], strict=False):
        if guidance is None:
            prediction = model(img=img, timesteps=torch.full((len(img),), now))
        else:
            if twice:
                first, second = (model(img, torch.full((len(img),), now)) for _ in range(2))
            else:
                doubled = torch.cat([img, img])
                first, second = model(doubled, torch.full((len(doubled),), now)).chunk(2)
            prediction = (0.2 * first + guidance * (second - 0.2 * first)) / (0.2 + 0.8 * guidance)
        img = img + (after - now) * prediction
    return img


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("call", [{}, {"guidance": 3.0}, {"guidance": 3.0, "twice": True}])
def test_a_hosts_euler_loop_arrives_exactly(packed, call):
    latents, noise = gaussian(1, 16, 8, 6), gaussian(1, 16, 8, 6, seed=1)
    session = Session(SgaConfig(path="spherical-slerp"))
    model = Oracle(latents, noise, packed)
    sampler = sampler_seam._replace(euler_loop, session)
    result = sampler(model, pack(noise, packed), [1.0, 0.7, 0.2, 0.0], **call)
    torch.testing.assert_close(result, pack(project(latents), packed), rtol=0, atol=2e-5)
    assert max(model.off) < 2e-5, "the model must be shown points of the path"
    assert not model._forward_pre_hooks
    straight = euler_loop(model, pack(noise, packed), [1.0, 0.7, 0.2, 0.0], **call)
    assert (straight - result).abs().max() > 0.1, "stock sampling would not have arrived there"


def test_the_chord_starts_and_ends_on_the_sphere():
    latents, noise = gaussian(1, 16, 4, 4), gaussian(1, 16, 4, 4, seed=1)

    class Chord(nn.Module):
        def forward(self, img, timesteps):
            return project(noise) - project(latents)

    sampler = sampler_seam._replace(euler_loop, Session(SgaConfig(path="spherical-linear")))
    result = sampler(Chord(), noise, [1.0, 0.5, 0.0])
    torch.testing.assert_close(result, project(latents), rtol=0, atol=1e-5)


def test_a_sampler_that_fails_leaves_no_hook():
    model = nn.Linear(2, 2)

    def broken(model, img):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sampler_seam._replace(broken, Session(SgaConfig(path="spherical-slerp")))(model, torch.zeros(1, 2))
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ({}, {}, "for flow-matching models"),
        ({"weighting_scheme": "none", "model_prediction_type": "additive"}, {}, "set model_prediction_type=raw"),
        ({"weighting_scheme": "none", "ip_noise_gamma": 0.1}, {}, "excludes ip_noise_gamma=0.1"),
        ({"weighting_scheme": "cosmap", "training_shift": 1.0}, {}, "weighting_scheme=cosmap"),
        ({"weighting_scheme": "none"}, {"flow_snr_weight": True}, "sga_flow_snr_weight"),
    ],
)
def test_refusals(arguments, config, message):
    with pytest.raises(SgaError, match=message):
        check_path(SgaConfig(path="spherical-slerp", **config), argparse.Namespace(**arguments))


def test_the_option():
    assert SgaConfig().path == "linear" and "ss_sga_path_note" not in SgaConfig().metadata()
    alone = SgaConfig.from_options({"sga_path": "shell", "sga_tuples": "false", "sga_modulation": False})
    assert alone.active
    assert alone.metadata()["ss_sga_path"] == "shell" and "experimental" in alone.metadata()["ss_sga_path_note"]
    with pytest.raises(SgaError, match="sga_path = 'slerp': write one of linear, shell, spherical-linear, "):
        SgaConfig.from_options({"sga_path": "slerp"})


def test_only_what_the_version_has_is_replaced(tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "flux_train_utils.py").touch()
    checkout = SimpleNamespace(root=tmp_path)
    targets = {s.target for s in sampler_seam.seams("spherical-slerp", checkout)}
    assert targets == {"library.flux_train_utils.denoise"}
    assert not list(sampler_seam.seams("shell", checkout))
