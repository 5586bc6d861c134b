"""sga_kohya.hsd: what a person decides in the review, and that every later run obeys it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, Detection, HsdConfig, LevelConfig, View, run
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.cut.decompose import Crop, Region
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.out.report import MARK
from sga_kohya.hsd.review.decisions import DECISIONS, Decisions, Place, Writer, fold
from sga_kohya.hsd.review.desk import Desk
from sga_kohya.hsd.review.obey import cut, obey, same_place
from sga_kohya.kit.journal import Journal
from sga_kohya.kit.one_page import Refused
from tests.test_hsd_resume import decoded, slices
from tests.test_hsd_run import rows_of

__all__ = ["decoded"]

LEVELS = (LevelConfig("macro", 384, tau_up=1.0), LevelConfig("meso", 256), LevelConfig("micro", 256))
CONFIG = HsdConfig(LEVELS, min_size=64, near_duplicates=-1, caption="words")
MESO, MICRO = Box(100, 60, 292, 252), Box(200, 100, 264, 164)
FOUND = {"meso": [MESO], "micro": [MICRO]}


class Fixed:
    """Boxes of each level in pixels of the photo, the best first, whatever the photo; cut off outside the view."""

    name = "fixed"

    def __init__(self, found: dict[str, list[Box]]) -> None:
        self.found = found

    def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
        return [
            [
                Detection(box.shifted(-view.box.x0, -view.box.y0), 1 - number / 10, level, f"a {level}")
                for number, box in enumerate(self.found.get(level, []))
            ]
            for view in views
        ]


@pytest.fixture
def detector(monkeypatch) -> Fixed:
    """The one that CONFIG names; change what it finds by `detector.found`."""
    found = Fixed(dict(FOUND))
    monkeypatch.setitem(DETECTORS, CONFIG.detector, lambda options, photos: found)
    return found


@pytest.fixture
def photos(tmp_path: Path, detector) -> Path:
    """Three photographs, 400 pixels wide."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()).resize((400, 300)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def out(photos, tmp_path) -> Path:
    """A first run over the photos."""
    run(photos, tmp_path / "out", CONFIG)
    return tmp_path / "out"


def another(config: HsdConfig = CONFIG, **found: list[Box]) -> HsdConfig:
    """The configuration of a detector that finds other things, so that no photo is finished."""
    DETECTORS[CONFIG.detector](None, None).found = {**FOUND, **found}
    return replace(config, detector_options={"threshold": len(str(found))})


def view(out: Path, root: str = "astronaut") -> dict:
    (found,) = Desk(out, None).answer("photos", {"roots": [root]})["photos"]
    return found


def piece(out: Path, level: str, root: str = "astronaut", number: int = 0) -> dict:
    names = [one.name for one in CONFIG.levels]
    return [one for one in view(out, root)["slices"] if names[one["level"]] == level][number]


def decide(out: Path, do: str, level: str = "", root: str = "astronaut", **more: object) -> dict:
    """As the page does it. level: whose first slice it is about."""
    key = {"key": piece(out, level, root)["key"]} if level and do != "add" else {"level": level}
    return Desk(out, None).answer("decide", {"root": root, "do": do, **key, **more})


def kept(out: Path, root: str = "astronaut") -> list[tuple[str, list[int]]]:
    return [(row["granularity"], row["box"]) for row in rows_of(out) if row["root"] == root and row["file"]]


def reasons(out: Path, root: str = "astronaut") -> list[str]:
    return [row["reason"] for row in rows_of(out) if row["root"] == root and row["reason"]]


def caption(out: Path, file: str) -> str:
    return (out / file).with_suffix(".txt").read_text(encoding="utf-8")


def test_a_rejected_slice_goes_and_only_its_photo_is_cut_again(photos, out, decoded):
    before = slices(out)
    decide(out, "reject", "meso")
    decoded.clear()
    result = run(photos, out, CONFIG)
    assert (len(decoded), result.tally.reused) == (1, 2)
    gone = {"1_meso/astronaut.png", "1_meso/astronaut.txt"}
    assert {name for name in before if name not in slices(out)} == gone
    assert reasons(out) == ["rejected: in the review"] and result.tally.reasons["rejected"] == 1
    run(photos, out, CONFIG)
    assert len(decoded) == 1, "and is finished then"


