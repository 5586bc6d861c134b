"""What the machine has: packages and pins, a GPU, room on the disk."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sga_kohya.doctor.findings import Findings
from sga_kohya.doctor.patient import Pins
from sga_kohya.hosts.checks import SWITCHED_OFF

# A trainer's list has none of them, yet nothing runs without.
_ALWAYS = ("torch", "torchvision")
# Needed only by what is asked for, listed by the trainer or not: (optimizer_type in small letters, all options).
_WHERE_ASKED: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "bitsandbytes": lambda optimizer, _: "8bit" in optimizer or optimizer.startswith("paged"),
    "dadaptation": lambda optimizer, _: optimizer.startswith("dadapt"),
    "tensorboard": lambda _, options: options.get("log_with") in ("tensorboard", "all"),
    "wandb": lambda _, options: options.get("log_with") in ("wandb", "all"),
    "xformers": lambda _, options: _is_on(options, "xformers") or options.get("attn_mode") == "xformers",
    "flash-attn": lambda _, options: _is_on(options, "flash_attn"),
    "sageattention": lambda _, options: _is_on(options, "sage_attn"),
    "deepspeed": lambda _, options: _is_on(options, "deepspeed"),
}
_GIGABYTE = 1024**3
_ATTENTION = ("sdpa", "xformers", "mem_eff_attn", "attn_mode", "use_flash_attn", "flash_attn", "flash3")


def check_packages(host: str, listed: tuple[str, Pins], options: Mapping[str, Any], findings: Findings) -> None:
    """Compare what is installed with a trainer's own pins. listed: what they are listed in, and they."""
    wrong, (where, pins) = 0, listed
    optimizer = str(options.get("optimizer_type") or "").lower()
    asked = [name for name, wants in _WHERE_ASKED.items() if wants(optimizer, options)]
    wanted = {**dict.fromkeys((*_ALWAYS, *asked)), **dict(pins)}
    for name, pin in wanted.items():
        if name in _WHERE_ASKED and name not in asked:
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            wrong += 1
            findings.error(f"{name} is not installed: pip install {name}{f'=={pin}' if pin else ''}")
            continue
        if pin and installed.partition("+")[0] != pin:
            wrong += 1
            findings.warning(f"{name} is {installed}, and this {host} pins {pin}: pip install {name}=={pin}")
    if not wrong:
        findings.ok(f"everything that {where} asks for, torch {version('torch')}")


def pins_in(lines: Iterable[str]) -> Pins:
    """Of requirements as pip writes them: name, name==version, name>=version; with anything else they say nothing."""
    pattern = r"([A-Za-z][\w.-]*)(?:\[[^]]*\])?(?:==([\w.+]+)|>=[\w.]+)?\s*$"
    return [(match[1], match[2]) for line in lines if (match := re.match(pattern, line.strip()))]


def _is_on(options: Mapping[str, Any], name: str) -> bool:
    return options.get(name) not in SWITCHED_OFF


def check_gpu(options: Mapping[str, Any], findings: Findings) -> None:
    """A GPU, and a precision that it can compute in."""
    import torch

    precision = str(options.get("mixed_precision") or "no")
    if not torch.cuda.is_available():
        findings.warning("torch sees no CUDA device here: training on a CPU takes weeks")
        return
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    count = torch.cuda.device_count()
    findings.ok(f"{f'{count} x ' if count > 1 else ''}{name}, {memory / _GIGABYTE:.0f} GB, mixed_precision {precision}")
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        findings.error(f"{name} cannot compute in bf16: set mixed_precision to fp16")
    if precision == "no":
        findings.warning("without mixed_precision everything is float32: slow, and twice the memory; set bf16 or fp16")
    if not any(options.get(key) for key in _ATTENTION):
        findings.warning("no efficient attention is chosen: set sdpa = true")
    if memory < 20 * _GIGABYTE and not options.get("gradient_checkpointing"):
        findings.warning("gradient_checkpointing = true saves much memory, and this GPU has little")


def check_disk(folder: Path, size: int | None, count: int, findings: Findings) -> None:
    """Room for count files of size bytes (None where nobody knows) in a folder that need not exist yet."""
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if size is None:
        text = f"{free / _GIGABYTE:.1f} GB free for {count} checkpoints below {parent}"
        findings.ok(text) if free > _GIGABYTE else findings.warning(f"only {text}")
        return
    text = f"{count} checkpoints of about {size / _GIGABYTE:.2f} GB, and {free / _GIGABYTE:.1f} GB free below {parent}"
    if free < size * count:
        findings.error(f"{text}: make room, or save less often (save_every_n_epochs, save_last_n_epochs)")
    else:
        findings.ok(text)
