"""What the options name: files of models, the adapter's module, and how large a saved model will be."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from sga_kohya.doctor.findings import Findings
from sga_kohya.doctor.patient import Files, Maker
from sga_kohya.hosts.checks import not_named, not_there
from sga_kohya.kit.safetensors_file import tensor_shapes


def check_models(script: str, args: argparse.Namespace, files: Files, findings: Findings) -> None:
    """Every file that the options name is there, and everything is named that the family needs."""
    present = []
    for key in dict.fromkeys([*files.needed, *files.others]):
        given = getattr(args, key, None)
        if not given and key in files.needed:
            findings.error(not_named(key, script))
        if key in files.words:
            continue
        for value in map(str, given if isinstance(given, list) else [given] if given else []):
            if Path(value).exists():
                present.append(key)
            elif key in files.fetched and _may_be_a_repository(value):
                findings.warning(f"{key} = {value}: no such file here, so it will be fetched from Hugging Face")
            else:
                findings.error(not_there(key, value))
    if present:
        findings.ok(f"there are files for {', '.join(dict.fromkeys(present))}")


def _may_be_a_repository(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).suffix and not name.startswith(("/", ".", "~"))


def check_network(name: str, makers: Sequence[str], args: argparse.Namespace, findings: Findings) -> None:
    """The adapter's module can be imported, as the script will do it, and has one of the functions that make it."""
    if not name:
        return
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        package = "lycoris-lora" if name.startswith("lycoris") else None
        findings.error(f"{name}: {error}" + (f"; pip install {package}" if package else "; correct network_module"))
        return
    if any(hasattr(module, maker) for maker in makers):
        rank, arguments = args.network_dim or "by default", args.network_args or "no arguments"
        findings.ok(f"{name}, rank {rank}, alpha {args.network_alpha:g}, {arguments}")
    else:
        findings.error(f"{name} has no {' or '.join(makers)}, so it is no network module")


def check_optimizer(makers: tuple[Maker, Maker], args: argparse.Namespace, findings: Findings) -> None:
    """Make the optimizer and its scheduler of one number, as the script makes them once all models are loaded."""
    import torch

    if any(finding.level == "error" and finding.subject == "options" for finding in findings.found):
        findings.warning("not tried, because of the errors above")
        return
    args, parameter = argparse.Namespace(**vars(args)), torch.nn.Parameter(torch.zeros(1, 1))
    settings = [f"optimizer_type = {args.optimizer_type}, optimizer_args = {args.optimizer_args}"]
    scheduler = args.lr_scheduler_type or args.lr_scheduler
    try:
        name, _, optimizer, *_ = makers[0](args, [{"params": [parameter], "lr": args.learning_rate}])
        settings = [f"lr_scheduler = {scheduler}, lr_warmup_steps = {args.lr_warmup_steps}"]
        makers[1](args, optimizer, 1)
    except Exception as error:
        if not _is_told(error, findings):
            findings.error(f"{settings[0]}: {type(error).__name__}: {error}")
        return
    findings.ok(f"{name}, {scheduler}")


def _is_told(error: BaseException | None, findings: Findings) -> bool:
    """Whether a package is missing, and known to be. Hosts raise errors of their own over Python's."""
    while error and not getattr(error, "name", None):
        error = error.__cause__ or error.__context__
    package = str(getattr(error, "name", "")).partition(".")[0].replace("_", "-")
    told = (finding.text for finding in findings.found if finding.subject == "packages")
    return any(text.startswith(f"{package} is not installed") for text in told)


def checkpoint_size(model: object, args: argparse.Namespace) -> int | None:
    """Bytes of a saved model, at most: an adapter of full rank coverage, else the model itself. None if unknown."""
    path = Path(str(model))
    shapes = tensor_shapes(path)
    if not shapes:
        return None
    if not getattr(args, "network_module", None):
        return path.stat().st_size
    rows_and_columns = sum(shape[0] + shape[1] for shape in shapes.values() if len(shape) >= 2)
    width = 4 if args.save_precision in (None, "float") else 2
    return rows_and_columns * (args.network_dim or 4) * width
