"""A checkout with the host's names and none of its work, laid out as v0.11: train_util is a facade of re-exports."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_FLUX_SAMPLING = """
import torch

def get_noisy_model_input_and_timesteps(args, noise_scheduler, latents, noise, device, dtype):
    sigmas = torch.sigmoid(torch.randn(latents.shape[0]))
    if args.bf16_sigmas:
        sigmas = sigmas.to(dtype)
    sigmas = sigmas.view(-1, *[1] * (latents.ndim - 1))
    noisy = (1.0 - sigmas) * latents + sigmas * (noise + args.ip_noise_gamma * torch.randn_like(latents))
    return noisy.to(dtype), (sigmas.flatten() * 1000).to(dtype), sigmas
"""

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

class ModelSpec:
    def __init__(self, title):
        self.title = title

    def to_metadata_dict(self):
        return {f"modelspec.{name}": value for name, value in vars(self).items()}

def get_sai_model_spec_dataclass(state_dict, args, sdxl, lora, textual_inversion):
    return ModelSpec(args.title)
""",
    "library/loss.py": """
import torch

def get_noise_noisy_latents_and_timesteps(args, noise_scheduler, latents):
    noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, latents.shape[:1])
    return noise, latents + noise, timesteps

def conditional_loss(model_pred, target, loss_type, reduction, huber_c=None):
    return torch.nn.functional.mse_loss(model_pred, target, reduction=reduction)
""",
    "library/args.py": """
import argparse, toml

def read_config_from_file(args, parser):
    if not args.config_file:
        return args
    with open(args.config_file) as file:
        settings = toml.load(file)
    merged = {key: value for section in settings.values() for key, value in section.items()}
    return parser.parse_args(namespace=argparse.Namespace(**merged))
""",
    "library/custom_train_functions.py": """
import torch

def apply_snr_weight(loss, timesteps, noise_scheduler, gamma, v_prediction=False):
    snr = torch.stack([noise_scheduler.all_snr[t] for t in timesteps])
    return loss * torch.minimum(snr, torch.full_like(snr, gamma)) / (snr + 1 if v_prediction else snr)
""",
    "library/sd3_train_utils.py": """
import torch

def get_noisy_model_input_and_timesteps(args, latents, noise, device, dtype):
    low, high = args.min_timestep or 0, 1000 if args.max_timestep is None else args.max_timestep
    timesteps = (torch.rand(latents.shape[0]) * (high - low) + low).long().to(dtype)
    sigmas = (timesteps / 1000).view(-1, 1, 1, 1)
    return sigmas * noise + (1.0 - sigmas) * latents, timesteps, sigmas
""",
    "library/safetensors_utils.py": """
def mem_eff_save_file(tensors, filename, metadata=None):
    pass
""",
    "library/checkpoint_io.py": """
def get_step_ckpt_name(args, ext, step_no):
    return f"{args.output_name}-step{step_no:08d}{ext}"
""",
    "library/train_util.py": """
from library.accelerator_setup import prepare_accelerator
from library.args import read_config_from_file
from library.checkpoint_io import get_step_ckpt_name
from library.loss import conditional_loss, get_noise_noisy_latents_and_timesteps
from library.model_io import get_sai_model_spec, get_sai_model_spec_dataclass

def split_train_val(paths, sizes, is_training_dataset, validation_split, validation_seed):
    cut = int(len(paths) * validation_split)
    return (paths[cut:], sizes[cut:]) if is_training_dataset else (paths[:cut], sizes[:cut])

def untouched():
    return "stock"
""",
    "library/config_util.py": """
def add_config_arguments(parser):
    parser.add_argument("--dataset_config")

class BlueprintGenerator:
    def __init__(self, sanitizer):
        self.sanitizer = sanitizer

    def generate(self, user_config, argparse_namespace, **runtime_params):
        return self.sanitizer.sanitize_user_config(user_config)

class DatasetGroup:
    def __init__(self, datasets):
        self.datasets = datasets

def generate_dataset_group_by_blueprint(dataset_group_blueprint):
    datasets = [blueprint.build(True) for blueprint in dataset_group_blueprint.datasets]
    validation = [
        blueprint.build(False) for blueprint in dataset_group_blueprint.datasets if blueprint.params.validation_split
    ]
    return DatasetGroup(datasets), DatasetGroup(validation) if validation else None
""",
    "library/flux_train_utils.py": _FLUX_SAMPLING,
    "library/lumina_train_util.py": _FLUX_SAMPLING,
    "library/by_name.py": "from library.flux_train_utils import get_noisy_model_input_and_timesteps as sample\n"
    "from library.custom_train_functions import apply_snr_weight\n",
}


def write(root: Path, **changes: str | None) -> Path:
    """Write the checkout. changes: "library/x.py" (as library__x) to other source, or None to leave the file out."""
    for name, source in (FILES | {key.replace("__", "/") + ".py": text for key, text in changes.items()}).items():
        if source is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(source)
    return root


def blueprint(*datasets: Any) -> SimpleNamespace:
    """Of a group of datasets that are made already and not split."""
    plain = {"params": SimpleNamespace(validation_split=0.0, validation_seed=None), "subsets": []}
    plain |= {"is_dreambooth": True, "is_controlnet": False}
    made = [SimpleNamespace(**plain, build=lambda training, dataset=dataset: dataset) for dataset in datasets]
    return SimpleNamespace(datasets=made)


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
