"""Checks of single functions of the real musubi-tuner, done in its process; what they find is asserted in tests."""

import importlib
import random
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

LABELS = ("macro", "micro", "meso", None)
MODES = (
    *("sigma", "uniform", "sigmoid", "shift", "flux_shift", "flux2_shift", "qwen_shift", "krea2_shift"),
    *("ideogram4_shift", "logsnr", "qinglong_flux", "qinglong_qwen"),
)
RANGES = ({}, {"min_timestep": 100, "max_timestep": 800}, {"min_timestep": 0, "max_timestep": 300})
SHAPES = {4: (4, 16, 8, 12), 5: (4, 16, 3, 8, 12)}


def host_arguments(mode: str, **changes: Any) -> Namespace:
    options = {
        "timestep_sampling": mode,
        "weighting_scheme": "none",
        "sigmoid_scale": 1.2,
        "discrete_flow_shift": 3.0,
        "logit_mean": 0.1,
        "logit_std": 0.9,
        "mode_scale": 1.29,
        "min_timestep": None,
        "max_timestep": None,
        "preserve_distribution_shape": False,
        "show_timesteps": None,
    }
    return Namespace(**{**options, **changes})


def session_of(labels: tuple[str | None, ...], **settings: Any) -> Any:
    from sga_kohya.config import SgaConfig
    from sga_kohya.training.events import Run
    from sga_kohya.training.session import Session
    from sga_kohya.tuples.step import SubBatch

    session = Session(SgaConfig(**settings))
    session.started(Run("timestep_shift"))
    session.accelerator = SimpleNamespace(current=SubBatch(0, (), labels))
    return session


def drawn(method: Callable, args: Namespace, latents: Tensor, noise: Tensor, dtype: torch.dtype, given: Any) -> dict:
    """What a noise method returns, and what it drew: the state of both random generators after it."""
    from musubi_tuner.hv_train_network import FlowMatchDiscreteScheduler

    torch.manual_seed(3)
    random.seed(3)
    host = SimpleNamespace(num_timestep_buckets=None)
    scheduler = FlowMatchDiscreteScheduler(shift=args.discrete_flow_shift, reverse=True, solver="euler")
    noisy, steps = method(host, args, noise, latents, given, scheduler, torch.device("cpu"), dtype)
    return {"noisy": noisy, "steps": steps, "state": (torch.get_rng_state(), random.getstate())}


def settings() -> Iterator[dict[str, Any]]:
    """Everything that the levels of a batch may depend on."""
    for ranged in RANGES:
        for preserve in (False, True) if ranged else (False,):
            for dims in SHAPES:
                for dtype in (torch.float32, torch.bfloat16):
                    for given in (None, [0.1, 0.3, 0.6, 0.95]):
                        yield {
                            "args": {**ranged, "preserve_distribution_shape": preserve},
                            "dims": dims,
                            "dtype": dtype,
                            "given": given,
                        }


def buckets(out: Path, dataset: str) -> None:
    """(architecture, size of the image, size it is cached at, its bucket in training) for every image."""
    import json

    from musubi_tuner.dataset import config_utils
    from musubi_tuner.dataset.image_video_dataset import BucketSelector

    found = []
    for architecture in ("f2d", "wan", "qi", "zi", "ho1"):
        generator = config_utils.BlueprintGenerator(config_utils.ConfigSanitizer())
        config = config_utils.load_user_config(dataset)
        blueprint = generator.generate(config, Namespace(debug_dataset=False), architecture=architecture)
        group = config_utils.generate_dataset_group_by_blueprint(blueprint.dataset_group)
        for one in group.datasets:
            assert one.caption_extension == ".txt" and "cache_musubi" in one.cache_directory
            selector = BucketSelector(one.resolution, one.enable_bucket, one.bucket_no_upscale, architecture)
            for _, items in one.retrieve_latent_cache_batches(1):
                for item in items:
                    height, width = item.content.shape[:2]
                    bucket = selector.get_bucket_resolution(item.original_size)
                    found.append([architecture, list(item.original_size), [width, height], list(map(int, bucket))])
    out.write_text(json.dumps(found))


