"""sga_kohya.hsd: what a slice's caption says."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.photos.captions import (
    Caption,
    CaptionEvidence,
    UnreadableCaption,
    Words,
    find_caption,
    slice_caption,
)
from sga_kohya.hsd.photos.tags import is_tag_list, split_tags, without

PHOTO = Box(0, 0, 1000, 1000)
FOUND = (
    Detection(Box(400, 100, 600, 300), 0.9, "micro", "face"),
    Detection(Box(100, 600, 200, 700), 0.8, "micro", "hand"),
    Detection(Box(800, 600, 900, 700), 0.7, "micro", "hand"),
    Detection(Box(300, 900, 700, 1000), 0.6, "micro", "shoe"),
)
FACE, LEFT_HAND = Box(380, 80, 620, 320), Box(90, 590, 210, 710)
TAGS = "zoe, red hair, smiling face, Open Hands, (red_shoes:1.2), full body, garden"


def evidence(crop: Box) -> CaptionEvidence:
    return CaptionEvidence(crop, PHOTO, FOUND)


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        (PHOTO, TAGS),
        (FACE, "zoe, red hair, smiling face, garden"),
        (LEFT_HAND, "zoe, red hair, Open Hands, garden"),  # one of the two hands is still there
        (Box(0, 0, 1000, 900), "zoe, red hair, smiling face, Open Hands, full body, garden"),
    ],
)
def test_tags_of_what_the_crop_does_not_show_are_dropped(crop, expected):
    assert slice_caption(TAGS, evidence(crop)) == expected


def test_a_slice_that_shows_a_whole_figure_keeps_its_framing():
    figure = Detection(Box(100, 100, 300, 900), 1.0, "meso", "person")
    face = Detection(Box(150, 100, 250, 200), 1.0, "micro", "face")
    tags = "zoe, full body, garden"
    assert slice_caption(tags, CaptionEvidence(Box(80, 80, 320, 920), PHOTO, [figure, face])) == tags
    assert slice_caption(tags, CaptionEvidence(Box(100, 100, 300, 300), PHOTO, [figure, face])) == "zoe, garden"


def test_nothing_is_dropped_without_evidence_or_when_it_is_not_wanted():
    unlabelled = CaptionEvidence(FACE, FACE, [Detection(Box(0, 900, 100, 1000), 1.0, "micro")])
    assert slice_caption(TAGS, unlabelled) == TAGS
    assert slice_caption(TAGS, evidence(FACE), drop_tags=False) == TAGS


@pytest.mark.parametrize(
    "sentence",
    [
        "A woman in red shoes, hands on her hips, in a garden.",
        "a photo of a woman with red shoes",
        "The dog sleeps, the cat watches, nobody moves its hands",
        "hands, shoes",  # two items might be the end of anything
        "woman, standing in front of an old house, hands",
    ],
)
def test_a_sentence_is_never_mauled(sentence):
    assert not is_tag_list(sentence)
    assert slice_caption(sentence, evidence(FACE)) == sentence


def test_the_trigger_word_and_what_a_separator_protects_stay():
    assert slice_caption("sks hand, hands, garden", evidence(FACE)) == "sks hand, garden"
    assert slice_caption("hand, shoes ||| hands, garden", evidence(FACE)) == "hand, shoes ||| garden"
    assert slice_caption("hand, shoes, garden ||| hands", evidence(FACE)) == "hand, shoes, garden"


def test_only_the_last_words_of_a_tag_say_what_it_is_about():
    assert slice_caption("x, hand on hip, shoe box, shoes", evidence(FACE)) == "x, hand on hip, shoe box"


@pytest.mark.parametrize(
    ("caption", "prefix", "expected"),
    [
        ("A woman in a garden.", "close-up of ", "close-up of a woman in a garden."),
        ("Anna smiles.", "close-up of", "close-up of Anna smiles."),
        ("", "detail of", "detail of photo"),
        ("  ", "", "photo"),
        ("50% off", "", "50% off"),
    ],
)
def test_prefix_and_never_empty(caption, prefix, expected):
    assert slice_caption(caption, evidence(FACE), prefix) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("zoe, (red shoes, blue hat:1.2), garden", "zoe, (blue hat:1.2), garden"),
        ("zoe, (blue hat, red shoes:1.2), garden", "zoe, (blue hat:1.2), garden"),
        ("zoe, garden, ((red shoes, shoes):1.3), hat", "zoe, garden, hat"),
        ("zoe, garden, [red shoes, [hat, shoes]], tree", "zoe, garden, [[hat]], tree"),
        ("zoe, {red shoes|boots, hat|shoes}, garden, tree", "zoe, {boots, hat}, garden, tree"),
        ("zoe, {red shoes|}, {smile|grin}, garden, tree", "zoe, {smile|grin}, garden, tree"),
        ("zoe, {smile|}, garden, shoes", "zoe, {smile|}, garden"),
        ("zoe, red shoes;;;blue hat, garden, tree", "zoe, blue hat, garden, tree"),
        ("zoe, shoes \\(red\\), red_shoes, tail \\(animal\\)", "zoe, shoes \\(red\\), tail \\(animal\\)"),
        ("zoe, :(, shoes, smile, :)", "zoe, :(, smile, :)"),
        ("zoe, (unclosed, shoes, garden", "zoe, (unclosed, garden"),
        ("zoe, closed), shoes, garden", "zoe, closed), garden"),
        ("zoe, <lora:shoes:0.8>, shoes, garden", "zoe, <lora:shoes:0.8>, garden"),
        ("zoe, , shoes, garden, tree,", "zoe, , garden, tree,"),
        (", zoe, shoes, garden", ", zoe, garden"),
        ("zoe，红鞋，shoes，garden", "zoe，红鞋，garden"),
        ("zoe、shoes、garden", "zoe、garden"),
        ("((shoes)), hat, garden, ((((((((((((shoes))))))))))))", "((shoes)), hat, garden"),
    ],
)
def test_brackets_weights_and_alternatives_keep_what_they_hold_together(caption, expected):
    assert slice_caption(caption, evidence(FACE)) == expected
    assert slice_caption(caption, evidence(PHOTO)) == caption


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("shoes ||| hands, garden, tree ||| shoes, best", "shoes ||| garden, tree ||| shoes, best"),
        ("zoe, shoes ||| hands ||| shoes, best", "zoe, shoes ||| ||| shoes, best"),
        ("zoe, hat ||| hands, tree ||| a, b ||| shoes", "zoe, hat ||| tree ||| a, b ||| shoes"),
    ],
)
def test_what_sd_scripts_fixes_in_front_and_behind_stays(caption, expected):
    """Its split: fixed_part, flex_part = caption.split(separator, 1); then flex_part, fixed_suffix_part likewise."""
    assert slice_caption(caption, evidence(FACE)) == expected


@pytest.mark.parametrize("tag", ["on back", "in water", "at night", "with cat", "the legend of zelda", "love live!"])
def test_one_odd_tag_does_not_switch_dropping_off(tag):
    caption = f"zoe, {tag}, red hair, shoes, garden, tree, smile"
    assert slice_caption(caption, evidence(FACE)) == f"zoe, {tag}, red hair, garden, tree, smile"
    if tag.startswith(("on", "in", "at", "with")):  # they are as good as any, also among few
        assert slice_caption(f"zoe, {tag}, shoes, hat", evidence(FACE)) == f"zoe, {tag}, hat"


@pytest.mark.parametrize(
    "prose",
    [
        "Photograph of zoe, smiling, red hair, blue hat, garden, shoes.",
        "她站在花园里，穿着红色的鞋子，微笑着。",
        "1girl, red hair, A woman stands in a garden, and her shoes are red, hands",
    ],
)
def test_prose_with_many_commas_is_not_a_tag_list(prose):
    assert slice_caption(prose, evidence(FACE)) == prose


def test_every_line_of_a_caption_is_kept_and_judged_alone():
    lines = "zoe, shoes, garden, tree\nA woman in red shoes, in a garden.\n\nzoe ||| shoes, hat, tree"
    assert slice_caption(lines, evidence(FACE), "close-up, ") == (
        "zoe, close-up, garden, tree\nclose-up, a woman in red shoes, in a garden.\nzoe, close-up ||| hat, tree"
    )


@pytest.mark.parametrize(
    ("caption", "prefix", "expected"),
    [
        ("zoe, garden", "close-up, ", "zoe, close-up, garden"),
        ("zoe, red hair, garden", "close-up", "zoe, close-up, red hair, garden"),
        ("zoe", "close-up", "zoe, close-up"),
        ("(zoe, hat:1.2), garden", "close-up,", "(zoe, hat:1.2), close-up, garden"),
        ("zoe, woman ||| red hair, garden", "close-up, ", "zoe, woman, close-up ||| red hair, garden"),
        ("zoe ||| A woman smiles. ||| best", "close-up, ", "zoe, close-up ||| A woman smiles. ||| best"),
        ("zoe ||| red hair", "close-up of ", "close-up of zoe ||| red hair"),
        ("zoe, garden", "close-up of", "close-up of zoe, garden"),
        ("zoe, garden", "detail:", "detail: zoe, garden"),
        ("zoe，花园", "close-up", "zoe, close-up，花园"),
        ("A woman smiles.", "close-up, ", "close-up, a woman smiles."),
        ("A-frame house by the sea.", "detail of", "detail of A-frame house by the sea."),
    ],
)
def test_a_prefix_leaves_the_trigger_word_where_keep_tokens_finds_it(caption, prefix, expected):
    assert slice_caption(caption, evidence(PHOTO), prefix) == expected


@pytest.mark.parametrize(
    ("caption", "words", "expected"),
    [
        (TAGS, Words("A smile.", "trigger"), "zoe, A smile."),
        (TAGS, Words("A smile.", "trigger", "sks"), "sks, A smile."),
        (TAGS, Words("A smile.", "nothing"), "A smile."),
        ("zoe, woman ||| red hair, garden", Words("grin, lips", "trigger"), "zoe, woman ||| grin, lips"),
        ("zoe ||| red hair, hat ||| best", Words("grin, hat", "caption"), "zoe ||| red hair, hat, grin ||| best"),
        ("zoe ||| red hair ||| best", Words("A smile.", "caption"), "zoe ||| red hair, A smile. ||| best"),
        ("||| red hair, garden", Words("A smile.", "trigger"), "||| A smile."),
        ("A woman in a garden.", Words("A smile.", "trigger"), "A smile."),
        ("A woman in a garden", Words("grin, lips", "caption"), "A woman in a garden, grin, lips"),
        ("zoe, garden\nzoe, hat, tree", Words("A smile.", "trigger"), "zoe, A smile."),
        ("zoe, garden\nzoe, hat", Words("grin", "caption"), "zoe, garden, grin\nzoe, hat, grin"),
        ("zoe, red_hair", Words("red hair, (zoe:1.2)", "caption"), "zoe, red_hair"),
        ("zoe", Words("", "nothing", label="face"), "face"),
        ("", Words("", "trigger"), "photo"),
        ("", Words("A smile."), "A smile."),
        ("sks dog", Words("A smile.", "caption", "sks"), "sks dog, A smile."),
    ],
)
def test_words_of_a_captioner_stand_behind_what_they_keep_of_the_photo_s(caption, words, expected):
    assert slice_caption(caption, evidence(FACE), words=words) == expected


@pytest.mark.parametrize(
    ("prefix", "words", "expected"),
    [
        ("close-up, ", "A smile.", "zoe, close-up, a smile."),
        ("close-up, ", "grin, lips", "zoe, close-up, grin, lips"),
        ("close-up of", "A smile.", "zoe, close-up of a smile."),
    ],
)
def test_a_prefix_stands_between_the_trigger_word_and_a_captioner_s_words(prefix, words, expected):
    assert slice_caption(TAGS, evidence(FACE), prefix, words=Words(words, "trigger")) == expected


def test_sidecars_in_sub_folders_and_annotations_that_are_none(tmp_path):
    folder = tmp_path / "dogs" / "old"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.1 0.1\n")
    assert find_caption(folder / "a.jpg", tmp_path) == Caption("old", guessed=True, meant=False)
    (folder / "a.caption").write_text("\ufeff\n a dog \n")
    assert find_caption(folder / "a.jpg", tmp_path) == Caption("a dog")
    (folder / "a.txt").write_text("0\t5e-1\t0.5\t2.5E-01\t.25\n")
    assert find_caption(folder / "a.jpg", tmp_path) == Caption("a dog"), "tabs and exponents are an annotation, too"
    (folder / "a.txt").write_text("3 cats, 2 dogs, 1 hat, 4 shoes\n")
    assert find_caption(folder / "a.jpg", tmp_path).text == "3 cats, 2 dogs, 1 hat, 4 shoes"


def test_all_lines_of_a_sidecar_are_read_and_several_are_noted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\r\n a dog \r\n\r\nthe dog sleeps\r\n")
    caption = find_caption(tmp_path / "a.jpg", tmp_path)
    assert caption.text == "a dog\nthe dog sleeps" and "enable_wildcard" in caption.notes[0]
    assert not find_caption(tmp_path / "b.jpg", tmp_path, "a dog").notes


def test_a_caption_that_is_not_utf_8_is_refused_by_name_and_one_with_a_mark_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("zoé in a café".encode("utf-16"))
    assert find_caption(tmp_path / "a.jpg", tmp_path).text == "zoé in a café"
    for data in ("zoé in a café".encode("cp1252"), "zoe".encode("utf-16-le"), "猫と靴".encode("cp932")):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(UnreadableCaption, match=r"^a\.txt (not UTF-8|holds NULs)"):
            find_caption(tmp_path / "a.jpg", tmp_path, "default")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("10_p3rs0n man/IMG_0001.jpg", "p3rs0n man"),
        ("5_猫/DSC0001.jpg", "猫"),
        ("3_my_dog/a.jpg", "my_dog"),
        ("3_sks dog/outside/a.jpg", "sks dog"),
        ("猫/IMG_1.jpg", "猫"),
        ("p3rs0n man/IMG_1.jpg", "p3rs0n man"),
        ("2024-07 trip/IMG_1.jpg", "trip"),
        ("2024_05_03/red_shoes_01.jpg", "red shoes"),
        ("100APPLE/IMG_0001.jpg", "APPLE"),
        ("IMG_20240203_1201.jpg", "holiday"),
        ("a3f9e2bb81.jpg", "holiday"),
        ("10_evil\nname/IMG_1.jpg", "evil name"),
    ],
)
def test_without_a_caption_a_photo_gets_the_words_that_kohya_s_tools_take_from_its_folder(tmp_path, path, words):
    photo = tmp_path / "holiday" / path
    found = find_caption(photo, tmp_path / "holiday")
    assert (found.text, found.guessed) == (words, True)
    assert found.meant == path.startswith(("10_p3", "5_", "3_")), "a name in the form that kohya's tools read"
    assert find_caption(photo, tmp_path / "holiday", "my style") == Caption("my style")


def test_photos_named_for_kohya_s_tools_themselves_give_the_trigger_word(tmp_path):
    assert find_caption(tmp_path / "10_sks dog" / "beach.jpg", tmp_path / "10_sks dog").text == "sks dog"


def test_a_text_of_any_length_and_nesting_is_read(tmp_path):
    for text in ("(" * 5000 + ", a" * 3000 + ")" * 5000, "{" * 3000 + "a|b, " * 3000, ",|||;;;" * 3000, "(a:" * 3000):
        assert slice_caption(text, evidence(FACE), "close-up, ")


LEAVES = st.sampled_from(["hat", "red shoes", "tail \\\\(animal\\\\)", ":(", "<lora:x:1>", "on back"])
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.tuples(
        st.sampled_from(["()", "(:1.2)", "[]", "{|}", ";;;"]), st.lists(inner, min_size=2, max_size=3)
    ),
    max_leaves=8,
)


def written(item: object, shown: bool) -> str:
    """A tag, or a group of tags, as people write it; shown: without the red shoes."""
    if isinstance(item, str):
        return "" if shown and item == "red shoes" else item
    kind, members = item
    texts = [text for text in (written(member, shown) for member in members) if text]
    between = {"{|}": "|", ";;;": ";;;"}.get(kind, ", ")
    end = "" if kind == ";;;" else kind[1:].replace("|", "")
    return (kind[0] if end else "") + between.join(texts) + end if texts else ""


def braces(item: object) -> bool:
    return not isinstance(item, str) and (item[0] in ("{|}", ";;;") or any(map(braces, item[1])))


@given(st.lists(NESTED, min_size=1, max_size=4))
@example([(";;;", ["hat", ("()", ["hat", "red shoes"])])])
def test_whatever_the_nesting_only_what_is_hidden_goes(items):
    # sd-scripts knows no alternatives inside alternatives, nor groups bound by ;;; inside brackets.
    items = [item for item in items if isinstance(item, str) or not any(map(braces, item[1]))]
    whole, less = (
        ", ".join(["zoe", *filter(None, (written(item, shown) for item in items))]) for shown in (False, True)
    )
    assert without(whole, lambda tag: tag == "red shoes") == less
    assert without(whole, lambda tag: False) == whole


@given(st.lists(st.sampled_from([*"()[]{}|,，、 ", "a", "red shoes", "|||", ";;;", ":1.2", "\\(", ":("]), max_size=20))
def test_where_nothing_is_hidden_nothing_changes_and_no_caption_becomes_empty(pieces):
    line = "".join(pieces).strip()
    assert without(line, lambda tag: False) == line == "".join(split_tags(line))
    assert without(line, lambda tag: True).strip() or not line
