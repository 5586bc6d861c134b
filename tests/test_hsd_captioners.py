"""sga_kohya.hsd: what puts slices into words, in whole runs: a tagger made on the spot, a scripted server, others."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, register_captioner, run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.captioners.captioner import CAPTIONERS, Slice
from sga_kohya.hsd.captioners.vlm import sentence
from sga_kohya.hsd.captioners.wd import create as create_wd
from sga_kohya.hsd.captioners.wd import readable, squared
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.vlm.interview import BadReply
from sga_kohya.hsd.out.summary import warnings
from sga_kohya.kit.values import one_of
from tests.test_hsd_run import rows_of, snapshot
from tests.test_hsd_vlm import Server, sent_picture, server

__all__ = ["server"]
LEVELS = (LevelConfig("macro", 256, tau_up=1.0), LevelConfig("micro", 256))
ASKED: list[Slice] = []
"""What `told` was asked for."""


def told(piece: Slice) -> str:
    """A captioner of one's own, as package.module:function."""
    ASKED.append(piece)
    return f"{piece.level} of {piece.pixels.shape[1]}x{piece.pixels.shape[0]}"


def quarter(piece: Slice) -> str:
    return f"the {piece.level} in other words"


def broken(piece: Slice) -> str:
    ASKED.append(piece)
    if len(ASKED) > 2:
        raise LookupError("no more words")
    return "words"


def number(piece: Slice) -> int:
    return 3


@pytest.fixture(autouse=True)
def _asked() -> None:
    ASKED.clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos with a face on the right and a hand on the left; a caption of tags, one of prose, and none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "classes.txt").write_text("face\nhand\n")
    for seed, name in enumerate(("a", "b", "c")):
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((700, 512), Image.Resampling.BICUBIC).save(
            folder / f"{name}.png", compress_level=1
        )
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.8 0.5 0.35 0.5\n1 0.1 0.5 0.1 0.1\n")
    (folder / "a.txt").write_text("zoe, smiling face, hand, garden")
    (folder / "b.txt").write_text("A woman waves in a garden.")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> HsdConfig:
    options = {"annotations": str(tmp_path / "labels"), "labels": {"micro": "face,hand"}}
    return HsdConfig(LEVELS, min_size=128, detector="boxes", detector_options=options, near_duplicates=-1)


def captions(out: Path) -> dict[str, str]:
    return {path.relative_to(out).as_posix(): path.read_text() for path in sorted(out.glob("1_*/*.txt"))}


def own(name: str, **options: object) -> dict[str, object]:
    return {"captioner": f"{__name__}:{name}", "captioner_options": options}


def pictures(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("*1_*/*.png")}


# --- whose words -----------------------------------------------------------------------------------------------------


def test_a_function_of_one_s_own_describes_each_slice_and_the_photo_s_words_stand_in_front(photos, config, tmp_path):
    run(photos, tmp_path / "out", replace(config, **own("told")))
    assert captions(tmp_path / "out") == {
        "1_macro/a.txt": "zoe, smiling face, hand, garden, macro of 256x192\n",
        "1_macro/b.txt": "A woman waves in a garden. macro of 256x192\n",
        "1_macro/c.txt": "macro of 256x192\n",
        "1_micro/a.txt": "zoe, micro of 256x256\n",
        "1_micro/b.txt": "micro of 256x256\n",
        "1_micro/c.txt": "micro of 256x256\n",
    }
    assert {(piece.level, piece.caption, piece.label) for piece in ASKED if piece.source != "c.png"} == {
        (level, text, label)
        for text in ("zoe, smiling face, hand, garden", "A woman waves in a garden.")
        for level, label in (("macro", ""), ("micro", "face"))
    }
    assert [piece.caption for piece in ASKED if piece.source == "c.png"] == ["", ""], "its name is no caption"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keep": "nothing"}, "micro of 256x256"),
        ({"keep": "caption"}, "zoe, smiling face, garden, micro of 256x256"),
        ({"keep.micro": "caption"}, "zoe, smiling face, garden, micro of 256x256"),
        ({"trigger": "sks dog"}, "sks dog, micro of 256x256"),
        ({"trigger": "sks dog", "keep": "caption"}, "sks dog, zoe, smiling face, garden, micro of 256x256"),
    ],
)
def test_what_is_kept_of_the_photo_s_caption_is_an_option_and_what_a_slice_hides_is_not_kept(
    photos, config, tmp_path, options, expected
):
    run(photos, tmp_path / "out", replace(config, **own("told", **options)))
    assert captions(tmp_path / "out")["1_micro/a.txt"] == f"{expected}\n"


