"""Seams on a stub host: replaced at the owner, all or nothing, once, undone exactly; and what each replacement does."""

import argparse
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest
import torch

import sga_kohya
from sga_kohya import SgaConfig, SgaError
from sga_kohya.equations.timesteps import shift_logit
from sga_kohya.hosts.host import HostPackage
from sga_kohya.hosts.sd_scripts import loss as loss_seam
from sga_kohya.hosts.sd_scripts import noise as noise_seam
from sga_kohya.hosts.sd_scripts.checkout import Checkout, find_checkout
from sga_kohya.hosts.sd_scripts.install import install_for
from sga_kohya.hosts.sd_scripts.started import start
from sga_kohya.hosts.seam import Seam, install
from sga_kohya.training.events import Draw, Noised, Run
from sga_kohya.training.session import Session
from sga_kohya.tuples.step import SubBatch

from . import stub_host

SCHEDULER = SimpleNamespace(config=SimpleNamespace(num_train_timesteps=1000))
NAMES = {
    "library.accelerator_setup": ("Accelerator", "prepare_accelerator"),
    "library.train_util": ("prepare_accelerator", "get_sai_model_spec", "split_train_val", "conditional_loss"),
    "library.model_io": ("get_sai_model_spec", "get_sai_model_spec_dataclass"),
    "library.config_util": ("add_config_arguments", "generate_dataset_group_by_blueprint"),
    "library.flux_train_utils": ("get_noisy_model_input_and_timesteps",),
    "library.lumina_train_util": ("get_noisy_model_input_and_timesteps",),
    "library.sd3_train_utils": ("get_noisy_model_input_and_timesteps",),
    "library.loss": ("get_noise_noisy_latents_and_timesteps", "conditional_loss"),
    "library.custom_train_functions": ("apply_snr_weight",),
    "library.by_name": ("sample", "apply_snr_weight"),
}


@pytest.fixture
def checkout(tmp_path):
    with stub_host.importable():
        stub_host.write(tmp_path)
        sys.path.insert(0, str(tmp_path))
        import_module("library.by_name")  # a by-name importer that is loaded before we come
        yield Checkout(tmp_path)
        sga_kohya.uninstall()


def snapshot() -> dict:
    return {(module, name): getattr(import_module(module), name) for module, names in NAMES.items() for name in names}


def test_replaced_at_the_owner_in_the_facade_and_by_name(checkout):
    before = snapshot()
    with install_for(SgaConfig(), checkout):
        inside = snapshot()
        assert all(inside[key] is not before[key] for key in before)
        for module in ("library.accelerator_setup", "library.train_util"):
            assert inside[module, "prepare_accelerator"] is inside["library.train_util", "prepare_accelerator"]
        owner = inside["library.flux_train_utils", "get_noisy_model_input_and_timesteps"]
        assert inside["library.by_name", "sample"] is owner
        assert owner.__wrapped__ is before["library.by_name", "sample"]
        assert import_module("library.train_util").untouched() == "stock"
        assert sys.path[0] == str(checkout.root)
    assert all(value is before[key] for key, value in snapshot().items())


def test_installing_twice_is_once(checkout):
    before = snapshot()
    install_for(SgaConfig(), checkout)
    second = install_for(SgaConfig(), checkout)
    wrapped = snapshot()["library.model_io", "get_sai_model_spec"]
    assert wrapped.__wrapped__ is before["library.model_io", "get_sai_model_spec"]
    second.uninstall()
    second.uninstall()
    assert all(value is before[key] for key, value in snapshot().items())


def test_what_is_imported_meanwhile_is_put_back_too(checkout):
    """A script of the host that a door imports: it takes our function by name, and would keep it."""
    original = import_module("library.by_name").sample
    del sys.modules["library.by_name"]
    with install_for(SgaConfig(), checkout):
        late = import_module("library.by_name")
        assert late.sample.__wrapped__ is original
    assert late.sample is original


