"""The options as sd-scripts itself will read them: its real parser, its choices and types, the files that they name."""

import argparse
import contextlib
import importlib
import io
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.doctor.findings import Findings
from sga_kohya.errors import SgaError
from sga_kohya.kit.safetensors_file import tensor_shapes

# What a family cannot start without, by the beginning of its scripts' names.
_NEEDED = {
    "flux": ("pretrained_model_name_or_path", "ae", "clip_l", "t5xxl"),
    "sd3": ("pretrained_model_name_or_path",),
    "lumina": ("pretrained_model_name_or_path", "gemma2", "ae"),
    "anima": ("pretrained_model_name_or_path", "qwen3", "vae"),
    "hunyuan": ("pretrained_model_name_or_path", "text_encoder", "byt5", "vae"),
    "": ("pretrained_model_name_or_path",),
}
_FILES = ("pretrained_model_name_or_path", "ae", "vae", "clip_l", "clip_g", "t5xxl", "gemma2", "qwen3", "byt5") + (
    *("text_encoder", "llm_adapter_path", "network_weights", "sample_prompts"),
)
# Options that only one family has; the first that is set tells which.
_FAMILY_BY_OPTION = {
    **{"qwen3": "anima", "byt5": "hunyuan_image", "gemma2": "lumina", "clip_g": "sd3"},
    **{"ae": "flux", "model_type": "flux", "no_half_vae": "sdxl"},
}
# Tensors that only one family's checkpoints have.
_FAMILY_BY_TENSOR = {
    "conditioner.embedders.1": "sdxl",
    "joint_blocks": "sd3",
    "double_blocks": "flux",
    "cond_stage_model": "",
}


def guess_script(options: Mapping[str, Any]) -> str:
    """The script that a TOML is meant for: by its options, else by its checkpoint. Raises SgaError when none tells."""
    adapter = bool(options.get("network_module"))
    family = next((name for key, name in _FAMILY_BY_OPTION.items() if options.get(key)), None)
    if family is None:
        names = tensor_shapes(Path(str(options.get("pretrained_model_name_or_path"))))
        family = next((f for part, f in _FAMILY_BY_TENSOR.items() if any(part in name for name in names)), None)
    if family is None:
        raise SgaError("which trainer is this for? Add --script, such as --script sdxl_train_network.py")
    if family == "" and not adapter:
        return "train_db.py"
    return f"{family}_train{'_network' if adapter else ''}.py".removeprefix("_")


def host_parser(script: Path) -> argparse.ArgumentParser:
    """The real parser of a script; its checkout must be installed into (seams.install) or first on sys.path."""
    return runpy.run_path(str(script), run_name="sga_kohya_doctor")["setup_parser"]()


def parse(parser: argparse.ArgumentParser, settings: Mapping[str, Any], words: Sequence[str]) -> argparse.Namespace:
    """What the script will see. settings: of the TOML. Raises SgaError with the parser's own words when it refuses."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(list(words), namespace=argparse.Namespace(**settings))
    except SystemExit:
        raise SgaError(said.getvalue().strip().splitlines()[-1]) from None


def check_models(script: str, args: argparse.Namespace, findings: Findings) -> None:
    """Every file that the options name is there, and everything is named that the family needs."""
    needed = list(next(keys for family, keys in _NEEDED.items() if script.startswith(family)))
    if getattr(args, "model_type", "") == "chroma":
        needed.remove("clip_l")  # Chroma has none
    present = []
    for key in dict.fromkeys([*needed, *_FILES]):
        value = getattr(args, key, None)
        if not value:
            if key in needed:
                findings.error(f"--{key} is not set, and {script} cannot start without it")
        elif Path(str(value)).exists():
            present.append(key)
        elif key == "pretrained_model_name_or_path" and _may_be_a_repository(str(value)):
            findings.warning(f"{key} = {value}: no such file here, so it will be fetched from Hugging Face")
        else:
            findings.error(f"{key} = {value}: {Path(str(value)).absolute()} does not exist; correct the path")
    if present:
        findings.ok(f"there are files for {', '.join(present)}")


def _may_be_a_repository(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).suffix and not name.startswith(("/", ".", "~"))


def check_network(args: argparse.Namespace, findings: Findings) -> None:
    """The adapter's module can be imported, as the script will do it."""
    name = getattr(args, "network_module", None)
    if not name:
        return
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        package = "lycoris-lora" if name.startswith("lycoris") else None
        findings.error(f"{name}: {error}" + (f"; pip install {package}" if package else "; correct network_module"))
        return
    if hasattr(module, "create_network"):
        rank, arguments = args.network_dim or "by default", args.network_args or "no arguments"
        findings.ok(f"{name}, rank {rank}, alpha {args.network_alpha:g}, {arguments}")
    else:
        findings.error(f"{name} has no create_network, so it is no network module of sd-scripts")


def checkpoint_size(args: argparse.Namespace) -> int | None:
    """Bytes of a saved model, at most: an adapter of full rank coverage, else the model itself. None if unknown."""
    path = Path(str(args.pretrained_model_name_or_path))
    shapes = tensor_shapes(path)
    if not shapes:
        return None
    if not getattr(args, "network_module", None):
        return path.stat().st_size
    rows_and_columns = sum(shape[0] + shape[1] for shape in shapes.values() if len(shape) >= 2)
    width = 4 if args.save_precision in (None, "float") else 2
    return rows_and_columns * (args.network_dim or 4) * width