def test_a_rejected_slice_does_not_come_back_a_little_shifted(photos, out):
    decide(out, "reject", "meso")
    for box in (Box(110, 70, 300, 250), Box(85, 48, 310, 262), Box(112, 78, 284, 240)):
        run(photos, out, another(meso=[box]))
        assert [level for level, _ in kept(out)] == ["macro", "micro"], box
        assert [level for level, _ in kept(out, "coffee")] == ["macro", "meso", "micro"]
    run(photos, out, another(meso=[Box(0, 100, 150, 290)]))
    assert [level for level, _ in kept(out)] == ["macro", "meso", "micro"], "elsewhere is another slice"
    smaller = tuple(replace(level, resolution=192) for level in LEVELS)
    run(photos, out, replace(another(), levels=smaller))
    assert [level for level, _ in kept(out)] == ["macro", "micro"], "nor by another preset"


def test_rejecting_one_of_two_that_overlap_leaves_the_other(photos, out, detector):
    config = replace(CONFIG, levels=(LEVELS[0], replace(LEVELS[1], max_slices=2), LEVELS[2]), duplicate_overlap=0.9)
    beside = Box(130, 60, 322, 252)
    assert same_place(MESO, beside)
    detector.found["meso"] = [MESO, beside]
    run(photos, out, config)
    assert len(kept(out)) == 4
    decide(out, "reject", "meso")
    run(photos, out, config)
    assert [box for level, box in kept(out) if level == "meso"] == [beside.as_list()]


def test_a_moved_box_stays_moved_whatever_finds_or_frames_the_slices(photos, out):
    place = Box(10, 20, 202, 212)
    decide(out, "place", "meso", box=place.as_list())
    run(photos, out, CONFIG)
    (row,) = [
        row for row in rows_of(out) if row["root"] == "astronaut" and row["granularity"] == "meso" and row["file"]
    ]
    assert (row["box"], row["detector"]) == (place.as_list(), "review")
    assert "moved: to a box that was drawn in the review" in reasons(out)
    for found in ([MESO], [Box(104, 66, 300, 250)], [Box(0, 100, 150, 290)], [Box(12, 22, 200, 210)], []):
        run(photos, out, another(meso=found))
        assert [box for level, box in kept(out) if level == "meso"] == [place.as_list()], found
    other = tuple(replace(level, resolution=192) for level in LEVELS)
    run(photos, out, replace(CONFIG, levels=other, mode="whole", min_size=128))
    assert [box for level, box in kept(out) if level == "meso"] == [place.as_list()]


def test_an_added_box_stays_and_takes_no_seat(photos, out):
    added = Box(20, 120, 148, 248)
    reply = decide(out, "add", "micro", box=added.as_list())
    assert [one["state"] for one in reply["photo"]["slices"]] == ["", "", "", "added"]
    run(photos, out, CONFIG)
    micro = [("micro", MICRO.as_list()), ("micro", added.as_list())]
    assert kept(out)[2:] == micro and (out / "1_micro" / "astronaut-2.png").is_file()
    run(photos, out, another(micro=[]))
    assert kept(out)[2:] == micro[1:]
    run(photos, out, another(micro=[Box(30, 130, 150, 250)]))
    assert kept(out)[2:] == micro[1:], "what is found there is the same"
    assert caption(out, "1_micro/astronaut.png") == "words\n"


def test_a_kept_slice_stays_as_it_is_and_has_the_seat(photos, out):
    image = (out / "1_meso" / "astronaut.png").read_bytes()
    decide(out, "keep", "meso")
    for found in ([MESO], [Box(0, 100, 150, 290)], [Box(104, 66, 300, 250)], []):
        run(photos, out, another(meso=found))
        assert [box for level, box in kept(out) if level == "meso"] == [MESO.as_list()]
        assert (out / "1_meso" / "astronaut.png").read_bytes() == image
    run(photos, out, another(meso=[Box(0, 100, 150, 290)]))
    assert "surplus: a box that was drawn in the review takes its seat" in reasons(out)


