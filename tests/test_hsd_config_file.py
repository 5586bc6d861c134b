"""sga_kohya.hsd: presets, files, overrides and the command line, as one configuration."""

from pathlib import Path

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig
from sga_kohya.hsd.arguments import build_parser, config_from
from sga_kohya.hsd.settings.config_file import load_config, to_toml
from sga_kohya.hsd.settings.layers import preset_names


def written(folder: Path, text: str, name: str = "hsd.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def by_command_line(*arguments: str) -> HsdConfig:
    return config_from(build_parser().parse_args(["PHOTOS", "OUT", *arguments]))


def resolutions(config: HsdConfig) -> list[int]:
    return [level.resolution for level in config.levels]


def test_nothing_given_is_the_default():
    assert by_command_line() == HsdConfig()


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("flux-1280", ("whole", [1280, 1280, 1024], [1.0, 2.0, 1.25], [1, 1, 1])),
        ("sdxl-1024", ("whole", [1024, 1024, 1024], [1.0, 2.0, 1.25], [1, 1, 1])),
        ("portrait", ("split", [1280, 1280, 1024], [1.0, 2.0, 1.25], [3, 1, 2])),
        ("anime", ("whole", [1024, 1024, 1024], [1.0, 3.0, 2.0], [1, 1, 2])),
        ("objects", ("split", [1024, 1024, 1024], [1.0, 2.0, 1.25], [6, 1, 3])),
    ],
)
def test_presets(preset, expected):
    config = load_config(preset)
    tau_up = [level.tau_up for level in config.levels]
    assert (config.mode, resolutions(config), tau_up, [level.max_slices for level in config.levels]) == expected
    assert {"flux-1280", "sdxl-1024", "portrait", "anime", "objects"} == set(preset_names())


def test_the_later_layer_wins(tmp_path):
    written(tmp_path, 'extends = "flux-1280"\ncaption = "base"\nformat = "webp"\n', "base.toml")
    file = written(tmp_path, 'extends = "base.toml"\ncaption = "own"\n[level.meso]\nresolution = 768\n')
    config = load_config(file=file)
    assert (config.caption, config.format, resolutions(config)) == ("own", "webp", [1280, 768, 1024])
    config = by_command_line("--config", str(file), "--resolution", "512", "--format", "jpg", "--tau_up", "3")
    assert (config.format, resolutions(config)) == ("jpg", [512] * 3), "also over what a file says of one level"
    assert [level.tau_up for level in config.levels] == [1.0, 3.0, 3.0], "the coarsest is not enlarged"
    config = by_command_line("--config", str(file), "--levels", "macro,micro:640")
    assert [(level.name, level.resolution) for level in config.levels] == [("macro", 1280), ("micro", 640)]


def test_overrides_hold_below_their_folder(tmp_path):
    file = written(
        tmp_path,
        'caption = "all"\nresolution = 1024\n'
        '[overrides.drawings]\ncaption = "drawn"\ntau_up = 3.0\n'
        '[overrides."drawings/old"]\nresolution = 512\n'
        "[overrides.drawings.level.micro]\nmax_slices = 2\n",
    )
    config = load_config(file=file)
    assert [config.override_of(s) for s in ("a.png", "drawings/a.png", "drawings/old/x/a.png", "drawings2/a.png")] == [
        *("", "drawings", "drawings/old", "")
    ]
    outer, inner = config.of("drawings"), config.of("drawings/old")
    assert (outer.caption, outer.levels[2].max_slices, resolutions(outer)) == ("drawn", 2, [1024] * 3)
    assert (inner.caption, inner.levels[2].tau_up, resolutions(inner)) == ("drawn", 3.0, [512] * 3)
    assert (config.caption, config.levels[2].tau_up, config.resolution) == ("all", 1.25, 1024)
    config = by_command_line("--config", str(file), "--caption", "said", "--resolution", "640")
    assert {own.caption for own in config.everywhere} == {"said"}
    assert {tuple(resolutions(own)) for own in config.everywhere} == {(640, 640, 640)}


