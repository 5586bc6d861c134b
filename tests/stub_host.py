"""A checkout with the host's names and none of its work, laid out as v0.11: train_util is a facade of re-exports."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = {
    "train_network.py": "",
    "flux_train_network.py": "",
    "library/__init__.py": "",
    "library/accelerator_setup.py": """
from accelerate import Accelerator

def prepare_accelerator(args):
    return Accelerator(gradient_accumulation_steps=args.gradient_accumulation_steps, cpu=True)
""",
    "library/model_io.py": """
def get_sai_model_spec(state_dict, args, sdxl, lora, textual_inversion):
    return {"modelspec.title": args.title}
""",
    "library/train_util.py": """
from library.accelerator_setup import prepare_accelerator
from library.model_io import get_sai_model_spec

def split_train_val(paths, sizes, is_training_dataset, validation_split, validation_seed):
    cut = int(len(paths) * validation_split)
    return (paths[cut:], sizes[cut:]) if is_training_dataset else (paths[:cut], sizes[:cut])

def untouched():
    return "stock"
""",
    "library/config_util.py": """
def add_config_arguments(parser):
    parser.add_argument("--dataset_config")

def generate_dataset_group_by_blueprint(dataset_group_blueprint):
    return dataset_group_blueprint, None
""",
    "library/flux_train_utils.py": """
import torch

def get_noisy_model_input_and_timesteps(args, noise_scheduler, latents, noise, device, dtype):
    sigmas = torch.sigmoid(torch.randn(latents.shape[0]))
    if args.bf16_sigmas:
        sigmas = sigmas.to(dtype)
    sigmas = sigmas.view(-1, *[1] * (latents.ndim - 1))
    noisy = (1.0 - sigmas) * latents + sigmas * (noise + args.ip_noise_gamma * torch.randn_like(latents))
    return noisy.to(dtype), (sigmas.flatten() * 1000).to(dtype), sigmas
""",
    "library/by_name.py": "from library.flux_train_utils import get_noisy_model_input_and_timesteps as sample\n",
}


def write(root: Path, **changes: str | None) -> Path:
    """Write the checkout. changes: "library/x.py" (as library__x) to other source, or None to leave the file out."""
    for name, source in (FILES | {key.replace("__", "/") + ".py": text for key, text in changes.items()}).items():
        if source is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(source)
    return root


@contextmanager
def importable() -> Iterator[None]:
    """Forget the host's modules afterwards, so that another test can load another one."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.split(".")[0] == "library"]:
            del sys.modules[name]
