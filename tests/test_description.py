"""A dataset's description against the trainer's schema: what that refuses is one sentence, and the rest passes."""

import argparse
from types import SimpleNamespace

import pytest
from voluptuous import ALLOW_EXTRA, Any, ExactSequence, Invalid, Object, Required, Schema

from sga_kohya import SgaConfig, SgaError
from sga_kohya.hosts import description
from sga_kohya.hosts.seam import Seam
from sga_kohya.training.session import Session

OF_ITEMS = {"num_repeats": int, "caption_extension": str, "color_aug": bool, "custom_attributes": dict}
GENERAL = {
    **OF_ITEMS,
    "batch_size": int,
    "validation_split": float,
    "caption_dropout_rate": Any(float, int),
    "resolution": lambda value: Schema(Any(int, ExactSequence([int, int])))(value),
    "face_crop_aug_range": ExactSequence([float, float]),
}


class Sanitizer:
    """Of a trainer's kind: the same checks by the same library."""

    def __init__(self) -> None:
        self.general_schema = GENERAL
        self.other_schema = {"metadata": str}  # of another kind, which this script does not train on
        self.subset_schema = {**OF_ITEMS, Required("image_dir"): str, "is_reg": bool}
        self.argparse_schema = {**GENERAL, "train_batch_size": int, "max_token_length": Any(None, int)}

    def check(self, description: dict, settings: argparse.Namespace) -> None:
        dataset = {**GENERAL, "subsets": [self._subset]}
        Schema({"general": GENERAL, "datasets": [dataset]})(description)
        Schema(Object(self.argparse_schema), extra=ALLOW_EXTRA)(settings)

    def _subset(self, subset: dict) -> dict:
        if "metadata_file" in subset:
            raise Invalid("these two kinds cannot be mixed / 混在")
        return Schema(self.subset_schema)(subset)


def generate(self, user_config, argparse_namespace, **runtime_params):
    self.sanitizer.check(user_config, argparse_namespace)
    return user_config, argparse_namespace, runtime_params


SEAM: Seam = description.seam("library.config_util.BlueprintGenerator.generate", "host", "datasets.subsets")


def check(tables: dict, **settings: object) -> tuple:
    replaced = SEAM.replace(generate, Session(SgaConfig()))
    namespace = argparse.Namespace(dataset_config="d.toml", **settings)
    return replaced(SimpleNamespace(sanitizer=Sanitizer()), tables, namespace, tokenizer=1)


def of_subset(**keys: object) -> dict:
    return {"datasets": [{"subsets": [{"image_dir": "x"}, {"image_dir": "x", **keys}]}]}


def test_what_the_schema_takes_passes_unchanged():
    tables = of_subset(num_repeats=2)
    assert check(tables, batch_size=4) == (tables, check(tables, batch_size=4)[1], {"tokenizer": 1})


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (of_subset(num_repeats="3"), 'datasets.1.subsets.2.num_repeats = "3": write a whole number'),
        (of_subset(num_repeats=3.0), "datasets.1.subsets.2.num_repeats = 3.0: write a whole number"),
        (of_subset(color_aug="true"), 'datasets.1.subsets.2.color_aug = "true": write true or false'),
        (of_subset(caption_extension=5), 'datasets.1.subsets.2.caption_extension = 5: write it in quotes: "5"'),
        (of_subset(custom_attributes="micro"), 'custom_attributes = "micro": write a table of keys'),
        (of_subset(caption_extention=".txt"), "caption_extention: host knows no such key there; did you mean caption_"),
        (of_subset(image_directory="x"), "image_directory: host knows no such key there; did you mean image_dir?"),
        (of_subset(batch_size=2), "no such key there; leave it out, or move it to [general] or [[datasets]]"),
        (of_subset(train_batch_size=2), "no such key there; leave it out, or move it to the settings of the training"),
        (of_subset(metadata_file="x"), "datasets.1.subsets.2: these two kinds cannot be mixed"),
        ({"datasets": [{"is_reg": True}]}, "datasets.1.is_reg: host knows no such key there; leave it out, or move it"),
        ({"datasets": [{"is_reg": True}]}, "or move it to [[datasets.subsets]]"),
        ({"datasets": [{"subsets": [{}]}]}, "datasets.1.subsets.1.image_dir is missing; write it"),
        ({"datasets": [{"validation_split": 0}]}, "datasets.1.validation_split = 0: write it with a point: 0.0"),
        ({"general": {"resolution": "512,512"}}, 'general.resolution = "512,512": write a whole number, or two in [ ]'),
        ({"general": {"face_crop_aug_range": "1.0,2.0"}}, 'range = "1.0,2.0": write two numbers in [ ]'),
        ({"datasets": {"subsets": []}}, "datasets: write a list in [ ]"),
        ({"resolution": 512}, "resolution: host knows no such key there; leave it out, or move it to [general]"),
    ],
)
def test_what_it_refuses_is_said_with_place_value_and_remedy(tables, said):
    with pytest.raises(SgaError) as error:
        check(tables)
    text = str(error.value)
    assert said in text and text.startswith("--dataset_config d.toml: ") and "\n" not in text and "混" not in text


@pytest.mark.parametrize("key", ["colour", "metadata"])
def test_a_key_that_belongs_nowhere_else_is_to_be_left_out(key):
    with pytest.raises(SgaError) as error:
        check(of_subset(**{key: "x"}))
    assert str(error.value).endswith(f"subsets.2.{key}: host knows no such key there; leave it out")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train_batch_size", "4", 'train_batch_size = "4": write a whole number'),
        ("validation_split", 0, "validation_split = 0: write it with a point: 0.0"),
        ("caption_dropout_rate", "0.1", 'caption_dropout_rate = "0.1": write a number'),
        ("color_aug", 1, "color_aug = 1: write true or false"),
    ],
)
def test_a_setting_that_stands_for_all_datasets_is_not_said_of_their_file(key, value, said):
    with pytest.raises(SgaError) as error:
        check(of_subset(), **{key: value})
    assert str(error.value) == said


def test_all_that_is_refused_is_said_at_once_and_a_flood_is_counted():
    with pytest.raises(SgaError) as error:
        check({"datasets": [{"subsets": [{"num_repeats": "1"}]}]})
    assert str(error.value) == (
        "--dataset_config d.toml: datasets.1.subsets.1.image_dir is missing; write it; "
        'datasets.1.subsets.1.num_repeats = "1": write a whole number'
    )
    with pytest.raises(SgaError, match="and 4 more like these$"):
        check(of_subset(**{f"colour {number}": 1 for number in range(9)}))
