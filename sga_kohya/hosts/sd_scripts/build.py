"""The training dataset as a script of sd-scripts builds it, without the script."""

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.dataset import keeper
from sga_kohya.hosts.sd_scripts.settings import RUN_NAME, defined_in


def build(args: argparse.Namespace) -> Any:
    """The host's group of datasets, of ours where we are installed. Raises SgaError with the host's own words."""
    config_util = importlib.import_module("library.config_util")
    train_util = importlib.import_module("library.train_util")
    args = argparse.Namespace(**vars(args))
    # As each script does, which has these options where it takes folders, metadata files, and masks.
    takes = hasattr(args, "reg_data_dir"), hasattr(args, "in_json"), bool(getattr(args, "masked_loss", False))
    train_util.prepare_dataset_args(args, takes[1])
    sanitizer = config_util.ConfigSanitizer(*takes, True)
    try:
        blueprint = config_util.BlueprintGenerator(sanitizer).generate(_description(args, config_util), args)
        group, _ = config_util.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    except AssertionError as error:
        raise SgaError(str(error)) from error
    return group


def _description(args: argparse.Namespace, config_util: Any) -> dict[str, Any]:
    """What a dataset TOML says, or would say of the folder that the command line names."""
    if args.dataset_config:
        return config_util.load_user_config(str(args.dataset_config))
    if getattr(args, "in_json", None):
        return {"datasets": [{"subsets": [{"image_dir": args.train_data_dir, "metadata_file": args.in_json}]}]}
    subsets = config_util.generate_dreambooth_subsets_config_by_subdirs(args.train_data_dir, args.reg_data_dir)
    return {"datasets": [{"subsets": subsets}]}


def check_bucket_steps(script: Path, group: Any) -> None:
    """Each script refuses buckets that are no multiple of a number of its own, which stands only in its text."""
    for file in (script, script.with_name("train_network.py")):
        numbers = re.findall(
            r"train_dataset_group\.verify_bucket_reso_steps\((\d+)\)", file.read_text(encoding="utf-8")
        )
        if numbers:
            try:
                for dataset in group.datasets:
                    keeper(dataset).verify_bucket_reso_steps(int(numbers[0]))
            except AssertionError:
                raise SgaError(
                    f"{script.name} wants bucket_reso_steps that are a multiple of {numbers[0]}: set 64, and cut the "
                    "slices again by `python -m sga_kohya.hsd`"
                ) from None
            return


def check_caches(script: Path, args: argparse.Namespace, group: Any) -> None:
    """What a script asserts of its settings and data together, before it loads a model. Raises SgaError with its words.

    All cache latents alike; of the rest a network trainer has a method, and a full fine-tune one line.
    """
    asserts = getattr(_trainer(script), "assert_extra_args", None)
    try:
        if asserts is not None:
            asserts(argparse.Namespace(**vars(args)), group, None)
    except (AssertionError, ValueError) as error:
        raise SgaError(f"{script.name}: {error}") from error
    if getattr(args, "cache_latents", False) and not group.is_latent_cacheable():
        raise SgaError("cache_latents excludes color_aug and random_crop: leave out one of them")
    cached = asserts is None and getattr(args, "cache_text_encoder_outputs", False)
    if cached and not group.is_text_encoder_output_cacheable(**_asked_with(script)):
        raise SgaError(
            "cache_text_encoder_outputs excludes what changes captions: caption dropout, shuffle_caption and "
            "token_warmup_step. Leave out one of them"
        )


def _asked_with(script: Path) -> dict[str, bool]:
    """What a full fine-tune tells the data where it asks whether texts can be cached; it stands only in its text."""
    word = "cache_supports_dropout"
    return {word: True} if f"{word}=True" in script.read_text(encoding="utf-8") else {}


def _trainer(script: Path) -> Any:
    """An object of the class that a network trainer's script defines; None in other scripts."""
    kinds = (kind for kind in defined_in(script).values() if isinstance(kind, type) and kind.__module__ == RUN_NAME)
    return next((kind() for kind in kinds if hasattr(kind, "assert_extra_args")), None)
