"""The validation split on a stub host: whole groups, each dataset by its own share, and what validates never trains."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from sga_kohya import SgaConfig, SgaError
from sga_kohya.hosts.sd_scripts.checkout import Checkout
from sga_kohya.hosts.sd_scripts.install import install_for

from . import stub_host

LEVELS = ("macro", "meso", "micro")


@dataclass
class Blueprint:
    """A dataset as a TOML describes it. masks: conditioning_data_dir. metadata: metadata_file, which is not split."""

    folders: Sequence[Path]
    split: float = 0.0
    seed: int | None = None
    regular: Sequence[Path] = ()
    masks: bool = False
    metadata: bool = False

    def __post_init__(self):
        self.is_dreambooth, self.is_controlnet = not self.metadata, self.masks
        self.params = SimpleNamespace(validation_split=self.split, validation_seed=self.seed)
        self.subsets = [
            SimpleNamespace(
                params=SimpleNamespace(image_dir=str(folder), custom_attributes={}, is_reg=folder in self.regular)
            )
            for folder in (*self.folders, *self.regular)
        ]

    def build(self, training: bool) -> SimpleNamespace:
        """As the host does: each folder by itself, and with masks always for training."""
        images, subset_of = {}, {}
        for subset in (subset.params for subset in self.subsets):
            paths = sorted(str(path) for path in Path(subset.image_dir).iterdir())
            if self.split > 0 and not self.metadata:
                if subset.is_reg:
                    paths = paths if training else []
                else:
                    split = import_module("library.train_util").split_train_val
                    sizes = [(len(path), 1) for path in paths]
                    paths, kept = split(paths, sizes, training or self.masks, self.split, self.seed)
                    assert kept == [(len(path), 1) for path in paths]
            for path in paths:
                images[path] = SimpleNamespace(absolute_path=path, is_reg=subset.is_reg, num_repeats=1, bucket_reso=0)
                subset_of[path] = subset
        kept = SimpleNamespace(image_data=images, image_to_subset=subset_of, subsets=[s.params for s in self.subsets])
        shared = {"image_data": images, "batch_size": 2, "seed": 0, "debug_dataset": False}
        if self.masks:
            return SimpleNamespace(**shared, dreambooth_dataset_delegate=kept)
        return SimpleNamespace(**shared, **{name: value for name, value in vars(kept).items() if name not in shared})


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(*blueprints) -> the files that train and those that validate, by dataset; and our dataset."""

    def generate(*blueprints: Blueprint):
        generate = import_module("library.config_util").generate_dataset_group_by_blueprint
        group, validation = generate(SimpleNamespace(datasets=list(blueprints)))
        validated = iter(validation.datasets if validation else [])
        sides = [
            (names(trained), names(next(validated)) if blueprint.split else set())
            for blueprint, trained in zip(blueprints, group.group.datasets, strict=True)
        ]
        return sides, group

    with stub_host.importable():
        root = stub_host.write(tmp_path_factory.mktemp("checkout"))
        sys.path.insert(0, str(root))
        with install_for(SgaConfig(), Checkout(root)):
            yield generate


def names(dataset) -> set[str]:
    return {"/".join(Path(path).parts[-3:]) for path in dataset.image_data}


def stems(files: set[str]) -> set[str]:
    return {Path(file).stem for file in files}


def write(root: Path, numbers, levels=LEVELS) -> list[Path]:
    """Folders `1_macro`, … with empty files `00.png`, …; numbers: a range for all levels, or one for each by name."""
    folders = [root / f"1_{level}" for level in levels]
    for level, folder in zip(levels, folders, strict=True):
        folder.mkdir(parents=True)
        for number in numbers[level] if isinstance(numbers, dict) else numbers:
            (folder / f"{number:02d}.png").touch()
    return folders


def sizes(sides) -> list[tuple[int, int]]:
    return [(len(trained), len(validated)) for trained, validated in sides]


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_siblings_stay_on_one_side_also_where_levels_have_different_photos(build, tmp_path, seed):
    numbers = {"macro": range(20), "meso": range(5, 20), "micro": range(0, 24, 2)}
    folders = write(tmp_path / "data", numbers)
    ((trained, validated),), _ = build(Blueprint(folders, 0.25, seed))
    assert len(trained | validated) == 20 + 15 + 12 and not trained & validated
    assert not stems(trained) & stems(validated)
    assert len(stems(validated)) == round(22 * 0.25), "20 photos, and 2 that have a micro slice only"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((4, 0.25), (4, 1.0), [(9, 3), (0, 12)]),
        ((4, 1.0), (8, 0.25), [(0, 12), (18, 6)]),
        ((4, 0.25), (4, 0.5), [(9, 3), (6, 6)]),
        ((4, 0.5), (4, 0.0), [(6, 6), (12, 0)]),
        ((3, 0.25), (4, 0.25), [(6, 3), (9, 3)]),
        ((2, 0.25), (4, 0.25), [(6, 0), (9, 3)]),
    ],
)
def test_each_dataset_is_split_by_its_own_share_though_stems_repeat(build, tmp_path, first, second, expected, seed):
    blueprints = [
        Blueprint(write(tmp_path / name, range(count)), split, seed)
        for name, (count, split) in (("a", first), ("b", second))
    ]
    sides, _ = build(*blueprints)
    assert sizes(sides) == expected
    for trained, validated in sides:
        assert not stems(trained) & stems(validated)