def test_an_edited_caption_stays_and_so_does_its_slice(photos, out):
    decide(out, "caption", "micro", caption="  a visor \r\n\n of glass")
    assert piece(out, "micro")["waiting"] and piece(out, "micro")["caption"] == "a visor\nof glass"
    run(photos, out, CONFIG)
    assert not piece(out, "micro")["waiting"]
    for config in (another(micro=[]), replace(CONFIG, caption="other words")):
        run(photos, out, config)
        assert caption(out, "1_micro/astronaut.png") == "a visor\nof glass\n"
    assert caption(out, "1_macro/astronaut.png") == "other words\n"
    close = (*LEVELS[:2], replace(LEVELS[2], caption_prefix="close-up of "))
    run(photos, out, replace(another(), levels=LEVELS))
    run(photos, out, replace(another(), levels=close))
    assert caption(out, "1_micro/astronaut.png") == "a visor\nof glass\n", "captions alone were made anew"
    assert caption(out, "1_micro/coffee.png") == "close-up of words\n"


def test_a_caption_of_the_review_goes_over_the_edit_that_was_seen_and_not_over_a_later_one(photos, out):
    file = out / "1_micro" / "astronaut.txt"
    file.write_text("typed by hand\n")
    assert piece(out, "micro")["caption"] == "typed by hand"
    decide(out, "caption", "micro", caption="typed in the review")
    result = run(photos, out, CONFIG)
    assert file.read_text() == "typed in the review\n" and not result.edited
    file.write_text("by hand again\n")
    assert run(photos, out, replace(CONFIG, batch_size=2)).edited == ["1_micro/astronaut.txt"]
    run(photos, out, replace(CONFIG, caption="other words"))
    assert file.read_text() == "by hand again\n"


def test_undoing_everything_makes_the_first_run_again(photos, out):
    before = slices(out)
    decide(out, "reject", "macro")
    decide(out, "place", "meso", box=[10, 20, 202, 212])
    decide(out, "caption", "meso", caption="mine")
    decide(out, "add", "micro", box=[20, 120, 148, 248])
    decide(out, "reject photo", root="coffee")
    run(photos, out, CONFIG)
    assert slices(out) != before
    for _ in range(5):
        Desk(out, None).answer("undo", {})
    with pytest.raises(Refused, match="nothing to undo"):
        Desk(out, None).answer("undo", {})
    assert Decisions(out).photos == [] and len(Decisions(out).rows) == 10, "nothing is taken out of the file"
    assert not any(one["state"] for one in view(out)["slices"]) and len(view(out)["slices"]) == 3
    run(photos, out, CONFIG)
    assert {name: known for name, known in slices(out).items() if name != DECISIONS} == before


def test_an_undo_can_be_undone_and_leaves_what_another_page_has_decided(out):
    moved = decide(out, "place", "meso", box=[10, 20, 202, 212])["id"]
    decide(out, "caption", "meso", caption="of another page")
    desk = Desk(out, None)
    undone = desk.answer("undo", {"id": moved})["id"]
    assert (piece(out, "meso")["box"], piece(out, "meso")["caption"]) == (MESO.as_list(), "of another page")
    assert Desk(out, None).answer("undo", {"id": undone})["roots"] == ["astronaut"]
    assert (piece(out, "meso")["box"], piece(out, "meso")["caption"]) == ([10, 20, 202, 212], "of another page")


