"""The detector `boxes`: annotations as people have them, for the photos that they are of and for no others."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, HsdConfig, View
from sga_kohya.hsd.detect import Detection, Detector
from sga_kohya.hsd.detectors.boxes.matching import match
from sga_kohya.hsd.detectors.class_names import in_order, read_classes
from sga_kohya.hsd.kits import make_detector
from sga_kohya.hsd.photos.captions import find_caption

SIZE = (400, 200)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def add_photo(photos: Path, source: str, size: tuple[int, int] = SIZE, **options: object) -> View:
    """Writes a photo that is all red in the left half, and returns the view of all of it, upright."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = (255, 0, 0)
    path = photos / source
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    image.save(path, **options)
    return whole(np.asarray(ImageOps.exif_transpose(Image.open(path))), source)


def whole(pixels: np.ndarray, source: str) -> View:
    size = pixels.shape[1::-1]
    return View(pixels, source, Box.whole(size), size)


def part(view: View, box: Box) -> View:
    return View(view.pixels[box.y0 : box.y1, box.x0 : box.x1], view.source, box, view.photo_size)


def boxes(photos: Path, **options: object) -> Detector:
    named = {key.replace("__", "."): value for key, value in options.items()}
    return make_detector(HsdConfig(detector="boxes", detector_options=named, mode="whole", device="cpu"), photos)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


FACE = "0 0.5 0.5 0.5 0.5\n"


# --- whose they are -----------------------------------------------------------------------------------------------

