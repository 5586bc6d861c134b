"""The probe's measures on cases with a known answer, the decoder's training, and the Fréchet distance."""

import json
import math
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from sga_kohya.equations.paths import project, unit
from sga_kohya.errors import SgaError
from sga_kohya.spherical import check_page, frechet, measures
from sga_kohya.spherical.__main__ import main
from sga_kohya.spherical.adversarial import PatchDiscriminator, adversarial, hinge
from sga_kohya.spherical.autoencoders import DiffusersAutoencoder, load_autoencoder
from sga_kohya.spherical.decoder import DecoderOptions, DecoderTrainer
from sga_kohya.spherical.decoder import run as run_decoder
from sga_kohya.spherical.images import load_square
from sga_kohya.spherical.perceptual import psnr, rmse, ssim

from .pages import HOSTILE, assert_stays_text, taken_apart

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    import skimage

    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    ).save_pretrained(folder)
    return folder


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norms_of_gaussian_and_of_projected_latents():
    z = gaussian(8, 16, 32, 32)
    found = measures.norms(z)
    assert found["norm_cv"] == pytest.approx(1 / math.sqrt(32), rel=0.03)
    assert found["mean_norm_over_sqrt_d"] == pytest.approx(1, abs=0.02)
    assert measures.norms(project(3 * z))["norm_cv"] == pytest.approx(0, abs=1e-5)


def test_curves_along_the_paths():
    """Gaussian against Gaussian: omega is near pi / 2, so the chord's figures are those of spherical.md."""
    curves = measures.along_paths(gaussian(4, 64, 16, 16), torch.Generator().manual_seed(1))
    chord, slerp = curves["spherical-linear"], curves["spherical-slerp"]
    assert np.mean(chord["radial_share"][1:-1]) == pytest.approx(1 - math.pi / 4, abs=0.04)
    assert chord["norm"][10] == pytest.approx(math.cos(math.pi / 4), abs=0.01)
    assert max(slerp["radial_share"]) < 1e-6
    assert slerp["norm"] == pytest.approx([1.0] * 21, abs=1e-5)
    assert max(slerp["off_shell"]) < 1e-3 < 1 < max(chord["off_shell"])
    # the ends of a straight path lie on their shells
    assert curves["linear"]["off_shell"][0] == curves["linear"]["off_shell"][-1] == pytest.approx(0, abs=1e-4)


def by_direction(z):
    return unit(z)[:, :3]


def by_radius(z):
    return z.norm(dim=1, keepdim=True).expand(-1, 3, -1, -1) / 4


def test_component_swap_finds_where_the_picture_is():
    z = gaussian(4, 16, 8, 8) * torch.tensor([0.5, 1.0, 1.5, 2.0]).view(4, 1, 1, 1)
    swap, decodes = measures.component_swap(z, by_direction, {"pixels": rmse})
    assert swap["pixels"]["radius"] < 1e-6
    assert swap["pixels"]["direction"] == pytest.approx(swap["pixels"]["both"])
    assert torch.allclose(decodes[0], by_direction(z))
    swap, _ = measures.component_swap(z, by_radius, {"pixels": rmse})
    assert swap["pixels"]["direction"] < 1e-6
    assert swap["pixels"]["radius"] == pytest.approx(swap["pixels"]["both"])


def test_perturbations_are_matched_by_chord():
    """A decoder that shows the latents themselves moves equally far under both."""
    z = gaussian(2, 3, 8, 8)
    found = measures.perturbation(z, lambda v: v, {"pixels": rmse}, torch.Generator().manual_seed(5))["pixels"]
    assert found["tangent"] == pytest.approx(found["radial"], rel=1e-4)
    assert found["tangent"][0] == pytest.approx(2 * math.sin(0.05) * rmse(z, 0 * z).mean().item(), rel=1e-4)
    only_direction = measures.perturbation(z, by_direction, {"pixels": rmse}, torch.Generator().manual_seed(5))
    assert max(only_direction["pixels"]["radial"]) < 1e-6 < min(only_direction["pixels"]["tangent"])