@pytest.mark.parametrize(
    ("config", "untouched"),
    [
        (SgaConfig(enabled=False), {"library.train_util", "library.flux_train_utils", "library.accelerator_setup"}),
        (SgaConfig(tuples=False, modulation=False), {"library.train_util", "library.flux_train_utils"}),
        (SgaConfig(modulation=False), {"library.custom_train_functions"}),
    ],
)
def test_what_is_off_is_not_replaced(checkout, config, untouched):
    before = snapshot()
    with install_for(config, checkout):
        inside = snapshot()
        assert all(inside[key] is before[key] for key in before if key[0] in untouched)
        assert inside["library.config_util", "add_config_arguments"].__wrapped__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library__flux_train_utils": "def other(): pass"}, "flux_train_utils.get_noisy.*is missing"),
        (
            {"library__flux_train_utils": "def get_noisy_model_input_and_timesteps(args, latents): pass"},
            r"seam 'noise'.*its parameters are \(args, latents\)",
        ),
        (
            {"library__model_io": "import nowhere", "library__train_util": "import nowhere"},
            "needs the package 'nowhere'",
        ),
        (
            {"library__accelerator_setup": "def prepare_accelerator(args): pass"},
            "library.accelerator_setup does not import Accelerator",
        ),
    ],
)
def test_a_changed_host_is_one_error_and_nothing_is_touched(tmp_path, changes, message):
    with stub_host.importable():
        stub_host.write(tmp_path, library__by_name=None, **changes)
        sys.path.insert(0, str(tmp_path))
        original = import_module("library.config_util").add_config_arguments
        with pytest.raises(SgaError, match=message):
            install_for(SgaConfig(), Checkout(tmp_path))
        assert import_module("library.config_util").add_config_arguments is original


def test_a_replacement_that_fails_undoes_the_others(checkout):
    def explode(original, session):
        raise RuntimeError("no")

    before = snapshot()
    good = Seam("good", "library.model_io.get_sai_model_spec", (), lambda original, session: lambda: None)
    bad = Seam("bad", "library.config_util.add_config_arguments", (), explode)
    with pytest.raises(RuntimeError):
        install([good, bad], Session(SgaConfig()), checkout.package)
    assert all(value is before[key] for key, value in snapshot().items())


@pytest.fixture
def tuner(monkeypatch):
    """An installed host with a class that a second one inherits from, and a facade."""
    modules = {name: ModuleType(name) for name in ("tuner", "tuner.base", "tuner.facade")}
    code = "class Trainer:\n    def loss(self, args):\n        return 'stock'\n\nclass Other(Trainer):\n    pass\n"
    exec(code, vars(modules["tuner.base"]))
    vars(modules["tuner.facade"])["Trainer"] = modules["tuner.base"].Trainer
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["tuner.base"]


INSTALLED = HostPackage("tuner", "tuner", None, "v1", "pip install tuner")


def test_a_method_is_replaced_in_its_class_and_undone(tuner):
    def replace(original, session):
        return lambda self, args: f"ours over {original(self, args)}"

    stock = vars(tuner.Trainer)["loss"]
    with install(
        [Seam("loss", "tuner.facade.Trainer.loss", ("self", "args"), replace)], Session(SgaConfig()), INSTALLED
    ):
        assert tuner.Trainer().loss(None) == tuner.Other().loss(None) == "ours over stock"
    assert vars(tuner.Trainer)["loss"] is stock and "loss" not in vars(tuner.Other)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tuner.base.Other.loss", "tuner.base.Other.loss is expected .*Other has no loss of its own"),
        ("tuner.base.Trainer.gone", "it is missing .*Tested versions are v1"),
        ("tuner.nowhere.f", "it is missing"),
        ("tuner_needs_this.f", "tuner needs the package 'tuner_needs_this', .*: pip install tuner"),
    ],
)
def test_a_target_that_is_not_there_is_named(tuner, target, message):
    with pytest.raises(SgaError, match=message):
        install([Seam("loss", target, (), lambda original, session: original)], Session(SgaConfig()), INSTALLED)


