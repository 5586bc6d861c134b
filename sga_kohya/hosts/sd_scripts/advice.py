"""Warnings where users get hurt: what runs, but not as its owner may think. The plan shows them, and the doctor."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_kohya.errors import SgaError
from sga_kohya.hosts.checks import dora_advice, static_graph_advice
from sga_kohya.hosts.sd_scripts.captions import caption_advice, mangled_text
from sga_kohya.hosts.sd_scripts.folders import Folder, batch_sizes, find_folders
from sga_kohya.hosts.sd_scripts.masks import mask_advice

_HOSTS_WORKERS = 8  # sd-scripts' default of --max_data_loader_n_workers


def advice(options: Mapping[str, Any]) -> Iterator[str]:
    """Every warning about a run's settings and folders. options: by name, as read_options gives them, or vars(args)."""
    yield from dora_advice(options)
    yield from static_graph_advice(options)
    prompts = Path(str(options.get("sample_prompts") or ""))
    if prompts.suffix == ".txt" and prompts.is_file():
        yield from mangled_text([prompts])
    try:
        folders = find_folders(options)
    except SgaError:
        return  # said by checks.problems
    yield from unread_options(options)
    yield from inline_attributes(options, folders)
    yield from mask_advice(folders, options)
    for folder in folders:
        yield from caption_advice(folder)


def unread_options(options: Mapping[str, Any]) -> Iterator[str]:
    """What the settings say of the data beside --dataset_config, and sd-scripts passes over."""
    if not options.get("dataset_config"):
        return
    file, asked, sizes = options["dataset_config"], str(options.get("train_batch_size") or 1), batch_sizes(options)
    if asked != "1" and any(str(size) != asked for size in sizes):  # 1 is what is there where nothing was asked for
        yield (
            f"train_batch_size = {asked} is not read, because {file} has batch_size = {sizes[0]}: set it there; "
            f"`python -m sga_kohya.hsd PHOTOS OUT --batch_size {asked}` writes it"
        )
    if options.get("reg_data_dir"):
        yield (
            f"reg_data_dir is not read beside --dataset_config: to train on regularisation images too, copy {file} and "
            "add a subset of that folder with is_reg = true"
        )


def inline_attributes(options: Mapping[str, Any], folders: Sequence[Folder]) -> Iterator[str]:
    """toml 0.10.2 makes an inline table an object of a local class, which sd-scripts up to v0.11.1 keeps as it is."""
    workers = options.get("max_data_loader_n_workers")
    if int(_HOSTS_WORKERS if workers is None else workers) == 0:
        return
    broken = [folder for folder in folders if not _can_be_pickled(folder.attributes)]
    if broken:
        key, value = next(iter(broken[0].attributes.items()))
        text = f'"{value}"' if isinstance(value, str) else value
        yield (
            f"{broken[0].path}: custom_attributes is an inline table, which data loader workers of sd-scripts v0.10.0 "
            "to v0.11.1 cannot pickle, so training stops at its first batch. Write a table of its own below the "
            f"subset: [datasets.subsets.custom_attributes] and then {key} = {text}; or set "
            "max_data_loader_n_workers = 0"
        )


def _can_be_pickled(value: object) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