@pytest.mark.parametrize("preset", ["", *preset_names()])
def test_the_effective_configuration_can_be_fed_back(tmp_path, preset):
    own = written(
        tmp_path,
        '[overrides."a/b c"]\ncaption = "\\"quoted\\" ü"\n[overrides."a/b c".level.meso]\nsizes = [[512, 512]]\n',
    )
    config = load_config(preset, own, {"tau_down": 1.25, "near_duplicates": 7})
    text = to_toml(config)
    again = load_config(file=written(tmp_path, text, "again.toml"))
    assert to_toml(again) == text
    assert (again.levels, again.mode, again.near_duplicates) == (config.levels, config.mode, 7)
    assert again.iou_thresholds == config.iou_thresholds
    assert again.of("a/b c").levels == config.of("a/b c").levels and again.of("a/b c").levels[1].sizes == ((512, 512),)
    assert again.of("a/b c").caption == '"quoted" ü'


def test_a_detector_and_its_options(tmp_path):
    file = written(tmp_path, '[detector]\nname = "yolo"\nconfidence = 0.4\nweights = "x.pt"\n')
    config = load_config(file=file)
    assert (config.detector, config.detector_options) == ("yolo", {"confidence": 0.4, "weights": "x.pt"})
    config = by_command_line("--config", str(file), "--detector_arg", "confidence=0.5", "--detector_arg", "w=a b")
    assert config.detector_options == {"confidence": 0.5, "weights": "x.pt", "w": "a b"}
    config = by_command_line("--config", str(file), "--detector", "heuristic")
    assert config.detector_options == {}, "the options of another detector"


def test_files_of_a_detector_are_relative_to_who_names_them(tmp_path, monkeypatch):
    (tmp_path / "boxes").mkdir()
    (tmp_path / "face.onnx").write_bytes(b"")
    (tmp_path / "elsewhere" / "face").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    own = written(
        tmp_path,
        '[detector]\nname = "boxes"\nannotations = "boxes"\nlabels = "boxes"\n'
        '[detector.model]\nmicro = "face.onnx"\nmeso = "hub/name"\n',
    )
    annotations, face = str(tmp_path / "boxes"), str(tmp_path / "face.onnx")
    models = {"micro": face, "meso": "hub/name"}
    config = load_config(file=own)
    assert config.detector_options == {"annotations": annotations, "labels": "boxes", "model": models}
    (tmp_path / "out").mkdir()
    again = load_config(file=written(tmp_path / "out", to_toml(config)))
    assert again.detector_options == config.detector_options, "from another folder"
    said = ("annotations=../boxes", "labels.micro=face", "model.micro=../face.onnx")
    config = by_command_line(*(word for text in said for word in ("--detector_arg", text)))
    assert config.detector_options == {"annotations": annotations, "labels.micro": "face", "model.micro": face}
    config = by_command_line("--detector_arg", "endpoint=http://x", "--detector_arg", "model=face")
    assert config.detector_options["model"] == "face", "a name that the server knows"


def test_every_problem_is_named_at_once(tmp_path):
    file = written(
        tmp_path,
        'resolutoin = 3\nresolution = "big"\nmode = "halves"\nformat = "bmp"\nlevels = [3, 4]\n'
        '[level.meso]\nsizes = [[512, 512], [3]]\ntau_up = 0.5\n[iou]\nmeso = 0.5\n[overrides."x"]\nbatch_size = 3\n'
        'detector = "magic"\n',
    )
    with pytest.raises(SgaError) as caught:
        load_config(file=file)
    for part in (
        "resolutoin is unknown: did you mean resolution?",
        "resolution = 'big': write a whole number",
        "mode 'halves': use one of whole, split",
        "format 'bmp'",
        "levels = [3, 4]: write a list of names",
        "sizes = [[512, 512], [3]]: write a list of [WIDTH, HEIGHT]",
        "tau_up 0.5 of level meso",
        "iou = {'meso': 0.5}: write \"COARSER/FINER\" = NUMBER",
        'overrides."x": batch_size is unknown: it is set once',
        "overrides.\"x\": detector 'magic': known are",
    ):
        assert part in str(caught.value), part
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caption", "not valid TOML"),
        ('extends = "nowhere.toml"', "nowhere.toml does not exist"),
        ('extends = "hsd.toml"', "extends itself"),
        ("[level.nano]\nresolution = 512", "level.nano: not among levels"),
        ('[overrides.x]\nlevels = ["micro", "macro"]', "in the same order"),
        ("[overrides.x]\nrepeats = 2", "one folder holds them"),
        ('upscale_model = "none.pth"', "none.pth: no such file"),
        ("near_duplicates = 65", "use 0 to 64"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, message):
    with pytest.raises(SgaError, match=message):
        load_config(file=written(tmp_path, text))


def test_an_unknown_preset():
    with pytest.raises(SgaError, match="preset 'sdxl': use one of anime, flux-1280"):
        load_config("sdxl")