def clips(out: Path, dataset: str, architecture: str) -> None:
    """What the host's own caching and training make of clips, for every cached item: folder, stem, shape that was
    encoded, bucket in training; and the mean colour of the pixels that were encoded."""
    import json

    from musubi_tuner import cache_latents
    from musubi_tuner.dataset import config_utils

    from .data import cache_module

    generator = config_utils.BlueprintGenerator(config_utils.ConfigSanitizer())
    config = config_utils.load_user_config(dataset)
    blueprint = generator.generate(config, Namespace(debug_dataset=False), architecture=architecture)
    group = config_utils.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    encoded = {}

    def encode(batch: list[Any]) -> None:
        for item in batch:
            shape = item.content.shape if item.content.ndim == 4 else (1, *item.content.shape)
            encoded[item.latent_cache_path] = [*shape[:3], *item.content.reshape(-1, 3).mean(0).round(1).tolist()]
            Path(item.latent_cache_path).parent.mkdir(parents=True, exist_ok=True)
            latents = torch.zeros(4, (shape[0] + 3) // 4, shape[1] // 8, shape[2] // 8)
            cache_module().save_latent_cache_wan(item, latents, None, None, None)

    cache_latents.encode_datasets(
        group.datasets, encode, Namespace(num_workers=1, skip_existing=False, batch_size=None, keep_cache=False)
    )
    found = []
    for one in group.datasets:
        for path in list(encoded):
            if Path(path).parent == Path(one.cache_directory):
                stem = Path(path).name.split("_")[0]
                Path(one.cache_directory, f"{stem}_{architecture}_te.safetensors").touch()
        one.prepare_for_training()
        for bucket, items in one.batch_manager.buckets.items():
            for item in items:
                folder = Path(item.latent_cache_path).parent.name
                found.append([folder, item.item_key, encoded[item.latent_cache_path], [int(n) for n in bucket]])
    out.write_text(json.dumps(found))


def levels(out: Path) -> None:
    """The base method in every mode, stock and ours, with Delta and without."""
    import musubi_tuner.hv_train_network as host

    from sga_kohya.hosts.musubi import noise as seam

    method = host.NetworkTrainer.get_noisy_model_input_and_timesteps
    found = []
    for mode in MODES:
        for setting in settings():
            generator = torch.Generator().manual_seed(1)
            shape, dtype = SHAPES[setting["dims"]], setting["dtype"]
            latents, noise = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
            args = host_arguments(mode, **setting["args"])
            moved, still = session_of(LABELS), session_of(LABELS, timestep_shift={"macro": 0.0, "micro": 0.0})
            ours = {name: seam.BASE.replace(method, session) for name, session in (("on", moved), ("zero", still))}
            results = {
                name: drawn(one, args, latents, noise, dtype, setting["given"])
                for name, one in {"stock": method, **ours}.items()
            }
            found.append(
                {"mode": mode, **setting, **results, "latents": latents, "noise": noise, "sigma": moved.batch.sigma}
            )
    torch.save(found, out)


def hidream(out: Path) -> None:
    """HiDream-O1's own method over the base method, in `uniform` and in another mode."""
    import musubi_tuner.hidream_o1_train_network as module
    import musubi_tuner.hv_train_network as host

    from sga_kohya.hosts.musubi import noise as seam

    found = []
    trainer = module.HiDreamO1NetworkTrainer
    own, name = trainer.get_noisy_model_input_and_timesteps, "get_noisy_model_input_and_timesteps"
    base = getattr(host.NetworkTrainer, name)
    latents, noise = (torch.randn(4, 6, 2, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    instance = trainer.__new__(trainer)
    instance.num_timestep_buckets = None
    for mode in ("uniform", "shift"):
        for ranged in RANGES:
            for given in (None, [0.1, 0.3, 0.6, 0.95]):
                args = host_arguments(mode, **ranged, noise_scale_start=8.0, noise_scale_end=7.0, model_type="full")
                session = session_of(LABELS)
                results = {}
                for door in ("stock", "on"):
                    if door == "on":
                        setattr(host.NetworkTrainer, name, seam.BASE.replace(base, session))
                    method = own if door == "stock" else seam.OVERRIDES[trainer.__name__].replace(own, session)
                    bound = lambda _, *more, method=method: method(instance, *more)  # noqa: E731
                    results[door] = drawn(bound, args, latents, noise, torch.float32, given)
                setattr(host.NetworkTrainer, name, base)
                found.append(
                    {"mode": mode, "args": ranged, "given": given, **results, "sigma": session.batch.sigma}
                    | {"latents": latents, "noise": noise, "fired": sorted(session.fired)}
                )
    torch.save(found, out)


def wan(out: Path) -> None:
    """Wan's own method with two models, which draws sample by sample."""
    import musubi_tuner.hv_train_network as host
    import musubi_tuner.wan_train_network as module

    from sga_kohya.errors import SgaError
    from sga_kohya.hosts.musubi import noise as seam

    trainer, name = module.WanNetworkTrainer, "get_noisy_model_input_and_timesteps"
    base, own = getattr(host.NetworkTrainer, name), getattr(trainer, name)
    latents, noise = (torch.randn(4, 16, 3, 8, 12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    instance = trainer.__new__(trainer)
    instance.num_timestep_buckets, instance.high_low_training, instance.timestep_boundary = None, True, 0.7
    found: dict[str, Any] = {"latents": latents, "noise": noise, "boundary": 0.7}
    for case, labels in (("one", ("macro",) * 4), ("mixed", ("macro", "macro", "micro", "micro"))):
        session = session_of(labels)
        setattr(host.NetworkTrainer, name, seam.BASE.replace(base, session))
        method = seam.OVERRIDES[trainer.__name__].replace(own, session)
        bound = lambda _, *more, method=method: method(instance, *more)  # noqa: E731
        try:
            found[case] = drawn(bound, host_arguments("shift"), latents, noise, torch.float32, None)
            found[case]["sigma"] = session.batch.sigma
        except SgaError as error:
            found[case] = str(error)
    setattr(host.NetworkTrainer, name, base)
    torch.save(found, out)


def seams(out: Path, tuner: str) -> None:
    """{script: "installed", or why not} for every script there is a door for, and what its trainer overrides."""
    import inspect
    import json

    from sga_kohya.config import SgaConfig
    from sga_kohya.hosts.musubi.checkout import find_tuner
    from sga_kohya.hosts.musubi.families import SCRIPTS
    from sga_kohya.hosts.musubi.install import install_for

    found = {}
    place = find_tuner(tuner)
    for script in SCRIPTS:
        if not (place.modules / f"{script}.py").is_file():
            found[script] = ["absent", []]
            continue
        try:
            module = importlib.import_module(f"musubi_tuner.{script}")
        except ImportError as error:
            found[script] = [f"cannot be imported: {error}", []]
            continue
        name = "get_noisy_model_input_and_timesteps"
        classes = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__.endswith(script)]
        found[script] = ["no main", []] if not callable(module.main) else ["installed", []]
        own = {one.__name__ for cls in classes for one in cls.__mro__ if name in vars(one)} - {"NetworkTrainer"}
        host = importlib.import_module("musubi_tuner.hv_train_network")
        before = vars(host.NetworkTrainer)[name]
        with install_for(SgaConfig(), place, script):
            assert vars(host.NetworkTrainer)[name] is not before
        assert vars(host.NetworkTrainer)[name] is before
        found[script][1] = sorted(own)
    out.write_text(json.dumps(found))


def patches(out: Path) -> None:
    """{script: latent pixels a token along one side} of the models that have a name for it."""
    import json

    from .stacks import STACKS

    found = {}
    for stack in [stack for name, stack in STACKS.items() if stack.videos or name == "z_image"]:
        stack.shrink()
        model = stack.model()
        names = ("patch_size", "config_patch_size", "all_patch_size")
        patch = next(getattr(model, name) for name in names if hasattr(model, name))
        found[stack.script] = patch if isinstance(patch, int) else patch[-1]
    out.write_text(json.dumps(found))


def presets(out: Path, files: dict[str, str], datasets: dict[str, str]) -> None:
    """What the real parser of a preset's script says of it and of a broken one, and what the real reader makes of data.

    files: a preset's path -> its script. datasets: path -> architecture.
    """
    import json

    import toml
    from musubi_tuner.dataset import config_utils

    from sga_kohya.config import SgaConfig
    from sga_kohya.hosts.musubi.checkout import find_tuner
    from sga_kohya.hosts.musubi.install import install_for
    from sga_kohya.hosts.toml_keys import wrong_settings

    found: dict[str, Any] = {}
    broken = {"seed": "x", "lr_sheduler": 1, "sdpa": "yes", "timestep_sampling": "flux3_shift"}
    place = find_tuner(str(Path(config_utils.__file__).parents[3]))
    for file, script in files.items():
        module = importlib.import_module(f"musubi_tuner.{script}")
        with install_for(SgaConfig(), place, script):
            parser = parser_of(module)
        settings = toml.loads(Path(file).read_text())
        found[file] = [list(wrong_settings(parser, these, script)) for these in (settings, settings | broken)]
    for file, architecture in datasets.items():
        generator = config_utils.BlueprintGenerator(config_utils.ConfigSanitizer())
        config = config_utils.load_user_config(file)
        blueprint = generator.generate(config, Namespace(debug_dataset=False), architecture=architecture)
        found[file] = [[one.is_image_dataset, one.params.batch_size] for one in blueprint.dataset_group.datasets]
    out.write_text(json.dumps(found))


def doctor(out: Path, questions: dict[str, list[str]]) -> None:
    """What the doctor finds for each list of words."""
    import json

    from sga_kohya.doctor.__main__ import examine

    out.write_text(json.dumps({name: [vars(f) for f in examine(words).found] for name, words in questions.items()}))


def understood(out: Path, commands: list[list[str]]) -> None:
    """What the real script of each command reads out of its words, as far as JSON holds it; None where it is absent."""
    import argparse
    import importlib.util
    import json

    found = []
    for script, *words in commands:
        name = f"musubi_tuner.{script.removesuffix('.py')}"
        there = importlib.util.find_spec(name) is not None
        found.append(_read_by(importlib.import_module(name).main, argparse.ArgumentParser, words) if there else None)
    out.write_text(json.dumps(found, default=str))


def _read_by(main: Callable[[], None], parser: type, words: list[str]) -> dict[str, Any]:
    import sys
    from unittest import mock

    class Read(Exception):
        pass

    parse = parser.parse_args

    def parse_args(self: Any, *given: Any) -> None:
        raise Read(vars(parse(self, *given)))

    with mock.patch.object(parser, "parse_args", parse_args), mock.patch.object(sys, "argv", ["x", *words]):
        try:
            main()
        except Read as read:
            return read.args[0]
    raise AssertionError(f"{main.__module__} read no words")


def parser_of(module: Any) -> Any:
    """The parser that a script's `main` makes, taken where it reads its TOML."""
    import sys
    from unittest import mock

    class Found(Exception):
        pass

    def read(args: Namespace, parser: Any) -> None:
        raise Found(parser)

    with mock.patch.object(module, "read_config_from_file", read), mock.patch.object(sys, "argv", ["x"]):
        try:
            module.main()
        except Found as found:
            return found.args[0]
    raise AssertionError(f"{module.__name__} reads no TOML")