def test_a_folder_in_datasets_of_different_shares_is_split_by_each(build, tmp_path):
    folders = write(tmp_path / "a", range(8))
    alone = [build(Blueprint(folders, 0.25, seed))[0][0] for seed in (1, 2)]
    first = Blueprint(folders, 0.25, 1)
    sides, group = build(first, Blueprint(folders, 0.25, 2), Blueprint(folders, 0.5, 1), Blueprint(folders, 1.0, 1))
    assert sizes(sides) == [(18, 6), (18, 6), (12, 12), (0, 24)]
    assert sides[:2] == alone and alone[0] != alone[1]
    trained = set().union(*(trains for trains, _ in sides))
    assert [share.trained for share in group.held_out] == [len(held & trained) for _, held in sides]


def test_levels_of_the_same_stems_in_datasets_of_different_shares(build, tmp_path):
    macro, micro = write(tmp_path / "a", range(4), ("macro",)), write(tmp_path / "b", range(4), ("micro",))
    sides, _ = build(Blueprint(macro, 0.25), Blueprint(micro, 1.0))
    assert sizes(sides) == [(3, 1), (0, 4)]


def test_datasets_of_equal_split_agree_about_a_folder_they_share(build, tmp_path):
    a, b = write(tmp_path / "a", range(8)), write(tmp_path / "b", range(8))
    sides, _ = build(Blueprint([*a, *b], 0.25), Blueprint([*b, *a], 0.25), Blueprint(b, 0.25))
    assert sides[0] == sides[1]
    assert sides[2][1] == {name for name in sides[0][1] if name.startswith("b/")}
    assert sizes(sides) == [(36, 12), (36, 12), (18, 6)], "two of eight photos from each folder"


def test_siblings_in_datasets_of_their_own_stay_on_one_side(build, tmp_path):
    folders = write(tmp_path / "data", {"macro": range(12), "meso": range(12), "micro": range(8)})
    sides, _ = build(*(Blueprint([folder], 0.25) for folder in folders))
    validated = [stems(held) for _, held in sides]
    assert validated[0] == validated[1] and len(validated[0]) == 3
    assert validated[2] == validated[0] & {f"{number:02d}" for number in range(8)}


@pytest.mark.parametrize("seed", range(5))
def test_every_subject_and_every_kind_of_group_gives_its_share(build, tmp_path, seed):
    cats, dogs = write(tmp_path / "cats", range(20)), write(tmp_path / "dogs", range(8), ("macro", "micro"))
    ((_, validated),), _ = build(Blueprint([*cats, *dogs], 0.25, seed))
    by_subject = {who: stems({n for n in validated if n.startswith(who)}) for who in ("cats", "dogs")}
    assert {who: len(held) for who, held in by_subject.items()} == {"cats": 5, "dogs": 2}


def test_another_seed_holds_out_others_and_a_moved_dataset_the_same(build, tmp_path):
    held = {}
    for place, seed in (("here", 0), ("there", 1), ("elsewhere", 2), ("far/away", 0)):
        root = tmp_path / place
        folders = [*write(root / "cats", range(20)), *write(root / "dogs", range(20))]
        ((_, held[place]),), _ = build(Blueprint(folders, 0.25, seed))
    assert held["far/away"] == held["here"]
    assert len({frozenset(files) for files in held.values()}) == 3


def test_a_manifest_s_groups_stay_together_though_their_names_differ(build, tmp_path):
    folders = write(tmp_path / "data", range(8), ("macro", "micro"))
    rows = [
        f'{{"file": "1_{level}/{n:02d}.png", "group": "{(n + shift) % 8}", "granularity": "{level}"}}\n'
        for level, shift in (("macro", 0), ("micro", 1))
        for n in range(8)
    ]
    (tmp_path / "data" / "sga_manifest.jsonl").write_text("".join(rows))
    ((_, validated),), _ = build(Blueprint(folders, 0.25))
    groups = [
        {(int(Path(name).stem) + shift) % 8 for name in validated if f"1_{level}" in name}
        for level, shift in (("macro", 0), ("micro", 1))
    ]
    assert groups[0] == groups[1] and len(groups[0]) == 2