def test_a_level_s_prefix_stands_between_trigger_and_words(photos, config, tmp_path):
    levels = (LEVELS[0], replace(LEVELS[1], caption_prefix="close-up, "))
    run(photos, tmp_path / "out", replace(config, levels=levels, **own("quarter")))
    assert captions(tmp_path / "out")["1_micro/a.txt"] == "zoe, close-up, the micro in other words\n"
    assert captions(tmp_path / "out")["1_micro/b.txt"] == "close-up, the micro in other words\n"


# --- anew, without cutting again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["function", "tags", "prefix"])
def test_a_changed_captioner_writes_other_captions_and_cuts_nothing(photos, config, tmp_path, monkeypatch, second):
    """As if they had been made so from the start, although nothing is detected or rendered."""
    changed = {
        "function": own("told"),
        "tags": {"drop_tags": False},
        "prefix": {"levels": (LEVELS[0], replace(LEVELS[1], caption_prefix="close-up of"))},
    }[second]
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    run(photos, out, config)
    before, words = pictures(out), captions(out)
    (out / "1_macro" / "a.npz").write_bytes(b"cache")
    with monkeypatch.context() as patched:
        patched.setattr("sga_kohya.hsd.pipeline.decompose", None)
        patched.setattr("sga_kohya.hsd.saving.render", None)
        again = run(photos, out, replace(config, **changed))
    assert pictures(out) == before and captions(out) != words
    assert (out / "1_macro" / "a.npz").exists() == (second != "function"), "the cache of a caption that is no more"
    run(photos, fresh, replace(config, **changed))
    assert captions(out) == captions(fresh) and rows_of(out) == rows_of(fresh)
    assert (again.tally.photos, again.tally.reused) == (3, 0)
    assert run(photos, out, replace(config, **changed)).tally.reused == 3


def test_a_captioner_that_fails_midway_ends_the_run_and_the_next_goes_on(photos, config, tmp_path):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    run(photos, out, config)
    with pytest.raises(SgaError, match="captioner .*:broken fails at 1_m.*png: LookupError: no more words"):
        run(photos, out, replace(config, **own("broken")), workers=1)
    assert not list(out.rglob("*.part")) and all(text.strip() for text in captions(out).values())
    run(photos, out, replace(config, **own("told")))
    run(photos, fresh, replace(config, **own("told")))
    assert captions(out) == captions(fresh) and rows_of(out) == rows_of(fresh)


def test_a_caption_edited_by_hand_is_neither_asked_for_nor_overwritten_and_is_said(photos, config, tmp_path, capsys):
    out = tmp_path / "out"
    result = run(photos, out, replace(config, **own("quarter")))
    (out / "1_micro" / "a.txt").write_text("my own words")
    (out / "1_micro" / "b.txt").write_text("")
    for change in (own("told"), {"drop_tags": False, **own("told")}, {"min_size": 192, **own("told")}):
        result = run(photos, out, replace(config, **change))
        assert (out / "1_micro" / "a.txt").read_text() == "my own words"
        assert captions(out)["1_micro/b.txt"].startswith("micro of"), "an empty file is nobody's work"
        assert result.edited == ["1_micro/a.txt"]
    assert "1_micro/a.png" not in {piece.file for piece in ASKED} and len(ASKED) == 3 * 5
    (out / "1_micro" / "a.txt").unlink()
    run(photos, out, replace(config, min_size=192, **own("told")))
    assert captions(out)["1_micro/a.txt"].startswith("zoe, micro of"), "deleted, it is the captioner's again"


