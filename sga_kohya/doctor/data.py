"""The dataset as sd-scripts will build it, with our seams in place: its plan, its warnings, its number of steps."""

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.doctor.findings import Findings
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.levels import Levels
from sga_kohya.training.plan_report import describe
from sga_kohya.training.session import Session

_WARNING = "warning: "


def check_data(script: Path, args: argparse.Namespace, config: SgaConfig, session: Session, findings: Findings) -> int:
    """Build the training dataset and describe it. Returns its steps an epoch."""
    group = _build(args)
    _check_bucket_steps(script, group)
    dataset = session.dataset if config.active else group
    if not config.active:
        findings.ok(f"stock sd-scripts: {group.num_train_images} images, {len(group)} batches an epoch")
        return len(group)
    plan = []
    for line in describe(dataset, config, Levels(args, config)).strip("\n").split("\n"):
        if line.strip().startswith(_WARNING):
            findings.warning(line.strip().removeprefix(_WARNING))
        else:
            plan.append(line)
    findings.ok("\n".join(plan))
    return len(dataset)


def count_checkpoints(args: argparse.Namespace, steps_an_epoch: int) -> int:
    """How many files a run will leave, the last one included."""
    accumulation = int(args.gradient_accumulation_steps or 1)
    updates = max(1, -(-steps_an_epoch // accumulation))
    epochs = args.max_train_epochs or max(1, -(-int(args.max_train_steps) // updates))
    kept = 0
    if args.save_every_n_epochs:
        kept = min((epochs - 1) // args.save_every_n_epochs, args.save_last_n_epochs or epochs)
    if args.save_every_n_steps:
        every = args.save_every_n_steps
        count = (epochs * updates - 1) // every
        kept += min(count, args.save_last_n_steps // every + 2) if args.save_last_n_steps else count
    return kept + 1


def _check_bucket_steps(script: Path, group: Any) -> None:
    """Each script refuses buckets that are no multiple of a number of its own, which stands only in its text."""
    for file in (script, script.with_name("train_network.py")):
        numbers = re.findall(
            r"train_dataset_group\.verify_bucket_reso_steps\((\d+)\)", file.read_text(encoding="utf-8")
        )
        if numbers:
            try:
                group.verify_bucket_reso_steps(int(numbers[0]))
            except AssertionError:
                raise SgaError(
                    f"{script.name} wants bucket_reso_steps that are a multiple of {numbers[0]}: set 64, and cut the "
                    "slices again by `python -m sga_kohya.hsd`"
                ) from None
            return


def _build(args: argparse.Namespace) -> Any:
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
