"""The paper's ablation (section 4.5) from one training TOML: three TOMLs and the plan that compares them."""

import json
import os
import re
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan import pictures
from sga_kohya.hosts.sd_scripts.samplers import flat
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.toml_file import parse_toml, read_toml

# role: label, sga_tuples, sga_modulation
ARMS = {
    "full": ("Full SGA", True, True),
    "without_tuples": ("w/o Tuple-wise Opt.", False, True),
    "without_modulation": ("w/o Scale-Adaptive Mod.", True, False),
}


def write_ablation(
    base: Path, out: Path, prompts: Path | None, references: Path | None, door: str = "flux_train_network"
) -> list[Path]:
    """Write full.toml, without_tuples.toml, without_modulation.toml and plan.toml into `out`. Returns their paths.

    Everything but the three keys that differ stays as it is in `base`, comments included. Raises SgaError when base is
    no training TOML, prompts or references are not there, or a file of that name is there with another content.
    """
    text, settings = _read(base)
    if prompts is not None and not prompts.is_file():
        raise SgaError(f"--prompts {prompts}: there is no such file; give one with a prompt a line")
    if references is not None and not pictures(references):
        raise SgaError(f"--references {references}: no image in it; give a folder of images of the domain")
    name = str(settings.get("output_name") or base.stem)
    contents = {}
    for role, (_, tuples, modulation) in ARMS.items():
        keys = {"output_name": f"{name}-{role}", "sga_tuples": tuples, "sga_modulation": modulation}
        contents[f"{role}.toml"] = with_keys(text, settings, keys, base)
    contents["plan.toml"] = plan_text(name, settings, prompts, references, door)
    out.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        path = out / file
        if path.exists() and path.read_text(encoding="utf-8") != content:
            raise SgaError(f"{path} exists with another content: remove it, or name another folder with --out")
    for file, content in contents.items():
        write_whole(out / file, content)
    return [out / file for file in contents]


def unequal(base: Path) -> str:
    """A warning when the arms would not see the same number of slices; empty when they will."""
    settings = _read(base)[1]
    if "max_train_steps" in settings and "max_train_epochs" not in settings and "sga_stop_at_hours" not in settings:
        return (
            "max_train_steps counts tuple steps, so the arm without tuples would see fewer slices: "
            "set max_train_epochs or sga_stop_at_hours instead"
        )
    return ""


def with_keys(text: str, settings: dict[str, Any], keys: dict[str, Any], base: Path) -> str:
    """The TOML with these keys on top and their old lines gone. Raises SgaError if that would change anything else."""
    pattern = re.compile(rf"^[ \t]*(?:{'|'.join(keys)})[ \t]*=.*\n?", re.MULTILINE)
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    result = f"# One arm of the ablation of {base.name}.\n{lines}\n{pattern.sub('', text)}"
    try:
        same = flat(parse_toml(result, str(base))) == {**settings, **keys}
    except SgaError:
        same = False
    if not same:
        raise SgaError(f"{base}: write each of {', '.join(keys)} on a line of its own, so that it can be replaced")
    return result


def plan_text(name: str, settings: dict[str, Any], prompts: Path | None, references: Path | None, door: str) -> str:
    folder = os.path.abspath(str(settings.get("output_dir") or "."))
    lines = [
        f"# Compares the arms of the ablation of {name}: python -m sga_kohya.evaluate run plan.toml",
        f"title = {json.dumps(f'Ablation of {name}')}",
        'out = "evaluation"',
        "seeds = [1, 2, 3, 4, 5]",
        "",
        "[generate]",
        "# The training script samples with every network as it was trained, LyCORIS included.",
        f'script = "{door}.py"',
        'config = "{variant}.toml"',
        "",
        "[[datasets]]",
        f"name = {json.dumps(re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'dataset')}",
        f"references = {json.dumps(os.path.abspath(references) if references else 'REFERENCES')}",
        f"prompts_file = {json.dumps(os.path.abspath(prompts) if prompts else 'prompts.txt')}",
    ]
    for role, (label, *_) in ARMS.items():
        lines += ["", "[[variants]]", f'name = "{role}"', f"label = {json.dumps(label)}", f'role = "{role}"']
        lines += [f"weights = {json.dumps(os.path.join(folder, f'{name}-{role}.safetensors'))}"]
    return "\n".join([*lines, ""])


def _read(base: Path) -> tuple[str, dict[str, Any]]:
    if not base.is_file():
        raise SgaError(f"{base}: there is no such TOML")
    settings = flat(read_toml(base))
    text = base.read_text(encoding="utf-8-sig")
    if "pretrained_model_name_or_path" not in settings:
        raise SgaError(f"{base} is no training TOML: it has no pretrained_model_name_or_path")
    if settings.get("sga") is False:
        raise SgaError(f"{base}: sga = false switches every arm off: remove it")
    return text, settings
