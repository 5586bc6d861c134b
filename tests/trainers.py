"""What other trainers make of our files, by their own code: `python tests/trainers.py NAME FILE SIZES`, as JSON.

Their readers are imported from public copies in TRAINERS without what they need: torch, diffusers and the like stand in
as anything. SIZES: a JSON list of [width, height]; the answer has what each becomes, where the trainer's code tells.
"""

import ast
import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

TRAINERS = Path(os.environ.get("SGA_TRAINERS_DIR") or "~/.cache/sga_kohya/trainers").expanduser()
STOCK = TRAINERS.parent / "sd-scripts-dev"

REAL = {"numpy", "PIL", "toml", "tqdm", "yaml", *sys.stdlib_module_names}
"""Top names that are imported as they are."""


class _Anything(type):
    """A class of which every attribute, item, call and union is it again; it can be a base and a decorator."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *args, **kwargs):
        return cls

    def __getitem__(cls, key):
        return cls

    def __iter__(cls):
        return iter(())

    def __or__(cls, other):
        return cls

    __ror__ = __or__


class Anything(metaclass=_Anything):
    pass


class _Loader(importlib.abc.Loader):
    def create_module(self, spec):
        module = ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = lambda name: getattr(Anything, name)
        return module

    def exec_module(self, module):
        pass


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, own, needless):
        self.own, self.needless = own, needless

    def find_spec(self, name, path=None, target=None):
        own = name.split(".")[0] in {*REAL, *self.own}
        if own and not any(f"{name}.".startswith(f"{part}.") for part in self.needless):
            return None
        return importlib.machinery.ModuleSpec(name, _Loader(), is_package=True)


def stand_in(root: Path, own: str, needless: tuple[str, ...] = ()) -> None:
    """Make `import OWN` work. root: of the copy. needless: modules of its own that stand in as well."""
    sys.path.insert(0, str(root))
    sys.meta_path.insert(0, _Finder({own}, needless))


def _import_simpletuner() -> None:
    parts = "training logging models caching image_manipulation distillation metadata prompts utils configuration"
    stand_in(TRAINERS / "SimpleTuner", "simpletuner", tuple(f"simpletuner.helpers.{part}" for part in parts.split()))
    package = sys.modules["simpletuner"] = ModuleType("simpletuner")  # its __init__ changes the process
    package.__path__ = [str(TRAINERS / "SimpleTuner" / "simpletuner")]


def _settings() -> SimpleNamespace:
    args = SimpleNamespace(resolution=1024, resolution_type="pixel_area", train_batch_size=1)
    args.controlnet, args.model_type, args.compress_disk_cache = False, "lora", False
    return args


def simpletuner(file: Path, sizes: list) -> list[dict]:
    _import_simpletuner()
    from simpletuner.helpers.data_backend import config_rules, factory
    from simpletuner.helpers.multiaspect import image

    image.StateTracker = SimpleNamespace(
        get_args=lambda: SimpleNamespace(aspect_bucket_alignment=64),
        get_resolution_by_aspect=lambda **_: None,
        set_resolution_by_aspect=lambda **_: None,
    )
    args = _settings()
    backends = json.loads(file.read_text(encoding="utf-8"))
    assert len({backend["id"] for backend in backends}) == len(backends)
    bad = [result for result in config_rules._validate_dataloader_specific({"datasets": backends}) if not result.passed]
    assert not bad, bad
    *levels, text = backends
    assert factory.create_backend_config(text, vars(args)).dataset_type == "text_embeds"
    return [_backend(factory, image.MultiaspectImage, backend, args, sizes) for backend in levels]


def _backend(factory, aspect, backend: dict, args, sizes: list) -> dict:
    factory.FactoryRegistry._handle_resolution_conversion(SimpleNamespace(args=args), backend)
    config = factory.create_backend_config(backend, vars(args))
    config.validate(vars(args))
    read = factory.init_backend_config(backend, args, None)["config"]
    assert read["timestep_sampling_offset"] == config.timestep_sampling_offset
    made = [aspect.calculate_new_size_by_pixel_area(round(w / h, 2), read["resolution"], (w, h))[0] for w, h in sizes]
    assert all(side % 64 == 0 for size in made for side in size)
    return {
        "folder": read["instance_data_dir"],
        "repeats": config.repeats + 1,
        "offset": config.timestep_sampling_offset,
        "area": read["resolution"],
    }


def simpletuner_masks(file: Path, slices: list) -> list[str]:
    """Which file it reads as the mask of each slice, by the code of its sampler."""
    _import_simpletuner()
    from simpletuner.helpers.data_backend import config_rules, factory
    from simpletuner.helpers.multiaspect import sampler

    backends = json.loads(file.read_text(encoding="utf-8"))
    assert all(found.passed for found in config_rules._validate_dataloader_specific({"datasets": backends}))
    by_id = {backend["id"]: backend for backend in backends}
    sampler.StateTracker = SimpleNamespace(
        get_data_backend=lambda name: {"config": {"instance_data_dir": by_id[name]["instance_data_dir"]}},
        get_data_backend_config=lambda name: {},
    )
    read = []
    for path in slices:
        (images,) = (found for found in backends if found.get("instance_data_dir") == str(Path(path).parent))
        backend = by_id[images["conditioning_data"]]
        config = factory.create_backend_config(backend, vars(_settings()))
        config.validate(vars(_settings()))
        assert (str(config.dataset_type.value), config.conditioning_type) == ("conditioning", "mask")
        assert backend["source_dataset_id"] == images["id"]
        reader = SimpleNamespace(
            id=backend["id"],
            source_dataset_id=backend["source_dataset_id"],
            metadata_backend=SimpleNamespace(instance_data_dir=backend["instance_data_dir"]),
            data_backend=SimpleNamespace(read_image=lambda file: read.append(file) if Path(file).is_file() else None),
            debug_log=lambda words: None,
        )
        sampler.MultiAspectSampler.get_conditioning_sample(reader, path)
    return read


def ai_toolkit(file: Path, sizes: list) -> list[dict]:
    stand_in(TRAINERS / "ai-toolkit", "toolkit")
    import yaml

    sys.modules["oyaml"] = yaml
    from toolkit.buckets import get_bucket_for_image_size
    from toolkit.config import get_config
    from toolkit.config_modules import DatasetConfig, preprocess_dataset_raw_config

    (process,) = get_config(str(file))["config"]["process"]
    assert process["type"] == "sd_trainer" and process["train"]["lr"] == 1e-4
    return [
        {
            "folder": dataset.folder_path,
            "repeats": dataset.num_repeats,
            "sizes": [
                list(get_bucket_for_image_size(w, h, dataset.resolution, dataset.bucket_tolerance).values())
                for w, h in sizes
            ],
        }
        for dataset in (DatasetConfig(**raw) for raw in preprocess_dataset_raw_config(process["datasets"]))
        if dataset.buckets and dataset.caption_ext == ".txt"
    ]


def onetrainer(file: Path, sizes: list) -> list[dict]:
    stand_in(TRAINERS / "OneTrainer", "modules")
    from modules.util.config.ConceptConfig import ConceptConfig

    raw = json.loads(file.read_text(encoding="utf-8"))
    found = [ConceptConfig.default_values().from_dict(concept) for concept in raw]
    for concept, written in zip(found, raw, strict=True):
        kept = concept.to_dict()
        for part, mine in ((kept, written), (kept["image"], written["image"]), (kept["text"], written["text"])):
            own = {key: value for key, value in mine.items() if not isinstance(value, dict) and key != "written_by"}
            assert own == {key: part[key] for key in own}, "OneTrainer reads something else"
    return [
        {"folder": c.path, "repeats": c.balancing, "side": c.image.resolution_override, "enabled": c.enabled}
        for c in found
    ]


def diffusion_pipe(file: Path, sizes: list) -> list[dict]:
    stand_in(TRAINERS / "diffusion-pipe", "utils")
    import numpy
    import toml
    from utils.dataset import DirectoryDataset

    config = toml.loads(file.read_text(encoding="utf-8"))
    found = [DirectoryDataset(directory, config, "flux") for directory in config["directory"]]
    return [
        {
            "folder": str(directory.path),
            "repeats": directory.directory_config["num_repeats"],
            "sizes": [directory._find_closest_size_bucket(numpy.log(w / h), 1, False)[:2].tolist() for w, h in sizes],
        }
        for directory in found
    ]


def stock(file: Path, sizes: list) -> list[dict]:
    """By the lines of sd-scripts dev that take the offsets of a batch."""
    import toml

    (dataset,) = toml.loads(file.read_text(encoding="utf-8"))["datasets"]
    batch = {"custom_attributes": [subset["custom_attributes"] for subset in dataset["subsets"]]}
    offsets = [
        eval(compile(ast.Expression(line.value), script, "eval"), {"batch": batch})
        for script in ("flux_train_network.py", "anima_train_network.py")
        for line in ast.walk(ast.parse((STOCK / script).read_text(encoding="utf-8")))
        if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "offsets"
    ]
    assert len(offsets) == 2 and offsets[0] == offsets[1]
    return [
        {"folder": subset["image_dir"], "repeats": subset["num_repeats"], "offset": offset}
        for subset, offset in zip(dataset["subsets"], offsets[0], strict=True)
    ]


READERS = {
    "simpletuner": (simpletuner, TRAINERS / "SimpleTuner"),
    "ai-toolkit": (ai_toolkit, TRAINERS / "ai-toolkit"),
    "onetrainer": (onetrainer, TRAINERS / "OneTrainer"),
    "diffusion-pipe": (diffusion_pipe, TRAINERS / "diffusion-pipe"),
    "stock": (stock, STOCK),
}

if __name__ == "__main__":
    read = simpletuner_masks if sys.argv[1] == "simpletuner-masks" else READERS[sys.argv[1]][0]
    print("FOUND", json.dumps(read(Path(sys.argv[2]), json.loads(sys.argv[3]))))