def test_a_photo_without_a_granularity_stays_with_slices_of_its_name(build, tmp_path):
    folders = [*write(tmp_path / "data", range(8)), *write(tmp_path / "data", range(8), ("photos",))]
    ((trained, validated),), _ = build(Blueprint(folders, 0.25))
    assert not stems(trained) & stems(validated) and len(validated) == 2 * 4


def test_plain_folders_are_split_image_by_image(build, tmp_path):
    folders = write(tmp_path / "data", range(8), ("cats", "dogs"))
    ((trained, validated),), _ = build(Blueprint(folders, 0.25))
    assert len(validated) == 4 and not trained & validated
    assert sum("cats" in name for name in validated) == 2


def test_regularisation_images_are_not_split(build, tmp_path):
    folders, regular = write(tmp_path / "data", range(4)), write(tmp_path / "reg", range(5), ("photos",))
    ((trained, validated),), group = build(Blueprint(folders, 0.25, regular=regular))
    assert len(validated) == 3 and len(trained) == 9 + 5
    assert list(group.notes()) == ["  held out  3 images for validation: 3 of 12 of dataset 1 (validation_split 0.25)"]


def test_images_with_masks_validate_on_what_does_not_train(build, tmp_path):
    """The host builds them for training both times."""
    folders = write(tmp_path / "a", range(8))
    sides, _ = build(Blueprint(folders, 0.25, masks=True), Blueprint(folders, 0.25))
    assert sides[0] == sides[1] and sizes(sides)[0] == (18, 6)
    ((trained, validated), _), _ = build(Blueprint(folders, 1.0, masks=True), Blueprint(folders))
    assert not trained and len(validated) == 24


def test_files_that_the_survey_did_not_see_are_split_whole_and_once(build, tmp_path):
    """cache_info keeps names; here they are of a folder that was moved."""
    folders = write(tmp_path / "new", range(8), ("photos",))
    blueprint = Blueprint(folders, 0.25)
    blueprint.subsets[0].params.image_dir = str(tmp_path / "nowhere")
    original = blueprint.build

    def build_from_cache(training):
        blueprint.subsets[0].params.image_dir = str(folders[0])
        return original(training)

    blueprint.build = build_from_cache
    ((trained, validated),), _ = build(blueprint)
    assert len(validated) == 2 and len(trained) == 6 and not trained & validated


def warnings(group):
    return [text for share in group.held_out for text in share.warnings()]


def test_the_plan_says_how_many_images_are_held_out(build, tmp_path):
    a, b = write(tmp_path / "a", range(4)), write(tmp_path / "b", range(4))
    _, group = build(Blueprint(a, 0.25), Blueprint(a), Blueprint(b, 1.0))
    assert list(group.notes()) == [
        "  held out  15 images for validation: 3 of 12 of dataset 1 (validation_split 0.25), "
        "12 of 12 of dataset 3 (validation_split 1)"
    ]
    (warning,) = warnings(group)
    assert "dataset 1: 3 of 3 held-out images are trained on as well" in warning
    _, group = build(Blueprint(a))
    assert list(group.notes()) == [] == warnings(group)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metadata": True}, "dataset 1: 12 of 12 held-out images are trained on as well"),
        ({"split": 0.1}, "dataset 1: validation_split 0.1 of its few groups holds out no image"),
    ],
)
def test_a_split_that_does_not_do_what_it_says_is_a_warning(build, tmp_path, changes, said):
    _, group = build(Blueprint(write(tmp_path / "a", range(4)), **({"split": 0.25} | changes)))
    (warning,) = warnings(group)
    assert said in warning


@pytest.mark.parametrize("split", [1.5, 25.0, float("nan")])
def test_a_share_above_one_is_an_error_and_not_an_empty_training_set(build, tmp_path, split):
    plain = Blueprint(write(tmp_path / "a", range(4)))
    with pytest.raises(SgaError, match=f"dataset 2: validation_split = {split} is more than all: .* such as 0.1"):
        build(plain, Blueprint(write(tmp_path / "b", range(4)), split))


def test_nothing_left_to_train_on_is_an_error_that_says_why(build, tmp_path):
    with pytest.raises(SgaError, match="all 12 images are held out by validation_split"):
        build(Blueprint(write(tmp_path / "a", range(4)), 1.0))