def test_another_package_named_library_is_refused(checkout, tmp_path):
    other = stub_host.write(tmp_path / "other")
    with pytest.raises(SgaError, match="named `library` is loaded from .* instead of"):
        install_for(SgaConfig(), Checkout(other))


def test_the_parser_learns_our_options(checkout):
    parser = argparse.ArgumentParser()
    with install_for(SgaConfig(), checkout):
        import_module("library.config_util").add_config_arguments(parser)
    assert parser.parse_args(["--dataset_config", "x", "--sga_tuples=false"]).sga_tuples == "false"


@pytest.mark.parametrize("enabled", [True, False])
def test_keys_that_the_host_does_not_know_are_said_when_it_reads_them(checkout, tmp_path, capsys, monkeypatch, enabled):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    config, parser = tmp_path / "run.toml", argparse.ArgumentParser()
    config.write_text('[a]\nlearning_rat = 1e-3\nseed = "one"\nother_plugin = 1\nsga_tuples = true\n')
    parser.add_argument("--learning_rate", type=float, default=2e-6)
    parser.add_argument("--seed", type=int)
    with install_for(SgaConfig(enabled=enabled), checkout):
        import_module("library.config_util").add_config_arguments(parser)
        args = argparse.Namespace(config_file=str(config))
        read = import_module("library.train_util").read_config_from_file(args, parser)
    assert read.learning_rate == 2e-6
    begin = f"sga_kohya: warning: --config_file {config}: "
    assert [line.removeprefix(begin) for line in capsys.readouterr().out.splitlines()] == [
        "learning_rat: train.py knows no such key and ignores it; did you mean learning_rate?",
        'seed = "one": write a whole number',
        "other_plugin: train.py knows no such key and ignores it",
    ]


def test_saved_models_say_how_they_were_made(checkout):
    with install_for(SgaConfig(groups_per_step=3), checkout):
        spec = import_module("library.train_util").get_sai_model_spec
        metadata = spec(None, SimpleNamespace(title="t"), False, True, False)
    assert metadata["modelspec.title"] == "t"
    assert metadata["ss_sga_groups_per_step"] == "3"


def test_a_metadata_file_s_cached_latents_do_not_hide_the_image(checkout):
    """From its second run on the host knows such an image by its cache's path only."""

    def info(key):
        cache = f"/data/{key}_0128x0128_flux.npz"
        return SimpleNamespace(absolute_path=cache, image_key=f"{key}.png", is_reg=False, num_repeats=1, bucket_reso=0)

    images = {f"{stem}_{level}.png": info(f"{stem}_{level}") for stem in "ab" for level in ("macro", "micro")}
    subset = SimpleNamespace(custom_attributes={}, image_dir="/data/photos", is_reg=False)
    dataset = SimpleNamespace(
        image_data=images, image_to_subset=dict.fromkeys(images, subset), batch_size=2, seed=0, debug_dataset=False
    )
    with install_for(SgaConfig(), checkout):
        generate = import_module("library.config_util").generate_dataset_group_by_blueprint
        group, _ = generate(stub_host.blueprint(dataset))
    assert group.planner.groups_by_k() == {2: 2}
    assert group.contents().keys() == {f"photos/{key}" for key in images}


def test_a_dataset_without_images_is_an_error(checkout):
    empty = stub_host.blueprint(SimpleNamespace(image_data={}))
    with install_for(SgaConfig(), checkout), pytest.raises(SgaError, match="has no images"):
        import_module("library.config_util").generate_dataset_group_by_blueprint(empty)


def test_a_dataset_class_of_one_s_own_is_refused(checkout):
    args = argparse.Namespace(gradient_accumulation_steps=1, output_dir=None, output_name=None)
    args.weighting_scheme = "none"
    with install_for(SgaConfig(), checkout), pytest.raises(SgaError, match="--dataset_class"):
        accelerator = import_module("library.train_util").prepare_accelerator(args)
        accelerator.prepare(torch.utils.data.DataLoader([0]))