HASH = "0123456789abcdef0123456789abcdef"
LAYOUTS = {
    "beside each other": ("a/01.jpg", "a/01.txt"),
    "images and labels": ("images/train/01.jpg", "labels/train/01.txt"),
    "photos are the images": ("train/01.jpg", "labels/train/01.txt"),
    "photos are one split": ("01.jpg", "labels/val/01.txt"),
    "roboflow": ("train/images/cat_jpg.rf.{HASH}.jpg", "train/labels/cat_jpg.rf.{HASH}.txt"),
    "roboflow's labels of the first photos": ("pets/My cat (2).JPG", "train/labels/My-cat-2-_JPG.rf.{HASH}.txt"),
    "label studio": ("my cat.jpg", "labels/1a2b3c4d-my_cat.txt"),
    "url escapes": ("a/my cat é.jpg", "a/my%20cat%20%C3%A9.txt"),
    "another form of the same letters": ("a/cafe\u0301.jpg", "a/caf\u00e9.txt"),
    "another case": ("A/IMG_1.JPG", "a/img_1.txt"),
    "the extension kept": ("a/01.png", "a/01.png.txt"),
    "a dot in the name": ("a/v1.2.png", "a/v1.2.txt"),
    "cvat": ("01.jpg", "obj_train_data/01.txt"),
    "flat labels": ("a/01.jpg", "01.txt"),
    "windows": ("a/b/01.jpg", "a\\b\\01.jpg"),
    "an absolute path": ("b/01.jpg", "/home/me/a/b/01.jpg"),
    "a url": ("my cat.png", "https://host/data/upload/3/1a2b3c4d-my%20cat.png"),
    "another extension": ("a/01.webp", "a/01.jpg"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_annotations_are_found_in_the_layouts_that_people_have(layout):
    photo, name = (text.replace("{HASH}", HASH) for text in LAYOUTS[layout])
    found = match([photo, "other.jpg"], ["more/other things.txt", name])
    assert (found.annotation_of, found.ambiguous, found.unmatched) == ({photo: name}, [], ["more/other things.txt"])


@pytest.mark.parametrize(
    ("photos", "names", "found"),
    [
        (["a/001.jpg", "b/001.jpg"], ["a/001.txt"], {"a/001.jpg": "a/001.txt"}),
        (["b/001.jpg"], ["a/001.txt"], {}),
        (["a/001.jpg", "b/001.jpg"], ["001.txt"], None),
        (["001.jpg", "b/001.jpg"], ["001.txt"], {"001.jpg": "001.txt"}),
        (["x.jpg", "x.png"], ["x.txt"], None),
        (["x.jpg", "x.png"], ["x.png"], {"x.png": "x.png"}),
        (["x.jpg"], ["labels/train/x.txt", "labels/val/x.txt"], None),
        # Two augmented copies of one photo: of neither is it known how it was turned.
        (["x.jpg"], ["x_jpg.rf.aaaaaaaa1.txt", "x_jpg.rf.aaaaaaaa2.txt"], None),
        (["X.jpg", "x.jpg"], ["x.txt"], {"x.jpg": "x.txt"}),
        (["my cat.jpg", "my_cat.jpg"], ["1a2b3c4d-my_cat.txt"], None),
        ([".jpg", ""], ["", ".txt"], {}),
    ],
)
def test_no_annotation_goes_to_a_photo_that_it_may_not_be_of(photos, names, found):
    """found: None where there is more than one answer, which is named and not used."""
    matches = match(photos, names)
    if found is None:
        assert not matches.annotation_of and {photo for photo, _ in matches.ambiguous} <= set(photos)
        assert {name for _, name in matches.ambiguous} == set(names)
    else:
        assert (matches.annotation_of, matches.ambiguous) == (found, [])


def test_what_is_annotated_and_what_is_not_is_said_before_the_run(photos, tmp_path, capsys):
    for source in ("a/001.jpg", "b/001.jpg", "c/002.jpg", "d/003.png", "e/003.png"):
        add_photo(photos, source)
    labels = write(
        tmp_path / "labels",
        {
            "classes.txt": "face",
            "a/001.txt": FACE,
            "z/009.txt": FACE,
            "002.txt": "0 .5 .5 0 .5\n" + FACE,
            "003.txt": FACE,
            "README.txt": "Exported by somebody",
        },
    )
    model = boxes(photos, annotations=labels)
    assert capsys.readouterr().err.splitlines() == [
        "boxes: 2 of 5 photos are annotated, 1 names match no photo, such as 'z/009.txt'",
        "boxes: 2 matches are not used, as another is as likely, such as 'd/003.png by 003.txt', 'e/003.png by "
        "003.txt'",
        "boxes: 1 boxes without a size are left out, such as '002.txt'",
        "boxes: 1 .txt files hold no labels, such as 'README.txt'",
    ]
    views = [add_photo(photos, source) for source in ("a/001.jpg", "b/001.jpg", "c/002.jpg", "d/003.png")]
    assert [len(found) for found in model.detect(views, "micro")] == [1, 0, 1, 0]


def test_the_name_of_a_file_forges_no_line(photos, tmp_path, capsys):
    add_photo(photos, "1.jpg")
    boxes(
        photos,
        annotations=write(tmp_path / "l", {"classes.txt": "face", "1.txt": FACE, "x\nboxes: all is well.txt": FACE}),
    )
    (said,) = capsys.readouterr().err.splitlines()
    assert said.isprintable()


def test_a_run_of_which_no_photo_is_annotated_ends_before_it_begins(photos, tmp_path):
    add_photo(photos, "b/1.jpg")
    labels = write(tmp_path / "labels", {"classes.txt": "face", "a/2.txt": FACE})
    with pytest.raises(
        SgaError, match="0 of 1 photos are annotated, 1 names match no photo, such as 'a/2.txt'; .*'b/1.jpg'"
    ):
        boxes(photos, annotations=labels)


# --- YOLO ---------------------------------------------------------------------------------------------------------


def test_yolo_annotations_in_a_view(photos, tmp_path):
    labels = write(
        tmp_path / "labels",
        {
            "classes.txt": "face\nupper body\ncat\n",
            "cats/01.txt": "0 0.5 0.25 0.1 0.1\n1 0.5 0.5 0.5 0.5 0.8\n2 0.1 0.1 0.2 0.1 0.2 0.3\n",
        },
    )
    photo = add_photo(photos, "cats/01.jpg")
    model = boxes(photos, annotations=labels)
    cut = part(photo, Box(100, 0, 400, 200))
    (face,), (body,) = (model.detect([cut], level)[0] for level in ("micro", "meso"))
    assert face == Detection(Box(80, 40, 120, 60), 1.0, "micro", "face")
    assert body == Detection(Box(0, 50, 200, 150), 0.8, "meso", "upper body")
    all_of_it = boxes(photos, annotations=labels, labels__micro="cat", threshold__micro=0.5)
    (polygon,) = all_of_it.detect([photo], "micro")[0]
    assert polygon.box == Box(40, 20, 80, 60) and polygon.label == "cat"
    assert model.detect([part(photo, Box(300, 0, 400, 200))], "micro") == [[]], "it lies elsewhere"


POSE = "0 .5 .5 .5 .5 .9 .9 2 .1 .1 0 .5 .5 1 .6 .6 2\n"  # four points: as many numbers as a polygon of eight corners


@pytest.mark.parametrize(
    ("line", "yaml", "expected"),
    [
        ("0 0.5 0.5 0.5 0.5", "", Box(100, 50, 300, 150)),
        ("0\t5e-1  .5\t5.0E-01 +0.5", "", Box(100, 50, 300, 150)),
        ("0.000000e+00 0.5 0.5 0.5 0.5 0.9", "", Box(100, 50, 300, 150)),
        (POSE, "", Box(100, 50, 300, 150)),
        (POSE, "kpt_shape: [4, 3]", Box(100, 50, 300, 150)),
        ("0 .5 .5 .5 .5 .9 .9 .1 .1", "kpt_shape: [2, 2]", Box(100, 50, 300, 150)),
        ("0 .5 .5 .5 .5 .9 .9 .1 .1 .7", "kpt_shape: [2, 2]", Box(100, 50, 300, 150)),
        ("0 .5 .5 .5 .5 .9 .9 .1 .1", "", Box(40, 20, 360, 180)),  # a polygon, or a rotated box
        ("0 .25 .25 .75 .25 .5 .75 .9", "", Box(100, 50, 300, 150)),  # with a score, as predictions are saved
    ],
)
def test_a_label_is_a_box_a_polygon_or_a_box_with_key_points(line, yaml, expected, photos, tmp_path):
    data = write(tmp_path / "data", {"data.yaml": f"names: [face]\n{yaml}\n", "train/labels/1.txt": line})
    photo = add_photo(photos, "1.jpg")
    # data.yaml lies two folders above, as Roboflow has it.
    (found,) = boxes(photos, annotations=data / "train" / "labels").detect([photo], "micro")
    assert [d.box for d in found] == [expected]


def test_polygons_with_corners_on_edges_are_no_key_points(photos, tmp_path):
    lines = "0 .5 .5 .5 .5 .9 .9 1 .2\n0 .1 .1 .2 .1 .2 .2\n"
    labels = write(tmp_path / "labels", {"classes.txt": "face", "1.txt": lines})
    view = add_photo(photos, "1.jpg")
    (found,) = boxes(photos, annotations=labels).detect([view], "micro")
    assert [d.box for d in found] == [Box(200, 40, 400, 180), Box(40, 20, 80, 40)]


@pytest.mark.parametrize(
    "line",
    ["2 .5 .5 .1 .1", "-1 .5 .5 .1 .1", "0 .5 .5 nan .1", "0 250 100 40 40", "0 .5 .5 .1", "0.5 .5 .5 .1 .1", "x"],
)
def test_a_line_that_is_no_label_is_named_before_the_run(line, photos, tmp_path):
    labels = write(tmp_path / "labels", {"data.yaml": "names: {0: face, 1: person}", "a.txt": f"{FACE}\n{line}\n"})
    add_photo(photos, "a.jpg")
    with pytest.raises(SgaError, match=r"a.txt, line 3: .* is no YOLO label of one of the 2 classes"):
        boxes(photos, annotations=labels)


def test_class_numbers_are_numbers_however_they_are_written(tmp_path):
    names = {str(i): f"c{i}" for i in range(12)}
    assert in_order(names)[2] == "c2" and in_order(names)[10] == "c10"
    assert in_order({0: "a", 2: "c"}) == ["a", "class 1", "c"]
    (tmp_path / "data.yaml").write_text("names:\n" + "".join(f"  '{i}': c{i}\n" for i in range(12)))
    assert read_classes(tmp_path / "data.yaml", "boxes") == list(names.values())
    (tmp_path / "classes.txt").write_text("a\n\nc\n\n")
    assert read_classes(tmp_path / "classes.txt", "boxes") == ["a", "class 1", "c"]
    for text in ("names: face", "names: {a: face}", "names: {-1: face}", "names: {99999999: face}", "[1, 2", "x: 1"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(SgaError, match="detector boxes: cannot read class names from .*data.yaml") as error:
            read_classes(tmp_path / "data.yaml", "boxes")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["0 5e-1 .5 5.0e-01 0.5", "0\t0.5\t0.5\t0.5\t0.5", "3.0 .5 .5 1 1"])
def test_labels_beside_the_photos_are_no_captions_and_captions_are_no_labels(line, photos):
    view = add_photo(photos, "cat.jpg")
    add_photo(photos, "dog.jpg")
    write(photos, {"classes.txt": "\n".join("abcd"), "cat.txt": line, "dog.txt": "1 dog, 2 cats"})
    assert find_caption(photos / "cat.jpg", photos).text == "cat"
    assert find_caption(photos / "dog.jpg", photos).text == "1 dog, 2 cats"
    assert boxes(photos, annotations=photos, labels="*").detect([view], "micro")[0]


# --- COCO ---------------------------------------------------------------------------------------------------------


def coco(file: Path, images: Sequence[dict], annotations: Sequence[dict]) -> Path:
    categories = [{"id": 3, "name": "Face"}, {"id": 5, "name": "person"}]
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return file


def test_coco_annotations_scale_with_the_photo(photos, tmp_path, capsys):
    file = coco(
        tmp_path / "coco.json",
        [
            {"id": 7, "file_name": "a/01.jpg", "width": 200, "height": 100},
            {"id": 8, "file_name": "b/01.jpg", "width": 200, "height": 100},
            {"id": 9, "file_name": "deep\\02.jpg", "width": 100, "height": 200},
            {"id": 10, "file_name": "03.jpg"},
        ],
        [
            {"image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 40]},
            {"image_id": 7, "category_id": 5, "bbox": [0, 0, 100, 100], "score": 0.5},
            {"image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4]},
            {"image_id": 10, "category_id": 3, "bbox": [40, 20, 10, 10]},
            {"image_id": 10, "category_id": 3, "bbox": []},
            {"image_id": 10, "category_id": 3},
            {"image_id": 10, "category_id": 3, "bbox": [5.5, 5.5, 0, 9]},
        ],
    )
    twice, other, unsized = (add_photo(photos, source) for source in ("a/01.jpg", "deep/02.jpg", "03.jpg"))
    stranger = add_photo(photos, "c/01.jpg")
    model = boxes(photos, annotations=file)
    assert model.detect([twice], "micro") == [[Detection(Box(20, 40, 80, 120), 1.0, "micro", "Face")]]
    assert model.detect([twice], "meso") == [[Detection(Box(0, 0, 200, 200), 0.5, "meso", "person")]]
    assert model.detect([stranger, other], "micro") == [[], []]
    assert [d.box for d in model.detect([unsized], "micro")[0]] == [Box(40, 20, 50, 30)]
    assert capsys.readouterr().err.splitlines() == [
        "boxes: 3 of 4 photos are annotated, 1 names match no photo, such as 'b/01.jpg'",
        "boxes: 1 photos have another shape than annotated, left out, such as 'deep/02.jpg'",
        "boxes: 3 boxes without a size are left out, such as '03.jpg'",
    ]


@pytest.mark.parametrize(
    "text", ["{}", "[" * 100_000, "[]", '{"categories": [], "images": [{"id": 1}], "annotations": []}', "\x00"]
)
def test_a_file_that_is_no_coco_is_named(text, photos, tmp_path):
    add_photo(photos, "a.jpg")
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(SgaError, match="coco.json is no COCO annotation file") as error:
        boxes(photos, annotations=tmp_path / "coco.json")
    assert "\n" not in str(error.value)


# --- EXIF ---------------------------------------------------------------------------------------------------------


def turned(orientation: int) -> Callable[[Path, str], View]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda photos, source: add_photo(photos, source, quality=100, exif=exif.tobytes())


def red(view: View) -> Box:
    ys, xs = np.nonzero(view.pixels[..., 0] > 128)
    return Box(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_lie_where_they_were_drawn_whether_the_annotator_saw_the_photo_turned_or_not(
    orientation, photos, tmp_path, capsys
):
    view = turned(orientation)(photos, "1.jpg")
    half = red(view)  # the left half as stored, wherever it is now
    share = [edge / side for edge, side in zip(half.as_list(), view.size * 2, strict=True)]
    centre = f"0 {(share[0] + share[2]) / 2} {(share[1] + share[3]) / 2} {share[2] - share[0]} {share[3] - share[1]}"
    labels = write(tmp_path / "upright", {"classes.txt": "face", "1.txt": centre})
    assert boxes(photos, annotations=labels).detect([view], "micro")[0][0].box == half
    said = (
        "1 annotated photos are turned by EXIF, such as '1.jpg': their boxes are taken as drawn on the upright picture"
    )
    assert (said in capsys.readouterr().err) == (orientation > 1)
    labels = write(tmp_path / "stored", {"classes.txt": "face", "1.txt": "0 .25 .5 .5 1"})
    assert boxes(photos, annotations=labels, drawn_on="stored").detect([view], "micro")[0][0].box == half


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_width_and_height_of_coco_tell_which_picture_was_drawn_on(orientation, photos, tmp_path, capsys):
    view = turned(orientation)(photos, "1.jpg")
    half = red(view)
    as_stored = ({"id": 1, "file_name": "1.jpg", "width": 400, "height": 200}, [0, 0, 200, 200])
    x0, y0, x1, y1 = half.as_list()
    upright = ({"id": 1, "file_name": "1.jpg", "width": 200, "height": 400}, [x0, y0, x1 - x0, y1 - y0])
    for image, box in (as_stored, upright):
        file = coco(tmp_path / "coco.json", [image], [{"image_id": 1, "category_id": 3, "bbox": box}])
        assert boxes(photos, annotations=file).detect([view], "micro")[0][0].box == half
    assert "turned by EXIF" not in capsys.readouterr().err


# --- both ---------------------------------------------------------------------------------------------------------


def test_annotations_name_what_is_wrong(photos, tmp_path):
    add_photo(photos, "a.jpg")
    with pytest.raises(SgaError, match="no classes.txt"):
        boxes(photos, annotations=write(tmp_path / "deep" / "er" / "labels", {"a.txt": FACE}))
    with pytest.raises(SgaError, match="no annotations: give annotations="):
        boxes(photos)
    with pytest.raises(SgaError, match="kpt_shape in .*data.yaml is no pair of numbers"):
        boxes(photos, annotations=write(tmp_path / "pose", {"data.yaml": "names: [face]\nkpt_shape: many"}))


@pytest.mark.skipif(os.name == "nt", reason="a file that cannot be read")
def test_a_photo_that_cannot_be_read_keeps_its_annotation_for_the_run_to_say(photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"nothing")
    labels = write(tmp_path / "labels", {"classes.txt": "face", "broken.txt": FACE})
    assert boxes(photos, annotations=labels)