def test_the_page_shows_what_the_next_run_makes(photos, out):
    def shown() -> list:
        levels = [level.name for level in LEVELS]
        pieces = [one for root in ("astronaut", "chelsea", "coffee") for one in view(out, root)["slices"]]
        return [(levels[one["level"]], one["box"], one["out"]) for one in pieces if one["state"] != "rejected"]

    decide(out, "reject", "meso", root="coffee")
    decide(out, "place", "macro", box=[0, 0, 250, 200])
    decide(out, "place", "micro", box=[33, 41, 150, 139])
    decide(out, "add", "meso", root="chelsea", box=[7, 5, 377, 120])
    decide(out, "add", "macro", root="chelsea", box=[100, 100, 390, 290])
    for _ in range(2):
        before = shown()
        run(photos, out, CONFIG)
        made = [(row["granularity"], row["box"], tuple(row["size"])) for row in rows_of(out) if row["file"]]
        assert before == made == shown()
        assert not Desk(out, None).answer("list", {"show": "waiting"})["roots"]
        decide(out, "reject", "macro", root="coffee")
    groups = {row["group"]: row["granularity"] for row in rows_of(out) if row["root"] == "chelsea" and row["file"]}
    assert list(groups) == ["chelsea", "chelsea-r2"] and groups["chelsea-r2"] == "macro", "a region of its own"
    parents = {row["parent"] for row in rows_of(out) if row["root"] == "astronaut" and row["granularity"] == "micro"}
    assert parents == {"1_macro/astronaut.png"}, "the moved macro slice is the parent of its siblings"


def test_the_size_of_a_box_is_told_by_the_code_that_cuts_it(photos, out):
    desk = Desk(out, None)
    asked = {"root": "astronaut", "level": "micro", "box": [33, 41, 150, 139]}
    told = desk.answer("cut", asked)
    desk.answer("decide", {**asked, "do": "add"})
    run(photos, out, CONFIG)
    row = rows_of(out)[3]
    assert (row["box"], row["size"], row["scale"]) == (told["box"], list(told["out"]), round(told["scale"], 4))
    assert "too small: 10x10" in desk.answer("cut", {**asked, "box": [0, 0, 10, 10]})["why"]
    with pytest.raises(Refused, match="too small"):
        desk.answer("decide", {**asked, "do": "add", "box": [0, 0, 10, 10]})


def test_a_box_that_is_only_moved_keeps_its_size():
    level = LevelConfig("micro", 512, sizes=((256, 256), (320, 320)))
    config = HsdConfig((LEVELS[0], level), min_size=64)
    place = Place("k", "micro", None, Box(0, 0, 300, 300), (256, 256))
    assert cut(place, (400, 400), config).size == (256, 256)
    assert cut(replace(place, size=None), (400, 400), config).size == (320, 320)
    gone = replace(place, size=(384, 384))
    assert cut(gone, (400, 400), config).size == (320, 320), "a size that the level no longer has"
    assert cut(replace(place, level="meso"), (400, 400), config) is None


def test_what_was_seen_is_cut_to_the_pixel_also_where_a_level_would_take_in_more():
    level = LevelConfig("micro", 256, tau_up=1.25, own_scale=True)
    config = HsdConfig((LEVELS[0], level), min_size=256)
    small = Place("k", "micro", None, Box(30, 40, 240, 250))
    shown = cut(small, (400, 400), config)
    assert shown.size == (256, 256) and shown.box.size == (256, 256), "no upscale, but more of the surroundings"
    again = cut(replace(small, box=shown.box, size=shown.size), (400, 400), config)
    assert (again.box, again.size) == (shown.box, shown.size)
    enlarged = replace(small, size=(256, 256))
    assert cut(enlarged, (400, 400), config).box == small.box, "as it was before the level had a scale of its own"
    macro = Place("k", "macro", None, Box(0, 0, 250, 188), (256, 192))
    assert cut(macro, (250, 188), replace(config, min_size=64)).kept, "a whole photo may be enlarged by a little"


def test_a_kept_strip_of_a_long_photo_has_the_seat_of_the_strip_that_is_now_nearest():
    config = HsdConfig(LEVELS, min_size=64)
    strips = [Box(0, 0, 384, 256), Box(0, 300, 384, 556), Box(0, 900, 384, 1156)]
    found = [Region((Crop("macro", box, None, 1.0, (384, 256)),)) for box in strips]
    place = Place("k", "macro", Box(0, 500, 384, 756), Box(0, 500, 384, 756), (384, 256))
    regions = obey(found, [place], (384, 1200), config)
    kept = [[crop.box for crop in region.crops if crop.kept] for region in regions]
    assert kept == [[strips[0]], [place.box], [strips[2]]]