def test_an_edited_function_describes_again(photos, config, tmp_path, monkeypatch):
    (tmp_path / "mine_tests.py").write_text("def say(piece):\n    return 'one'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    mine = replace(config, captioner="mine_tests:say")
    run(photos, tmp_path / "out", mine)
    (tmp_path / "mine_tests.py").write_text("def say(piece):\n    return 'another'\n")
    monkeypatch.delitem(sys.modules, "mine_tests")
    run(photos, tmp_path / "out", mine)
    assert captions(tmp_path / "out")["1_micro/a.txt"] == "zoe, another\n"


# --- which captioner -------------------------------------------------------------------------------------------------


def test_a_registered_captioner_reads_its_options_and_a_slice_without_words_is_counted(photos, config, tmp_path):
    class Mute:
        name = "mute"

        def __init__(self, loud: bool) -> None:
            self.loud = loud

        def describe(self, slices: Sequence[Slice]) -> list[str | None]:
            return ["loud" if self.loud and piece.level == "macro" else "" for piece in slices]

    def create(options: Options, photos: Path) -> Mute:
        loud = options.read("volume", one_of(("low", "high")), "low") == "high"
        options.finish()
        return Mute(loud)

    register_captioner("mute", create)
    try:
        with pytest.raises(ValueError, match="already registered"):
            register_captioner("mute", create)
        with pytest.raises(SgaError, match="captioner mute: volume = 'off': write one of low, high"):
            run(photos, tmp_path / "out", replace(config, captioner="mute", captioner_options={"volume": "off"}))
        loud = replace(config, captioner="mute", captioner_options={"volume": "high"})
        result = run(photos, tmp_path / "out", loud)
        told = list(warnings(result, loud))
    finally:
        del CAPTIONERS["mute"]
    found = captions(tmp_path / "out")
    assert found["1_macro/a.txt"] == "zoe, smiling face, hand, garden, loud\n"
    assert found["1_micro/a.txt"] == "zoe\n"
    assert found["1_micro/c.txt"] == "face\n", "what the detector took it for is better than the whole scene"
    assert "3 photos, the captioner has no words for a slice: a.png, b.png, c.png" in told


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blip", "captioner 'blip': known are inherit, vlm, wd; or package.module:function for one of your own"),
        ("no such:thing", "captioner 'no such:thing': known are"),
        ("no_such_module:thing", "captioner no_such_module:thing: ModuleNotFoundError: No module named"),
        (f"{__name__}:missing", "has no attribute 'missing'; name a function as package.module:function"),
        (f"{__name__}:LEVELS", "it is no function but"),
        (f"{__name__}:number", "gives 3 for 1_macro/a.png: return text, or None to retry"),
        ("inherit", "captioner inherit: volume is unknown: known are keep, trigger"),
        ("wd", "captioner wd: no model: give model=FILE.onnx, with selected_tags.csv beside it"),
        ("vlm", "captioner vlm: no model: give the name by which the endpoint knows it"),
    ],
)
def test_what_cannot_be_a_captioner_is_refused_in_one_line(photos, config, tmp_path, name, words, capsys):
    options = {"inherit": ["volume=1"], "vlm": ["endpoint=http://localhost:1/v1"]}.get(name, [])
    arguments = [f"--captioner_arg={option}" for option in options]
    shapes = ["--resolution", "256", "--min_size", "128", "--workers", "1"]
    assert main([str(photos), str(tmp_path / "out"), "--captioner", name, *shapes, *arguments]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_captioner_may_be_named_in_a_file_and_overridden_for_a_folder(photos, config, tmp_path):
    (photos / "drawings").mkdir()
    (photos / "a.png").rename(photos / "drawings" / "a.png")
    file = tmp_path / "my.toml"
    file.write_text(
        f'levels = ["macro", "micro"]\nresolution = 256\nmin_size = 128\n[captioner]\nname = "{__name__}:told"\n'
        f'trigger = "sks"\n[overrides."drawings".captioner]\nname = "{__name__}:quarter"\n'
    )
    arguments = [str(photos), str(tmp_path / "out"), "--config"]
    assert main([*arguments, str(file)]) == 0
    found = captions(tmp_path / "out")
    assert found["1_macro/b.txt"] == "sks, A woman waves in a garden. macro of 256x192\n"
    assert found["1_macro/a.txt"] == "the macro in other words\n", "another captioner's options are not its own"
    before = snapshot(tmp_path / "out")
    assert main([*arguments, str(tmp_path / "out" / "hsd_config.toml")]) == 0
    assert snapshot(tmp_path / "out") == before


# --- wd --------------------------------------------------------------------------------------------------------------

TAGS = {"general": 9, "explicit": 9, "red_dress": 0, "green_grass": 0, "blue_sky": 0, "o_o": 0, "zoe_(series)": 4}
SIDE = 16


def tagger(folder: Path, batch: int | str = "N", side: int = SIDE, shift: float = 0.0, more_tags: int = 0) -> Path:
    """A model whose score of a colour is its mean in the picture, with selected_tags.csv beside it."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights, bias = np.zeros((3, len(TAGS)), np.float32), np.zeros(len(TAGS), np.float32)
    for tag, channel in (("blue_sky", 0), ("green_grass", 1), ("red_dress", 2)):
        weights[channel, list(TAGS).index(tag)] = 1 / 255
    for tag, score in (("general", 0.6), ("explicit", 0.7), ("o_o", 0.5), ("zoe_(series)", 0.8)):
        bias[list(TAGS).index(tag)] = score
    constants = {"weights": weights, "bias": bias + np.float32(shift)}
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input"], ["means"], axes=[1, 2], keepdims=0),
            helper.make_node("Gemm", ["means", "weights", "bias"], ["scores"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (batch, side, side, 3))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (batch, len(TAGS)))],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    folder.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{number},{tag},{category},5" for number, (tag, category) in enumerate(TAGS.items())]
    rows += [f"{number},more,0,1" for number in range(more_tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows, ""]))
    return folder / "model.onnx"


def wd(model: Path, **options: object):
    names = ["macro", "micro"]
    return create_wd(Options("wd", {"model": str(model), **options}, names, names, "cpu", kind="captioner"), Path())


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> Slice:
    pixels = np.full((*size[::-1], 3), colour, np.uint8)
    return Slice("1_micro/a.png", "micro", "a.png", "", "", lambda: pixels)


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_a_tagger_gives_each_slice_the_tags_above_its_thresholds(tmp_path, batch):
    model = tagger(tmp_path / "wd", batch)
    found = wd(model).describe([plain((200, 0, 0)), plain((0, 100, 200)), plain((0, 0, 0))])
    assert found == ["red dress, o_o, zoe (series)", "green grass, blue sky, o_o, zoe (series)", "o_o, zoe (series)"]
    strict = wd(model, threshold=0.9, general_threshold=0.45, rating="last", left_out="o_o, nothing").describe
    assert strict([plain((200, 0, 0)), plain((0, 100, 0))]) == ["red dress, explicit", "explicit"]
    assert wd(model, **{"left_out.micro": "red_dress"}).describe([plain((200, 0, 0))]) == ["o_o, zoe (series)"]
    with pytest.raises(SgaError, match="left_out = ',': write names separated by commas"):
        wd(model, left_out=",")
    assert wd(model, character_threshold=0.81).describe([plain((0, 0, 0))]) == ["o_o"]


def test_a_picture_is_padded_to_a_white_square(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    square = squared(pixels, 30)
    assert square.shape == (30, 30, 3) and not square[10:20].any() and (square[:10] == 255).all()
    assert squared(pixels, 15).mean() == pytest.approx(170, abs=1) == squared(pixels, 60).mean()
    red, sky = wd(tagger(tmp_path / "wd")).describe([plain((255, 0, 0), (90, 20)), plain((255, 0, 0), (90, 80))])
    assert "blue sky" in red and "blue sky" not in sky, "two thirds of the first are white"


@pytest.mark.parametrize(
    ("tag", "shown"),
    [("red_shoes", "red shoes"), ("^_^", "^_^"), ("o_o", "o_o"), ("(o)_(o)", "(o)_(o)"), ("tail_(a)", "tail (a)")],
)
def test_a_face_keeps_its_underscore(tag, shown):
    assert readable(tag) == shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shift": 0.3}, "gives -?.* to 1.3, not scores in 0 to 1"),
        ({"more_tags": 2}, r"gives \[7\] scores and .*selected_tags.csv has 9 tags: they are not of one model"),
    ],
)
def test_a_file_that_is_no_tagger_is_refused_before_any_photo_is_read(tmp_path, changes, words):
    model = tagger(tmp_path / "wd", **changes)
    with pytest.raises(SgaError, match=f"captioner wd: .*{words}"):
        wd(model)


def test_a_list_of_tags_that_is_none_is_refused(tmp_path):
    model = tagger(tmp_path / "wd")
    listed = model.with_name("selected_tags.csv")
    for text, words in (("a,b\n1,2\n", "no columns name and category"), ("", "no columns name and category")):
        listed.write_text(text)
        with pytest.raises(SgaError, match=words):
            wd(model)
    listed.unlink()
    with pytest.raises(SgaError, match=r"no .*selected_tags\.csv: give the model's list of tags as tags=FILE"):
        wd(model)
    (tmp_path / "note.onnx").write_bytes(b"no graph")
    listed.write_text("name,category\na,0\n")
    with pytest.raises(SgaError, match="captioner wd: cannot load .*note.onnx"):
        wd(tmp_path / "note.onnx", tags=str(listed))


def test_tags_of_a_tagger_join_the_photo_s_own_without_saying_any_twice(photos, config, tmp_path):
    model = tagger(tmp_path / "wd", shift=-0.2)
    (photos / "a.txt").write_text("zoe_(series), garden")
    options = {"model": str(model), "keep": "caption", "character_threshold": 0.5, "general_threshold": 1}
    run(photos, tmp_path / "out", replace(config, captioner="wd", captioner_options=options))
    found = captions(tmp_path / "out")
    assert found["1_micro/a.txt"] == "zoe_(series), garden\n"
    assert found["1_micro/b.txt"] == "A woman waves in a garden. zoe (series)\n"
    assert found["1_micro/c.txt"] == "zoe (series)\n"


# --- vlm -------------------------------------------------------------------------------------------------------------


def asked(request: Mapping) -> str:
    return request["messages"][0]["content"][1]["text"]


@pytest.fixture
def vlm(server: Server, config: HsdConfig, tmp_path: Path):
    server.script = lambda number, body: f'Caption: "Words {len(server.requests)} of\nthe picture."'

    def build(**options: object) -> HsdConfig:
        named = {"endpoint": server.url, "model": "tiny-vl", "cache": str(tmp_path / "replies"), "parallel": 1}
        named |= {key.replace("__", "."): value for key, value in options.items()}
        return replace(config, captioner="vlm", captioner_options=named)

    return build


def test_a_model_is_shown_each_slice_with_a_question_for_its_level(photos, server, vlm, tmp_path, capsys):
    run(photos, tmp_path / "out", vlm(side=64), workers=1)
    assert len(server.requests) == 6 and {request["model"] for request in server.requests} == {"tiny-vl"}
    assert {max(sent_picture(request).size) for request in server.requests} == {64}
    whole, part = map(asked, server.requests[:2])
    assert whole.startswith("Describe this picture") and part.startswith("This picture is cut out of a larger one")
    assert "and shows face" in part and "and shows" not in whole
    assert all('has the caption "zoe, smiling face, hand, garden"' in text for text in (whole, part))
    assert "caption" not in asked(server.requests[-1]), "nobody has written one"
    assert captions(tmp_path / "out")["1_micro/a.txt"] == "zoe, Words 2 of the picture.\n"
    assert (
        f"vlm: at most 6 slices go to {server.url}/chat/completions (tiny-vl), one call each" in capsys.readouterr().err
    )


def test_replies_are_kept_by_the_pixels_of_a_slice(photos, server, vlm, tmp_path):
    run(photos, tmp_path / "out", vlm(), workers=1)
    first = captions(tmp_path / "out")
    run(photos, tmp_path / "other", vlm(), workers=1)
    assert len(server.requests) == 6 and captions(tmp_path / "other") == first
    run(photos, tmp_path / "other", vlm(prompt__micro="Which {label}? {braces} {caption}"), workers=1)
    assert sorted(map(asked, server.requests[6:])) == [
        "Which face? {braces} ",
        "Which face? {braces} A woman waves in a garden.",
        "Which face? {braces} zoe, smiling face, hand, garden",
    ]


def test_a_slice_without_an_answer_inherits_is_named_and_asked_for_again_alone(photos, server, vlm, tmp_path, capsys):
    out = tmp_path / "out"
    server.script = lambda number, body: "" if "and shows face" in asked(body) and "zoe" in asked(body) else "Words."
    result = run(photos, out, vlm(attempts=2))
    assert "'1_micro/a.png': no usable reply in 2 attempts: it says nothing" in capsys.readouterr().err
    assert captions(out)["1_micro/a.txt"] == "zoe, smiling face, garden\n"
    assert captions(out)["1_micro/b.txt"] == "Words.\n"
    assert "1 photo, the captioner gave no answer, the next run asks again: a.png" in list(warnings(result, vlm()))
    count, before = len(server.requests), pictures(out)
    server.script = lambda number, body: "A face."
    result = run(photos, out, vlm(attempts=2))
    assert len(server.requests) == count + 1 and result.tally.reused == 2 and pictures(out) == before
    assert captions(out)["1_micro/a.txt"] == "zoe, A face.\n" and "no answer" not in " ".join(warnings(result, vlm()))


def test_calls_are_bounded_and_the_next_run_goes_on(photos, server, vlm, tmp_path):
    with pytest.raises(SgaError, match="captioner vlm: max_calls 4 is spent; every usable reply is kept"):
        run(photos, tmp_path / "out", vlm(max_calls=4), workers=1)
    run(photos, tmp_path / "out", vlm(max_calls=4), workers=1)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("", "it says nothing"),
        ("<think>long</think> ...", "it says nothing"),
        ("I’m sorry, but I can't assist with that.", "it refuses"),
        ("word " * 150, "it has 749 characters, more than 600"),
    ],
)
def test_replies_that_are_no_caption(reply, words):
    with pytest.raises(BadReply, match=words):
        sentence(reply)


@pytest.mark.parametrize(
    "reply",
    ["A red door.", "<think>Hm, a door.</think>\n**A red\ndoor.**", 'Caption: "A red door."', "```\nA red door.\n```"],
)
def test_replies_that_are_one(reply):
    assert sentence(reply) == "A red door."


def test_requests_hold_what_the_user_adds_to_them(photos, server, vlm, tmp_path):
    run(photos, tmp_path / "out", vlm(request__max_tokens=60))
    assert {json.dumps(request["max_tokens"]) for request in server.requests} == {"60"}