@pytest.mark.parametrize(
    ("radius", "cv", "expected"),
    [
        (0.1, 0.2, "suited"),
        (0.1, 0.5, "doubtful"),
        (0.5, 0.2, "doubtful"),
        (0.9, 0.2, "unsuited"),
        (0.1, 0.9, "unsuited"),
    ],
)
def test_verdict(radius, cv, expected):
    figures = {"component_swap": {"pixels": {"radius": radius, "direction": 1.0}}, "norms": {"norm_cv": cv}}
    word, why = measures.verdict(figures)
    assert word == expected
    assert f"{radius:.2f} times" in why and f"CV of {cv:.2f}" in why


def test_a_vae_that_gives_no_finite_numbers_is_said_to_and_its_table_has_dashes():
    none = math.nan
    figures = {
        **{"vae": "v", "images": 2, "resolution": 64, "channels": 4, "absent": []},
        "norms": {"norm_cv": none, "gaussian_cv": 0.35, "mean_norm_over_sqrt_d": math.inf},
        "paths": {"linear": {"radial_share": [none, 0.1], "off_shell": [none, none]}},
        "component_swap": {"pixels": {"radius": none, "direction": none, "both": none}},
        "projection_cost": {"pixels": {"latents": none, "projected": none}},
    }
    word, why = measures.verdict(figures)
    assert word == "unsuited" and "not finite, so nothing can be measured" in why
    text = check_page.table({**figures, "verdict": word, "why": why})
    assert re.search(r"\b(nan|inf)\b", text) is None and text.count("–") == 10


def test_probe_as_its_user_sees_it(vae, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)  # as if it were not installed
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = [str(vae), str(photos), str(tmp_path / "out"), "--resolution", "64", "--dino", "nowhere"]
    assert main(["probe", *arguments]) == 0
    printed = capsys.readouterr().out
    assert (
        "norm CV" in printed
        and "swapped, distance to the anchor" in printed
        and "without LPIPS: LPIPS needs the package" in printed
    )
    figures = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert figures["channels"] == 4 and figures["images"] == 4 and figures["distances"] == ["pixels"]
    page = (tmp_path / "out" / "probe.html").read_text()
    assert figures["why"] in page and page.count("data:image/png;base64,") == 2
    assert not list((tmp_path / "out").glob("*.part"))


def test_names_stay_text_in_the_probe_s_page(tmp_path):
    curves = {"radial_share": [0.5, 0.1], "norm": [1.0, 0.9], "off_shell": [0.1, 0.2]}
    figures = {
        "images": 2,
        "resolution": 64,
        "channels": 4,
        "norms": {"norm_cv": 0.2, "gaussian_cv": 0.1, "mean_norm_over_sqrt_d": 1.0},
        "paths": {"linear": curves},
        "sigmas": [0.0, 1.0],
        "component_swap": {"pixels": {"radius": 0.1, "direction": 0.2, "both": 0.3}},
        "perturbation": {"pixels": {"tangent": [0.1], "radial": [0.2]}},
        "angles": [0.1],
        "projection_cost": {"pixels": {"latents": 0.1, "projected": 0.2}},
        "verdict": "suited",
    }
    Image.new("RGB", (8, 8)).save(tmp_path / "swap.png")
    pages = []
    for words in (HOSTILE, "harmless"):
        check_page.write_report({**figures, "vae": words, "why": words, "absent": [words]}, tmp_path)
        pages.append((tmp_path / "probe.html").read_text(encoding="utf-8"))
    assert_stays_text(*pages)
    assert sum(part.count(HOSTILE) for part in taken_apart(pages[0]).words) == 5