def test_a_discard_can_be_taken(photos, out, detector):
    detector.found["meso"] = [MESO, Box(20, 100, 148, 292)]
    config = another(meso=detector.found["meso"])
    run(photos, out, config)
    (left,) = [one for one in view(out)["discards"] if one["kind"] == "surplus"]
    reply = Desk(out, None).answer("decide", {"root": "astronaut", "do": "keep", "key": left["key"]})
    assert [one["level"] for one in reply["photo"]["slices"]] == [0, 1, 1, 2] and not reply["photo"]["discards"]
    run(photos, out, config)
    assert [box for level, box in kept(out) if level == "meso"][1] == left["box"]


def test_a_rejected_photo_gives_nothing_and_its_near_duplicate_does_not_come_instead(photos, out):
    with Image.open(photos / "astronaut.png") as image:
        image.resize((396, 297)).save(photos / "copy.png")
    config = replace(CONFIG, near_duplicates=4)
    run(photos, out, config)
    assert reasons(out, "copy")[0].startswith("near-duplicate: of astronaut.png")
    decide(out, "reject photo")
    assert view(out)["rejected"] and {one["state"] for one in view(out)["slices"]} == {"rejected"}
    result = run(photos, out, config)
    assert not kept(out) and not kept(out, "copy") and result.tally.lost == {"rejected": 1, "near-duplicate": 1}
    decide(out, "restore photo")
    run(photos, out, config)
    assert len(kept(out)) == 3


def test_the_near_duplicate_that_was_decided_about_is_the_one_that_stays(photos, out):
    decide(out, "place", "meso", box=[10, 20, 202, 212])
    with Image.open(photos / "astronaut.png") as image:
        image.resize((800, 600)).save(photos / "larger.png")
    config = replace(CONFIG, near_duplicates=4)
    run(photos, out, config)
    assert ("meso", [10, 20, 202, 212]) in kept(out) and not kept(out, "larger")
    decide(out, "add", "micro", root="larger", box=[40, 240, 296, 496])
    run(photos, out, config)
    assert ("micro", [40, 240, 296, 496]) in kept(out, "larger"), "a person wants it, so it is no near-duplicate"
    assert ("meso", [10, 20, 202, 212]) in kept(out)


def test_decisions_that_cannot_be_obeyed_are_said(photos, out, capsys):
    levels = "macro:384,meso:256,micro:256"
    command = [str(photos), str(out), "--min_size", "64", "--caption", "words", "--near_duplicates", "-1", "--levels"]
    decide(out, "reject", "micro")
    decide(out, "reject", "meso", root="coffee")
    decide(out, "caption", "meso", root="chelsea", caption="a cat")
    (photos / "coffee.png").unlink()
    with (out / DECISIONS).open("a") as file:
        file.write('{"id": "x", "photo": "y"}\n{"at": "cut by a ki')
    assert main([*command, levels]) == 0
    said = capsys.readouterr().out
    assert "review   2 decisions obeyed: 1 rejected, 1 captions" in said
    assert "1 photo of the review is not here, or changed since it was decided: coffee.png" in said
    assert f"2 lines of {out / DECISIONS} passed over, which tell no decision" in said
    assert main([*command, levels.removesuffix(",micro:256")]) == 0
    assert "1 decision of the review is about levels that this run does not have: micro" in capsys.readouterr().out


def test_a_preview_obeys_and_keeps_nothing_of_it(photos, out):
    decide(out, "reject", "meso")
    settings = str(out / "hsd_config.toml")
    assert main([str(photos), str(out), "--config", settings, "--preview", "3"]) == 0
    assert reasons(out / "preview") == ["rejected: in the review"]
    assert not (out / "preview" / DECISIONS).exists()


def test_a_decision_that_is_sent_twice_is_made_once(out):
    desk = Desk(out, None)
    asked = {"root": "astronaut", "do": "add", "level": "micro", "box": [20, 120, 148, 248], "as": "0123456789ab"}
    first, second = desk.answer("decide", asked), desk.answer("decide", asked)
    assert first["id"] == second["id"] == "0123456789ab" and len(second["photo"]["slices"]) == 4
    undo = {"id": "0123456789ab", "as": "0123456789ac"}
    desk.answer("undo", undo)
    assert desk.answer("undo", undo)["count"] == 2 and len(view(out)["slices"]) == 3


