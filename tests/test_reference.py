"""The reference trainer: its gradient is Eq. 6 and that of the seams, it resumes exactly, and it learns."""

import json
import os
import resource
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sga_kohya.config import SgaConfig
from sga_kohya.equations.paths import PATHS
from sga_kohya.equations.timesteps import resolution_mu
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.checkout import find_checkout
from sga_kohya.reference.__main__ import main
from sga_kohya.reference.data import SliceDataset
from sga_kohya.reference.models import make_stack
from sga_kohya.reference.objectives import Diffusion, FlowMatching, slice_losses
from sga_kohya.reference.options import RunOptions
from sga_kohya.reference.precision import chosen
from sga_kohya.reference.trainer import Trainer, make_objective
from tests.forked import python
from tests.reference_world import assert_gradient_is_eq_6, cut_photos, gradients


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return cut_photos(tmp_path_factory.mktemp("cut"))


@pytest.fixture
def options(dataset, tmp_path):
    return RunOptions(dataset, tmp_path / "run", steps=4, width=32, depth=2, pool=8)


def checkpoint(folder: Path) -> tuple[dict, dict]:
    """Weights and the optimizer's state."""
    return load_file(folder / "diffusion_pytorch_model.safetensors"), torch.load(folder / "optimizer.pt")["state"]


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
        noised = FlowMatching(table, resolution_mu)(latents, labels, torch.Generator().manual_seed(3))
        z = torch.randn(16, generator=torch.Generator().manual_seed(3))
        delta = torch.tensor([table.get(label or "", 0.0) for label in labels])
        torch.testing.assert_close(noised.timesteps, 1000 * torch.sigmoid(z + delta + mu), rtol=1e-4, atol=1e-2)
        plain = FlowMatching(table)(latents, labels, torch.Generator().manual_seed(3))
        torch.testing.assert_close(plain.timesteps, 1000 * torch.sigmoid(z + delta), rtol=1e-4, atol=1e-2)


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
        (["--steps=1", "--model=none"], "--model none: no such folder; give the local folder of a diffusers pipeline"),
        (["--steps=1", "--pool=48"], "multiples of 96"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(options, arguments, message, capsys):
    assert main(["--dataset_config", str(options.dataset_config), "--out", str(options.out), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize("word", ["--lr=nan", "--network_alpha=-1", "--save_every=-5", "--sample_every=half"])
def test_a_number_that_makes_no_sense_is_refused_before_anything_starts(options, word, capsys):
    arguments = ["--dataset_config", str(options.dataset_config), "--out", str(options.out), "--steps=1", word]
    assert main(arguments) == 2
    assert f"argument {word.partition('=')[0]}: " in capsys.readouterr().err
    assert not options.out.exists()


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


def test_a_checkpoint_from_before_mixed_precision_is_resumed_in_float32(options):
    Trainer(replace(options, steps=1), SgaConfig()).run()
    file = options.out / "checkpoints" / "step-00000001" / "run.json"
    said = json.loads(file.read_text())
    assert said.pop("mixed_precision") == "no"
    file.write_text(json.dumps(said))
    Trainer(replace(options, resume="latest"), SgaConfig())


def test_a_model_from_scratch_computes_in_bfloat16_on_weights_in_float32(options):
    trainer = Trainer(replace(options, steps=1, mixed_precision="bf16"), SgaConfig())
    seen = []
    trainer.stack.denoiser.model.x_embedder.register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    weights = load_file(options.out / "model" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("asked", "launched", "device", "generation", "expected"),
    [
        (None, None, "cpu", 9, "no"),
        (None, None, "cuda", 8, "bf16"),
        (None, "no", "cuda", 8, "bf16"),  # what `accelerate launch` says where nobody chose
        (None, None, "cuda", 7, "no"),
        (None, "bf16", "cpu", 7, "bf16"),
        ("no", "bf16", "cuda", 8, "no"),
        ("bf16", "fp16", "cpu", 7, "bf16"),
    ],
)
def test_frozen_weights_are_bfloat16_on_a_card_that_has_it_unless_told_otherwise(
    monkeypatch, asked, launched, device, generation, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert chosen(asked, torch.device(device)) == expected


def test_a_type_that_accelerate_was_told_and_that_this_trainer_has_not_is_an_error(options, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(SgaError, match="told --mixed_precision fp16, and this .*: give it --mixed_precision bf"):
        Trainer(options, SgaConfig())
    assert not options.out.exists()


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
    command = [*python(), str(Path(__file__).with_name("reference_through_seams.py")), json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    through_seams = torch.load(tmp_path / "gradients.pt")
    assert any(g.abs().max() > 1e-3 for g in expected)
    torch.testing.assert_close(through_seams, expected, rtol=1e-4, atol=1e-6)


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
    noised = FlowMatching({})(latents, ["macro"] * 4, generator)
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


def copied(dataset: Path, folder: Path, **more: object) -> Path:
    """The data set in another folder. more: keys of its first subset."""
    slices = shutil.copytree(dataset.parent, folder / "slices")
    said = dataset.read_text().replace(str(dataset.parent), str(slices))
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
    (slices / "dataset.toml").write_text(said.replace("[[datasets.subsets]]\n", f"[[datasets.subsets]]\n{lines}", 1))
    return slices / "dataset.toml"


def test_what_a_toml_asks_for_and_this_trainer_has_not_is_an_error(dataset, tmp_path):
    """Slices and captions are the same in every epoch here, so flips and dropout would be passed over."""
    toml = copied(dataset, tmp_path, flip_aug=True, caption_dropout_rate=0.1, shuffle_caption=False)
    with pytest.raises(SgaError, match="flip_aug, caption_dropout_rate .* in sd-scripts, .*: leave them out of a copy"):
        SliceDataset(toml, SgaConfig())


def test_a_picture_that_is_cut_off_is_named_before_the_first_step(options, dataset, tmp_path):
    toml = copied(dataset, tmp_path)
    picture = next((toml.parent / "1_macro").glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:2000])
    with pytest.raises(SgaError, match=f"{picture}: not a readable image .*; remove it or make it again"):
        Trainer(replace(options, dataset_config=toml), SgaConfig())


@pytest.mark.parametrize(
    ("key", "value"), [("num_repeats", "x"), ("num_repeats", 0), ("image_dir", 3), ("custom_attributes", "macro")]
)
def test_a_value_of_another_kind_in_the_toml_is_one_sentence(tmp_path, key, value):
    toml = tmp_path / "dataset.toml"
    toml.write_text(f"[[datasets]]\n[[datasets.subsets]]\n{key} = {json.dumps(value)}\n")
    with pytest.raises(SgaError, match=rf"dataset.toml: \[\[datasets.subsets\]\]: {key} = {value!r}: "):
        SliceDataset(toml, SgaConfig())


def test_a_disk_that_is_full_is_one_sentence_with_the_remedy_and_leaves_no_half_checkpoint(options):
    trainer = Trainer(options, SgaConfig())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SgaError, match=f"{options.out}: what is trained cannot be saved .*make room"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((options.out / "checkpoints").iterdir())
