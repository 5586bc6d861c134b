"""sga_kohya.hsd: what a slice's caption says."""

import pytest

from sga_kohya.hsd.cut.geometry import Box
from sga_kohya.hsd.detect import Detection
from sga_kohya.hsd.photos.captions import CaptionEvidence, find_caption, is_tag_list, slice_caption

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
        ("zoe, garden", "close-up, ", "close-up, zoe, garden"),
        ("", "detail of", "detail of photo"),
        ("  ", "", "photo"),
        ("50% off", "", "50% off"),
    ],
)
def test_prefix_and_never_empty(caption, prefix, expected):
    assert slice_caption(caption, evidence(FACE), prefix) == expected


def test_sidecars_in_sub_folders_and_annotations_that_are_none(tmp_path):
    folder = tmp_path / "10_dogs" / "old"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.1 0.1\n")
    assert find_caption(folder / "a.jpg", tmp_path) == "old"
    (folder / "a.caption").write_text("\ufeff\n a dog \n")
    assert find_caption(folder / "a.jpg", tmp_path) == "a dog"