def test_what_is_to_be_done_with_the_data_waits_for_a_script_that_makes_them_late():
    session, seen = Session(SgaConfig()), []
    session.with_data(seen.append)
    assert seen == [] and "dataset" not in session.fired
    session.has_data("the data")
    session.with_data(seen.append)
    assert seen == ["the data"] * 2 and "dataset" in session.fired


def test_a_seam_that_never_fired_is_an_error():
    session = Session(SgaConfig(), expected=frozenset({"dataset", "noised"}))
    session.fire("dataset")
    with pytest.raises(SgaError, match="never reached noised"):
        session.verify()
    session.fire("noised")
    session.verify()


class TestTimesteps:
    """The replacement around a stub of the host's sampling, at float32 and bfloat16."""

    def draw(self, granularities, dtype=torch.float32, table=None, shape=(4, 8, 8), options=None, **args):
        config = SgaConfig(timestep_shift=table or {"macro": 0.5, "micro": -0.5})
        session = Session(config)
        session.accelerator = SimpleNamespace(current=granularities and SubBatch(0, (), granularities))
        host = import_module("library.flux_train_utils").get_noisy_model_input_and_timesteps
        if options:
            plain = host

            def host(*given, timestep_sampling_offset=None):
                return plain(*given)

        moved = noise_seam.FLUX.replace(host, session)
        latents, noise = torch.randn(2, len(granularities or "ab"), *shape, generator=torch.Generator().manual_seed(5))
        defaults = {"ip_noise_gamma": 0.0, "bf16_sigmas": False, "timestep_sampling": "sigmoid"}
        args = SimpleNamespace(**defaults | args)
        torch.manual_seed(1)
        result = moved(args, SCHEDULER, latents.to(dtype), noise.to(dtype), torch.device("cpu"), dtype, **options or {})
        torch.manual_seed(1)
        stock = host(args, SCHEDULER, latents.to(dtype), noise.to(dtype), torch.device("cpu"), dtype)
        return result, stock, latents, noise, session

    def test_each_sample_moves_by_its_own_delta(self, checkout):
        granularities = ("macro", "meso", None, "micro")
        (noisy, timesteps, sigmas), stock, latents, noise, session = self.draw(granularities)
        expected = shift_logit(stock[2].flatten(), torch.tensor([0.5, 0.0, 0.0, -0.5]))
        torch.testing.assert_close(sigmas.flatten(), expected)
        torch.testing.assert_close(timesteps, expected * 1000)
        torch.testing.assert_close(noisy, (1 - sigmas) * latents + sigmas * noise)
        assert session.fired == {"noised"}

    def test_five_dimensional_latents(self, checkout):
        (noisy, _, sigmas), _, latents, noise, _ = self.draw(("macro",), shape=(4, 1, 8, 8))
        torch.testing.assert_close(noisy, (1 - sigmas) * latents + sigmas * noise)

    @pytest.mark.parametrize("granularities", [None, ("meso", None)])
    def test_without_delta_it_is_the_host_s_result_bit_for_bit(self, checkout, granularities):
        result, stock, *_, session = self.draw(granularities, dtype=torch.bfloat16, bf16_sigmas=True)
        assert all(map(torch.equal, result, stock))
        assert session.fired == ({"noised"} if granularities else set())

    def test_bfloat16_rounds_once(self, checkout):
        (noisy, timesteps, sigmas), _, latents, noise, _ = self.draw(("macro", "micro"), torch.bfloat16)
        assert noisy.dtype == timesteps.dtype == torch.bfloat16 and sigmas.dtype == torch.float32
        exact = (1 - sigmas) * latents.bfloat16() + sigmas * noise.bfloat16()
        torch.testing.assert_close(noisy, exact.bfloat16(), rtol=0.008, atol=1e-3)

    def test_the_host_s_extra_noise_is_kept(self, checkout):
        (noisy, _, sigmas), stock, latents, _, _ = self.draw(("macro",) * 3, ip_noise_gamma=0.3)
        seen = (stock[0] - (1 - stock[2]) * latents) / stock[2]
        torch.testing.assert_close(noisy, (1 - sigmas) * latents + sigmas * seen, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("modulation", [True, False])
    def test_the_session_learns_the_noise_levels_of_training_only(self, checkout, modulation):
        for granularities in (("macro", "micro"), None):
            session = Session(SgaConfig(modulation=modulation))
            session.accelerator = SimpleNamespace(current=granularities and SubBatch(0, (), granularities))
            module = import_module("library.flux_train_utils")
            moved = noise_seam.FLUX.replace(module.get_noisy_model_input_and_timesteps, session)
            args = SimpleNamespace(ip_noise_gamma=0.0, bf16_sigmas=False, timestep_sampling="sigmoid")
            latents = torch.zeros(2, 4, 8, 8)
            _, _, sigmas = moved(args, SCHEDULER, latents, latents, torch.device("cpu"), torch.float32)
            if granularities:
                assert torch.equal(session.batch.sigma, sigmas.flatten()) and session.fired == {"noised"}
            else:
                assert session.batch.sub_batch is None and not session.fired

    def test_upstream_s_form_scales_delta(self, checkout):
        """sigmoid(s * (z + Delta)) is sigmoid(s * z + s * Delta)."""
        config = SgaConfig(timestep_shift={"macro": 0.5}, timestep_shift_form="upstream")
        session = Session(config)
        session.accelerator = SimpleNamespace(current=SubBatch(0, (), ("macro", "macro")))
        host = import_module("library.flux_train_utils").get_noisy_model_input_and_timesteps
        args = SimpleNamespace(ip_noise_gamma=0.0, bf16_sigmas=False, timestep_sampling="flux_shift", sigmoid_scale=3.0)
        drawn = []
        for function in (host, noise_seam.FLUX.replace(host, session)):
            torch.manual_seed(1)
            latents = torch.zeros(2, 4, 8, 8)
            drawn.append(function(args, SCHEDULER, latents, latents, torch.device("cpu"), torch.float32)[2])
        torch.testing.assert_close(drawn[1], shift_logit(drawn[0], 1.5))

    def test_upstream_s_offset_does_not_count_where_its_mode_ignores_it(self, checkout):
        offset = {"timestep_sampling_offset": torch.tensor([0.7, 0.0])}
        (_, _, sigmas), stock, *_ = self.draw(("macro", "macro"), options=offset, timestep_sampling="uniform")
        torch.testing.assert_close(sigmas.flatten(), shift_logit(stock[2].flatten(), 0.5))

    def test_upstream_s_own_offset_wins_where_it_is_set(self, checkout):
        offset = {"timestep_sampling_offset": torch.tensor([0.7, 0.0])}
        (_, _, sigmas), stock, *_ = self.draw(("macro", "macro"), options=offset)
        torch.testing.assert_close(sigmas.flatten()[0], stock[2].flatten()[0])
        torch.testing.assert_close(sigmas.flatten()[1], shift_logit(stock[2].flatten()[1], 0.5))


class TestSd3Timesteps:
    def draw(self, granularities, dtype=torch.float32, **args):
        session = Session(SgaConfig())
        session.accelerator = SimpleNamespace(current=SubBatch(0, (), granularities))
        host = import_module("library.sd3_train_utils").get_noisy_model_input_and_timesteps
        args = SimpleNamespace(**{"min_timestep": None, "max_timestep": None} | args)
        latents, noise = torch.randn(2, len(granularities), 4, 8, 8, generator=torch.Generator().manual_seed(5))
        results = []
        for function in (host, noise_seam.SD3.replace(host, session)):
            torch.manual_seed(1)
            results.append(function(args, latents.to(dtype), noise.to(dtype), torch.device("cpu"), dtype))
        return *results, latents, noise, session

    def test_each_sample_moves_by_its_own_delta(self, checkout):
        stock, (noisy, timesteps, sigmas), latents, noise, session = self.draw(("macro", "meso", None, "micro"))
        torch.testing.assert_close(
            sigmas.flatten(), shift_logit(stock[2].flatten(), torch.tensor([0.5, 0.0, 0.0, -0.5]))
        )
        torch.testing.assert_close(timesteps, sigmas.flatten() * 1000)
        torch.testing.assert_close(noisy, (1 - sigmas) * latents + sigmas * noise)
        assert torch.equal(session.batch.sigma, sigmas.flatten())

    def test_a_range_of_timesteps_is_kept(self, checkout):
        stock, moved, *_ = self.draw(("macro",) * 64, min_timestep=200, max_timestep=400)
        assert moved[1].min() >= 200 and moved[1].max() < 400
        inside = (stock[2] - 0.2) / 0.2
        torch.testing.assert_close((moved[2] - 0.2) / 0.2, shift_logit(inside, 0.5), rtol=0, atol=1e-5)

    def test_a_forced_timestep_stays(self, checkout):
        stock, moved, *_ = self.draw(("macro",) * 2, min_timestep=500, max_timestep=500)
        assert all(map(torch.equal, stock, moved))

    def test_half_precision_keeps_the_host_s_types(self, checkout):
        stock, moved, *_ = self.draw(("macro", "micro"), torch.bfloat16)
        assert [x.dtype for x in moved[:2]] == [x.dtype for x in stock[:2]]


SCHEDULE = SimpleNamespace(alphas_cumprod=torch.tensor([0.95, 0.9, 0.5, 0.0]))
# SNR 19, 9, 1, 0. The host took its own before zero_terminal_snr moved the schedule, and never looks again.
SCHEDULE.all_snr = torch.tensor([20.0, 12.0, 2.0, 0.5])


class TestSnrWeight:
    """The replacement of apply_snr_weight, which the host calls with a loss for each sample."""

    def weigh(self, granularities, timesteps, gamma="ours", v_prediction=False, training=True):
        session = Session(SgaConfig())
        session.accelerator = SimpleNamespace(current=SubBatch(0, (), granularities) if training else None)
        host = import_module("library.custom_train_functions").apply_snr_weight
        loss = torch.full((len(timesteps),), 2.0, requires_grad=True)
        weighted = loss_seam.SNR.replace(host, session)(loss, torch.tensor(timesteps), SCHEDULE, gamma, v_prediction)
        weighted.sum().backward()
        assert torch.isfinite(loss.grad).all()
        return (weighted / loss).detach().tolist()

    def test_each_sample_has_its_granularity_s_threshold(self, checkout):
        assert self.weigh(("macro", "meso", "micro"), [1, 1, 1]) == pytest.approx([4 / 9, 5 / 9, 7 / 9])
        assert self.weigh(("macro", "micro"), [1, 1], v_prediction=True) == pytest.approx([0.4, 0.7])

    def test_zero_terminal_snr(self, checkout):
        assert self.weigh(("macro",), [3]) == [1.0]
        assert self.weigh(("macro",), [3], v_prediction=True) == [0.0]

    def test_without_a_label_the_host_s_own_setting_counts(self, checkout):
        assert self.weigh((None, "micro"), [1, 1]) == pytest.approx([1.0, 7 / 9])
        assert self.weigh((None, "micro"), [1, 1], gamma=3.0) == pytest.approx([3 / 12, 7 / 9])
        assert self.weigh((None,), [1], gamma=3.0, v_prediction=True) == pytest.approx([3 / 13])

    def test_a_nan_of_the_host_s_does_not_reach_our_samples(self, checkout, monkeypatch):
        """0 / 0 in the host's epsilon weight of a labelled sample, whose gradient must stay finite."""
        monkeypatch.setattr(SCHEDULE, "all_snr", torch.tensor([19.0, 9.0, 1.0, 0.0]))
        assert self.weigh(("macro", "macro"), [3, 1], gamma=5.0) == pytest.approx([1.0, 4 / 9])

    def test_validation_is_the_host_s(self, checkout):
        assert self.weigh((), [1, 2], training=False) == [1.0, 1.0]
        assert self.weigh((), [1, 2], gamma=3.0, training=False) == pytest.approx([3 / 12, 1.0])


class TestFlowWeight:
    def weigh(self, granularities, sigma, reduction="none"):
        session = Session(SgaConfig(flow_snr_weight=True, timestep_shift={"macro": 0.0}))
        session.accelerator = SimpleNamespace(current=granularities and SubBatch(0, (), granularities))
        host = import_module("library.loss").conditional_loss
        ones = torch.ones(len(sigma), 4, 2, 2)
        session.noised(Noised(Draw(session.current), ones, ones, ones, torch.tensor(sigma)))
        loss = loss_seam.LOSS.replace(host, session)(ones, torch.zeros_like(ones), "l2", reduction)
        return loss.flatten(1).mean(1).tolist()

    def test_weights_follow_sigma_and_granularity(self, checkout):
        # SNR at sigma 0.25 is 9, at 0.5 it is 1, at 0 infinite.
        weights = self.weigh(("macro", "micro", "micro", "macro", None), [0.25, 0.25, 0.5, 0.0, 0.25])
        assert weights == pytest.approx([4 / 9, 7 / 9, 1.0, 0.0, 1.0])

    def test_validation_is_untouched_and_a_mean_is_refused(self, checkout):
        assert self.weigh(None, [0.25]) == [1.0]
        with pytest.raises(SgaError, match="averages its loss by itself"):
            self.weigh(("macro",), [0.25], reduction="mean")


class TestModulation:
    """What the seam on prepare_accelerator decides once the host's arguments are known."""

    UNET = {"min_snr_gamma": None, "v_parameterization": False}
    FLUX = {"weighting_scheme": "none", "timestep_sampling": "shift"}
    SD3 = {"weighting_scheme": "none", "training_shift": 1.0}

    def prepare(self, config, args):
        session = Session(config)
        args = argparse.Namespace(**args)
        session.started(Run(start(session, args).modulation))
        return session, args

    def test_a_unet_gets_weights_and_others_noise_levels(self):
        session, args = self.prepare(SgaConfig(), self.UNET)
        assert session.expected == {"noised", "SNR weight"}
        assert args.min_snr_gamma == "macro:4,meso:5,micro:7"
        assert session.metadata()["ss_sga_modulated_by"] == "snr_gamma"
        session, args = self.prepare(SgaConfig(flow_snr_weight=True), self.FLUX)
        assert session.expected == {"noised", "weighed"}
        assert session.metadata()["ss_sga_modulated_by"] == "timestep_shift"

    def test_the_host_s_min_snr_gamma_is_kept(self):
        assert self.prepare(SgaConfig(), self.UNET | {"min_snr_gamma": 3.0})[1].min_snr_gamma == 3.0

    def test_without_modulation_the_host_s_arguments_stay(self):
        session, args = self.prepare(SgaConfig(modulation=False), self.UNET)
        assert args.min_snr_gamma is None and session.expected == {"noised"}
        assert "ss_sga_modulated_by" not in session.metadata()

    @pytest.mark.parametrize(
        ("config", "args", "message"),
        [
            ({"timestep_shift_form": "upstream"}, FLUX | {"timestep_sampling": "uniform"}, "uniform has no such z"),
            ({"timestep_shift_form": "upstream"}, SD3, "SD3 has no sigmoid_scale"),
            ({"timestep_shift_form": "upstream"}, UNET, "Stable Diffusion has no sigmoid_scale"),
            ({"flow_snr_weight": True}, UNET, "is for flow-matching models"),
            ({}, UNET | {"debiased_estimation_loss": True}, "multiply the two. Leave it out, or set --sga_mod"),
            ({}, UNET | {"v_pred_like_loss": 0.5}, "v_pred_like_loss is a weight of the loss"),
            ({}, UNET | {"scale_v_pred_loss_like_noise_pred": True}, "scale_v_pred_loss_like_noise_pred is a weight"),
            ({}, UNET | {"debiased_estimation_loss": True, "min_snr_gamma": 5.0}, "multiply the two"),
            ({"flow_snr_weight": True}, FLUX | {"weighting_scheme": "sigma_sqrt"}, "weighting_scheme = sigma_sqrt wei"),
            ({"flow_snr_weight": True}, SD3 | {"weighting_scheme": "cosmap"}, "weighting_scheme = cosmap weights"),
            ({"granularities": ("a", "b"), "timestep_shift": {"a": 1.0}}, UNET, "by sga_snr_gamma, which names none"),
            ({"granularities": ("a", "b"), "snr_gamma": {"a": 1.0}}, FLUX, "by sga_timestep_shift, which names none"),
        ],
    )
    def test_what_does_not_fit_is_refused_before_models_are_loaded(self, config, args, message):
        with pytest.raises(SgaError, match=message):
            self.prepare(SgaConfig(**config), args)

    @pytest.mark.parametrize("name", ["debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred"])
    def test_another_weight_is_allowed_where_eq_33_does_not_apply(self, name):
        """Without modulation, and for a flow-matching model, whose scripts know these options and ignore them."""
        assert self.prepare(SgaConfig(modulation=False), self.UNET | {name: True})[1].min_snr_gamma is None
        assert (
            self.prepare(SgaConfig(), self.FLUX | {name: True})[0].metadata()["ss_sga_modulated_by"] == "timestep_shift"
        )
        scheme = self.FLUX | {"weighting_scheme": "sigma_sqrt"}
        assert self.prepare(SgaConfig(), scheme)[0].metadata()["ss_sga_modulated_by"] == "timestep_shift"


def test_saved_anima_and_hunyuan_models_say_how_they_were_made(checkout):
    with install_for(SgaConfig(groups_per_step=3), checkout):
        spec = import_module("library.train_util").get_sai_model_spec_dataclass
        metadata = spec(None, SimpleNamespace(title="t"), False, True, False).to_metadata_dict()
    assert metadata["ss_sga_groups_per_step"] == "3"
    assert {key: text for key, text in metadata.items() if "sga" not in key} == {"modelspec.title": "t"}


class TestFindCheckout:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.delenv("SD_SCRIPTS_DIR", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")

    def test_order(self, tmp_path, monkeypatch):
        named, environment, default = (
            stub_host.write(tmp_path / name) for name in ("a", "b", "home/.cache/sga_kohya/sd-scripts")
        )
        assert find_checkout().root == default
        monkeypatch.chdir(stub_host.write(tmp_path / "c"))
        assert find_checkout().root == tmp_path / "c"
        monkeypatch.setenv("SD_SCRIPTS_DIR", str(environment))
        assert find_checkout().root == environment
        assert find_checkout(str(named)).root == named

    def test_none(self):
        with pytest.raises(SgaError, match="sd-scripts was not found.*git clone --branch v0.11.1"):
            find_checkout()

    def test_what_was_named_is_no_checkout(self, tmp_path, monkeypatch):
        with pytest.raises(SgaError, match="--sd_scripts .*no sd-scripts checkout"):
            find_checkout(str(tmp_path))
        root = stub_host.write(tmp_path / "tool" / "sd-scripts")
        for near in (root / "library", root.parent):
            with pytest.raises(SgaError, match=rf"did you mean {root}\?"):
                find_checkout(str(near))
        monkeypatch.setenv("SD_SCRIPTS_DIR", str(tmp_path))
        with pytest.raises(SgaError, match="SD_SCRIPTS_DIR .*no sd-scripts checkout"):
            find_checkout()

    def test_too_old(self, tmp_path):
        root = stub_host.write(tmp_path / "old", library__flux_train_utils=None, library__by_name=None)
        with pytest.raises(SgaError, match="v0.9.1 or older"):
            find_checkout(str(root))

    def test_a_script_this_version_lacks(self, tmp_path):
        checkout = find_checkout(str(stub_host.write(tmp_path / "a")))
        assert checkout.script("flux_train_network.py").is_file()
        with pytest.raises(SgaError, match="has no flux_train.py"):
            checkout.script("flux_train.py")