def test_what_is_so_already_writes_nothing(out):
    desk = Desk(out, None)
    key = piece(out, "meso")["key"]
    about = {"root": "astronaut", "key": key}
    for do, count in (("restore", 0), ("reject", 1), ("reject", 1), ("restore", 2), ("keep", 3), ("keep", 3)):
        assert desk.answer("decide", {**about, "do": do})["count"] == count
    for do, count in (("restore photo", 3), ("reject photo", 4), ("reject photo", 4)):
        assert desk.answer("decide", {"root": "astronaut", "do": do})["count"] == count


def test_questions_that_the_page_does_not_ask_are_refused(out):
    desk = Desk(out, None)
    about = {"root": "astronaut", "key": piece(out, "meso")["key"]}
    wrong = [
        ("open", {}),
        ("list", {"show": "everything"}),
        ("photos", {"roots": "astronaut"}),
        ("cut", {"root": "astronaut", "level": "nano", "box": [0, 0, 100, 100]}),
        ("cut", {"root": "../astronaut", "level": "meso", "box": [0, 0, 100, 100]}),
        ("cut", {"root": "astronaut", "level": "meso", "box": [0, 0, 1e3, 100]}),
        ("cut", {"root": "astronaut", "level": "meso", "box": [50, 0, 20, 100]}),
        ("decide", {**about, "do": "place", "box": [900, 900, 1000, 1000]}),
        ("decide", {**about, "do": "caption", "caption": " \n "}),
        ("decide", {**about, "do": "caption", "caption": "x" * 5000}),
        ("decide", {**about, "do": "caption", "caption": "\ud800"}),
        ("decide", {**about, "do": "reject", "as": "../x"}),
        ("decide", {**about, "do": "delete"}),
        ("decide", {"root": "astronaut", "key": "meso 1,2,3,4", "do": "reject"}),
        ("undo", {"id": "nothing"}),
    ]
    for name, request in wrong:
        with pytest.raises(Refused):
            desk.answer(name, request)
    assert not (out / DECISIONS).read_bytes()


def test_the_filters_and_the_search_find_photos(photos, out):
    Image.new("RGB", (50, 50)).save(photos / "tiny.png")
    with Image.open(photos / "coffee.png") as image:
        image.resize((396, 297)).save(photos / "same.png")
    (photos / "chelsea.txt").write_text("a tabby cat")
    config = replace(CONFIG, caption="", near_duplicates=4)
    run(photos, out, config)
    decide(out, "reject", "meso")
    decide(out, "caption", "micro", root="coffee", caption="a cup")
    desk = Desk(out, None)

    def chosen(show: str = "", find: str = "") -> list[str]:
        return desk.answer("list", {"show": show, "find": find})["roots"]

    assert chosen() == ["astronaut", "chelsea", "coffee", "same", "tiny"]
    assert chosen("rejected") == ["astronaut"] and chosen("no:meso") == ["astronaut", "same", "tiny"]
    assert chosen("near-duplicates") == ["same"] and chosen("left out") == ["same", "tiny"]
    assert chosen("decided") == chosen("waiting") == ["astronaut", "coffee"]
    assert chosen("uncaptioned") == ["astronaut", "coffee"], "chelsea has a caption, coffee one slice of three"
    assert chosen("enlarged") == ["astronaut", "chelsea", "coffee"]
    assert chosen(find="TABBY") == ["chelsea"] and chosen(find="cup") == ["coffee"] and chosen(find="a meso")
    assert chosen("left out", "tin") == ["tiny"]


def test_a_run_while_the_page_is_open_is_seen(photos, out):
    desk = Desk(out, None)
    before = desk.answer("list", {})
    (photos / "coffee.png").unlink()
    run(photos, out, CONFIG)
    after = desk.answer("list", {})
    assert after["run"] != before["run"] and after["roots"] == ["astronaut", "chelsea"]
    with pytest.raises(Refused, match="shown anew"):
        desk.answer("decide", {"root": "coffee", "do": "reject photo"})