def test_latents_are_normalised_means_and_come_back(vae, photos):
    autoencoder = load_autoencoder(vae, None)
    images = torch.stack([load_square(path, 32) for path in sorted(photos.iterdir())])
    with torch.no_grad():
        latents, inner = autoencoder.encode(images), autoencoder.vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(latents, 0.5 * (inner - 0.1))
        torch.testing.assert_close(autoencoder.decode(latents), autoencoder.vae.decode(inner).sample)
    assert (autoencoder.channels, autoencoder.factor) == (4, 2)


def decoder_options(vae, photos, out, **changes):
    options = {"resolution": 32, "batch_size": 2, "perceptual": "none", "workers": 0, "lr": 1e-3, "steps": 4}
    return DecoderOptions(vae, photos, out, **{**options, **changes})


def test_resumed_decoder_equals_an_uninterrupted_one_and_its_encoder_is_untouched(vae, photos, tmp_path):
    run_decoder(decoder_options(vae, photos, tmp_path / "whole", steps=5))

    class Crash(Exception):
        pass

    broken = decoder_options(vae, photos, tmp_path / "broken", steps=5, save_every=2)
    trainer, taken = DecoderTrainer(broken), []
    step = trainer.step

    def crash_in_the_fourth(*arguments):
        if len(taken) == 3:
            raise Crash
        taken.append(1)
        return step(*arguments)

    trainer.step = crash_in_the_fourth
    with pytest.raises(Crash):
        trainer.run()
    run_decoder(replace(broken, resume=True))
    name = "vae/diffusion_pytorch_model.safetensors"
    whole, resumed = (load_file(tmp_path / folder / name) for folder in ("whole", "broken"))
    before = load_file(vae / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    changed = {key for key in whole if not torch.equal(whole[key], before[key])}
    assert changed and all(key.startswith(("decoder.", "post_quant_conv.")) for key in changed)
    assert len([key for key in whole if key.startswith("decoder.")]) == len(
        [key for key in changed if key.startswith("decoder.")]
    )


def test_decoder_learns_the_sphere_and_the_trainer_takes_it(vae, photos, tmp_path, capsys):
    arguments = [str(vae), str(photos), str(tmp_path / "out"), "--resolution=32", "--batch_size=4", "--workers=0"]
    assert main(["decoder", *arguments, "--steps=40", "--lr=3e-3", "--perceptual=none", "--adversarial=0"]) == 0
    assert "stock decoder, projected latents" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "decoder.json").read_text())["reconstruction"]
    assert report["after 40 steps, projected latents"]["PSNR"] > report["stock decoder, projected latents"]["PSNR"] + 2
    with safe_open(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.metadata()["sga_decoder"] == "spherical"
    from sga_kohya.reference.latents import load_vae

    codec, tuned = load_vae(tmp_path / "out" / "vae"), load_autoencoder(tmp_path / "out" / "vae", None)
    latents = project(gaussian(1, 4, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(latents), tuned.decode(latents).clamp(-1, 1))


def test_every_term_of_the_loss_reaches_the_decoder_and_the_discriminator_learns(vae, photos, tmp_path, monkeypatch):
    class Perceptual(torch.nn.Module):
        def forward(self, images, photos):
            return (images - photos).square().mean(dim=(1, 2, 3))

    stub = types.SimpleNamespace(LPIPS=lambda net, verbose: Perceptual())
    monkeypatch.setitem(sys.modules, "lpips", stub)
    moved = {}
    for name, changes in {
        "L1": {"adversarial": 0.0},
        "LPIPS": {"adversarial": 0.0, "perceptual": "lpips"},
        "adversarial": {"adversarial": 0.5},
    }.items():
        trainer = DecoderTrainer(decoder_options(vae, photos, tmp_path / name, **changes))
        judge = [p.clone() for p in trainer.discriminator.parameters()]
        model, discriminator, *optimizers = trainer.accelerator.prepare(
            trainer.autoencoder, trainer.discriminator, *trainer.optimizers
        )
        losses = trainer.step(model, discriminator, optimizers, trainer.held[:1].repeat(2, 1, 1, 1))
        assert set(losses) == {"L1"} | ({"LPIPS"} if name == "LPIPS" else set()) | (
            {"adversarial", "discriminator"} if name == "adversarial" else set()
        )
        moved[name] = torch.cat([p.detach().flatten() for p in trainer.decoding.parameters()])
        learned = any(not torch.equal(a, b) for a, b in zip(judge, trainer.discriminator.parameters(), strict=True))
        assert learned == (name == "adversarial")
    assert not torch.equal(moved["L1"], moved["LPIPS"]) and not torch.equal(moved["L1"], moved["adversarial"])


@pytest.mark.parametrize("spherical", [True, False])
def test_the_decoder_is_shown_what_a_spherical_model_samples(vae, photos, tmp_path, spherical):
    options = decoder_options(vae, photos, tmp_path / "out", spherical=spherical, adversarial=0.0)
    trainer = DecoderTrainer(options)
    shown = []
    trainer.autoencoder.register_forward_pre_hook(lambda module, args: shown.append(args[0].clone()))
    trainer.step(trainer.autoencoder, trainer.discriminator, trainer.optimizers, trainer.held[:1])
    with torch.no_grad():
        latents = trainer.autoencoder.encode(trainer.held[:1])
    torch.testing.assert_close(shown[-1], project(latents) if spherical else latents)
    assert not torch.allclose(project(latents), latents, rtol=0.01)


def test_the_adversarial_term_moves_the_decoder_towards_higher_scores():
    scores = torch.tensor([3.0, -1.0], requires_grad=True)
    loss = adversarial(scores)
    loss.backward()
    assert loss.item() == -1 and (scores.grad < 0).all()  # a descending step raises them


def test_discriminator_scores_patches_and_hinge_saturates():
    assert PatchDiscriminator()(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    assert hinge(torch.tensor(2.0), torch.tensor(-3.0)) == 0
    assert hinge(torch.tensor(0.0), torch.tensor(0.0)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "none", "{photos}", "{out}"], "no such file or folder"),
        (["probe", "{photos}/coffee.png", "{photos}", "{out}"], "say by --kind"),
        (["probe", "{vae}", "{out}", "{out}"], "no images there"),
        (["probe", "{vae}", "{photos}", "{out}", "--resolution=63"], "multiple of 2"),
        (["decoder", "{vae}", "{photos}", "{out}", "--steps=1", "--resume"], "no checkpoint"),
        (["ablation", "{out}", "--samples=100"], "more than 128"),
        (["ablation", "{out}", "--images={photos}"], "two or more folders"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(vae, photos, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = {"vae": vae, "photos": photos, "out": tmp_path / "out"}
    assert main([word.format(**names) for word in arguments] + (["--dino=no"] if arguments[0] == "probe" else [])) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("sga_kohya.spherical: error:")


def test_a_decoder_run_is_not_overwritten_nor_resumed_with_other_settings(vae, photos, tmp_path):
    options = decoder_options(vae, photos, tmp_path / "out", steps=1)
    run_decoder(options)
    with pytest.raises(SgaError, match="already holds a run"):
        DecoderTrainer(options)
    with pytest.raises(SgaError, match="seed was 0, now 1"):
        DecoderTrainer(replace(options, resume=True, seed=1))


def test_a_decoder_run_cut_off_after_its_last_step_is_finished_by_resuming(vae, photos, tmp_path):
    options = decoder_options(vae, photos, tmp_path / "out", steps=2)
    run_decoder(options)
    whole = load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")
    shutil.rmtree(tmp_path / "out" / "vae")
    run_decoder(replace(options, resume=True))
    again = load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    with pytest.raises(SgaError, match="at step 2 already"):
        DecoderTrainer(replace(options, resume=True, steps=1))


def test_a_saved_folder_says_the_scale_that_its_decoder_was_trained_for(vae, tmp_path):
    """sd-scripts reads an SDXL file into a model whose own config has the scale of SD 1.5."""
    autoencoder = DiffusersAutoencoder(AutoencoderKL.from_pretrained(vae), 0.13025, 0.0)
    latents = gaussian(1, 4, 4, 4)
    saved = load_autoencoder(autoencoder.save(tmp_path, {}), None)
    with torch.no_grad():
        torch.testing.assert_close(saved.decode(latents), autoencoder.decode(latents))
        torch.testing.assert_close(saved.decode(latents), autoencoder.vae.decode(latents / 0.13025).sample)


def test_ssim_and_psnr_are_those_of_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a = gaussian(1, 3, 48, 48).mul(0.3).clamp(-1, 1)
    b = (a + 0.1 * gaussian(1, 3, 48, 48, seed=1)).clamp(-1, 1)
    left, right = (((v[0] + 1) / 2).permute(1, 2, 0).double().numpy() for v in (a, b))
    assert psnr(a, b).item() == pytest.approx(peak_signal_noise_ratio(left, right, data_range=1), rel=1e-4)
    theirs, full = structural_similarity(
        left,
        right,
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim(a, b).item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=2e-3)


def test_frechet_distance_of_known_gaussians():
    spread = np.diag([1.0, 4.0])
    shifted = (np.array([3.0, 4.0]), spread)
    assert frechet.frechet_distance((np.zeros(2), spread), shifted) == pytest.approx(25)
    # commuting covariances: the sum of squared differences of standard deviations
    assert frechet.frechet_distance((np.zeros(2), spread), (np.zeros(2), 4 * spread)) == pytest.approx(1 + 4)


def test_frechet_distance_grows_with_what_is_done_to_images():
    network = frechet.feature_network()
    images = torch.tanh(gaussian(400, 3, 32, 32))
    truth = frechet.statistics(images[:200], network)
    distances = [
        frechet.frechet_distance(frechet.statistics(version, network), truth)
        for version in (images[200:], 0.8 * images[200:], 0.3 * images[200:])
    ]
    assert distances[0] < distances[1] < distances[2]
    same = frechet.statistics(images[:200], frechet.feature_network())
    assert frechet.frechet_distance(same, truth) == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="too few"):
        frechet.statistics(images[:100], network)


def test_ablation_ends_in_a_table_and_goes_on_where_it_was(photos, tmp_path, monkeypatch):
    from sga_kohya.spherical import ablation

    monkeypatch.setattr(ablation, "SAMPLER_STEPS", 1)
    for name in ("cat", "coffee"):
        (tmp_path / "images" / name).mkdir(parents=True)
    shutil.copy(photos / "chelsea.png", tmp_path / "images" / "cat")
    shutil.copy(photos / "coffee.png", tmp_path / "images" / "coffee")
    options = ablation.AblationOptions(
        tmp_path / "out", images=tmp_path / "images", seeds=1, steps=1, tokenizer_steps=1, samples=130, width=32
    )
    text = ablation.run(options)
    for path in ("linear", "shell", "spherical-linear", "spherical-slerp"):
        assert any(line.startswith(f"{path} ") for line in text.splitlines())
    assert "2 classes of 32x32 crops" in text and "needs 2 seeds" in text
    assert (tmp_path / "out" / "table.txt").read_text().strip() == text
    metadata = tmp_path / "out" / "runs" / "shell-0" / "model" / "diffusion_pytorch_model.safetensors"
    with safe_open(metadata, "pt") as file:
        assert file.metadata()["ss_sga_path"] == "shell"

    def not_again(*arguments):
        raise AssertionError("what is done must not be done again")

    monkeypatch.setattr(ablation, "Trainer", not_again)
    monkeypatch.setattr(ablation.decoder, "run", not_again)
    assert ablation.run(options) == text
    with pytest.raises(SgaError, match="width was 32, now 64"):
        ablation.run(replace(options, width=64))


def test_intervals_are_students():
    from sga_kohya.spherical.ablation import _interval

    assert _interval([1.0, 2.0, 3.0]) == "-0.484 to 4.484"  # 2 plus and minus 4.303 / sqrt(3)
    assert _interval([1.0]) == "needs 2 seeds"