def test_an_out_without_a_run_cannot_be_reviewed(tmp_path, capsys):
    with pytest.raises(SgaError, match="give the OUT of a finished run"):
        Desk(tmp_path, None)
    assert main(["review", str(tmp_path / "nothing")]) == 2 and "give the OUT" in capsys.readouterr().err


def test_what_made_the_slices_need_not_be_there_to_review_them(out):
    settings = (out / "hsd_config.toml").read_text()
    gone = {'"heuristic"': '"mine"', '"inherit"': '"mine.module:function"', 'masks = ""': 'masks = "/gone"'}
    for known, other in gone.items():
        assert known in settings
        settings = settings.replace(known, other)
    (out / "hsd_config.toml").write_text(settings)
    assert len(view(out)["slices"]) == 3 and Desk(out, None).album.config.min_size == 64


def test_a_place_waits_while_its_level_is_away(photos, out):
    decide(out, "place", "micro", box=[10, 20, 202, 212])
    run(photos, out, replace(CONFIG, levels=LEVELS[:2]))
    assert [level for level, _ in kept(out)] == ["macro", "meso"]
    run(photos, out, CONFIG)
    assert ("micro", [10, 20, 202, 212]) in kept(out)


def test_photos_without_any_region_can_be_given_one():
    config = HsdConfig((replace(LEVELS[0], max_slices=2), LEVELS[1]), mode="split", min_size=64)
    nothing = [Region((Crop("macro", Box(0, 0, 400, 300), None, reason="no region: x found no macro in it"),))]
    places = [Place("meso +1", "meso", None, Box(0, 0, 128, 128)), Place("macro +1", "macro", None, MESO)]
    first, second = obey(nothing, places, (400, 300), config)
    assert [(crop.level, crop.kept) for crop in first.crops] == [("macro", False), ("meso", True)]
    assert [(crop.level, crop.kept) for crop in second.crops] == [("macro", True)]


def row(id: str, place: str = "p", **more: object) -> dict:
    known = {"id": id, "photo": "s", "source": "a.jpg", "place": place, "level": "meso", "anchor": [0, 0, 9, 9]}
    return {**known, "size": [64, 64], **more}


def test_rows_add_up_in_any_order_of_two_pages():
    box, words = row("1", box=[1, 1, 8, 8]), row("2", caption="words")
    (one,), (other,) = fold([box, words]), fold([words, box])
    assert one == other and (one.box, one.caption) == (Box(1, 1, 8, 8), "words")
    assert fold([row("1", caption="words")])[0].box == Box(0, 0, 9, 9), "a caption pins its slice"
    assert fold([row("1", anchor=None, box=[1, 1, 8, 8]), row("2", anchor=None, box=None)]) == [], "added and rejected"


def test_a_file_of_any_content_is_read(tmp_path):
    lines = [1, [], {}, row("1"), row("2", box=[1, 1, 0, 0]), row("3", box="all"), row("4", caption=5)]
    lines += [row("5", box=None, anchor=[1]), row("6", box=None, size=[0, 1]), {"id": "7", "undo": "1"}]
    good = row("8", box=None)
    (tmp_path / DECISIONS).write_text("".join(json.dumps(line) + "\n" for line in [*lines, good]) + '{"id": "9", "pho')
    found = Decisions(tmp_path)
    assert found.rows == [good] and found.unread == 10
    writer = Writer(tmp_path)
    writer.add("s", "a.jpg", **{k: v for k, v in row("", box=None).items() if k not in ("id", "photo", "source")})
    writer.close()
    assert len(Decisions(tmp_path).rows) == 2, "behind a line that a kill cut short"


def test_a_decision_that_the_disk_does_not_take_is_refused_and_not_half_there(out, monkeypatch):
    desk = Desk(out, None)

    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(Refused, match="No space left on device") as refused:
        desk.answer("decide", {"root": "astronaut", "do": "reject photo"})
    assert refused.value.status == 507 and not desk.decisions.rows


def test_a_report_that_only_quotes_our_mark_is_another_s(photos, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "report.html").write_text(f"<!doctype html>{'.' * 9000}{MARK}")
    with pytest.raises(SgaError, match="was not written by sga_kohya.hsd"):
        run(photos, target, CONFIG)
