"""Plans: everything wrong is said at once, and images are found where the plan says."""

import contextlib
import json
from pathlib import Path

import pytest
import toml
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.plan.plan import Cell, pictures
from sga_kohya.evaluate.plan.plan_file import _plan, read_plan
from sga_kohya.evaluate.sample.images import all_images, image_files, load, same_size
from sga_kohya.kit.fields import Fields

from .evaluate_world import make_plan, noise, write_plan

EXAMPLE = Path(__file__).parents[1] / "examples" / "evaluate" / "plan.toml"


def test_every_problem_is_named_at_once(tmp_path):
    path = write_plan(
        tmp_path,
        seeds=[1, 1],
        bootstrap=3,
        confidence=95,
        paper="sd3",
        sedes=1,
        judge={"url": "api.openai.com", "model": "m", "price_input": 1, "references": 9},
        generate={"width": "wide", "stepps": 3},
    )
    values = toml.loads(path.read_text())
    values["variants"][0]["name"] = "../one"
    values["variants"][1] |= {"weights": "w.safetensors", "role": "judge"}
    values["datasets"][1] |= {"references": "nowhere", "prompts": ["a", "a"]}
    path.write_text(toml.dumps(values))
    with pytest.raises(SgaError) as error:
        read_plan(path)
    said = str(error.value)
    for part in (
        "seeds = [1, 1]",
        "bootstrap = 3: write a whole number from 100",
        "confidence = 95",
        "paper = 'sd3': write one of flux, sdxl",
        "sedes is unknown: did you mean seeds?",
        "[judge]: price_output is missing",
        "[judge]: budget is missing",
        "[judge]: url = 'api.openai.com'",
        "[generate]: width = 'wide': write a whole number",
        "stepps is unknown: did you mean steps?",
        "name = '../one'",
        "images, weights, run exclude each other",
        "role = 'judge'",
        "references = 'nowhere': no image",
        "prompts hold one twice",
    ):
        assert part in said, f"{part!r} not in {said}"
    assert said.count("\n") >= 15


def test_a_file_of_prompts_is_read_in_any_encoding_that_it_names_and_in_no_other(tmp_path):
    path, prompts = write_plan(tmp_path), tmp_path / "prompts.txt"
    values = toml.loads(path.read_text())
    values["datasets"][0] |= {"prompts": [], "prompts_file": "prompts.txt"}
    path.write_text(toml.dumps(values))
    prompts.write_bytes("# mine\n\nzoé, 猫\r\na\u2028b\n".encode("utf-16"))
    assert read_plan(path).datasets[0].prompts == ("zoé, 猫", "a\u2028b")
    prompts.write_bytes("zoé".encode("cp1252"))
    with pytest.raises(SgaError, match=r"prompts_file = 'prompts.txt': .*prompts.txt: not UTF-8: byte 0xe9 at 2; save"):
        read_plan(path)


def test_the_example_lacks_nothing_but_the_pictures(tmp_path):
    (tmp_path / "photos" / "alpha").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "alpha" / f"{number}.png")
    (tmp_path / "plan.toml").write_text(EXAMPLE.read_text())
    plan = read_plan(tmp_path / "plan.toml")
    assert len(plan.datasets[0].prompts) == 8 and len(plan.seeds) == 5 and len(plan.variants) == 4
    assert plan.judge.model == "gpt-5.2" and plan.human.consent == ""


def test_the_command_line_prints_problems_without_a_traceback(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.toml")]) == 2
    assert "there is no such plan" in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text("seeds = ")
    assert main(["report", str(tmp_path / "bad.toml")]) == 2
    assert "not valid TOML" in capsys.readouterr().err


def test_images_by_template_and_by_order_are_the_same(tmp_path):
    plan = make_plan(tmp_path)
    files = all_images(plan)
    assert files[Cell("beta", "two", 1, 2)] == tmp_path / "made" / "beta" / "two" / "p02_s2.png"
    values = toml.loads((tmp_path / "plan.toml").read_text())
    values["variants"][1]["images"] = {"alpha": "made/alpha/two", "beta": "made/beta/two"}
    (tmp_path / "plan.toml").write_text(toml.dumps(values))
    assert all_images(read_plan(tmp_path / "plan.toml")) == files


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["a2.png", "1.png", "10.png", "2.png", "x/10_2.png", "x/9_10.png", "x/9_9.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in pictures(tmp_path)]
    expected = ["1.png", "2.png", "10.png", "a2.png", "x/9_9.png", "x/9_10.png", "x/10_2.png"]
    assert found == expected, "10 before 2 would give a variant's images to other prompts"


def test_a_missing_image_and_a_wrong_count_are_said(tmp_path, capsys):
    path = write_plan(tmp_path)
    (tmp_path / "made" / "alpha" / "one" / "p01_s1.png").unlink()
    assert main(["metrics", str(path)]) == 2
    said = capsys.readouterr().err
    assert "1 of 36 images are not there" in said and "put it there, or correct `images`" in said
    assert main(["run", str(path)]) == 2
    said = capsys.readouterr().out
    assert "1 of 12 missing" in said and f"the first is {tmp_path}/made/alpha/one/p01_s1.png: put it there" in said
    values = toml.loads(path.read_text())
    values["variants"][0]["images"] = "made/{dataset}/one"
    values["variants"][1]["images"] = "made/{dataset}/s{seed}.png"
    path.write_text(toml.dumps(values))
    plan = read_plan(path)
    with pytest.raises(SgaError, match="needs both {prompt} and {seed}"):
        image_files(plan, plan.variants[1], plan.datasets[0])
    with pytest.raises(SgaError, match="holds 5 images, not 3 prompts x 2 seeds = 6"):
        image_files(plan, plan.variants[0], plan.datasets[0])


def test_pictures_are_shown_upright_on_white_without_metadata_and_of_one_size(tmp_path):
    turned = Image.new("RGB", (20, 10), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert load(tmp_path / "turned.jpg").size == (10, 20) and not load(tmp_path / "turned.jpg").getexif()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    shown = same_size([Image.new("RGB", (200, 100)), Image.new("RGB", (100, 200)), Image.new("RGB", (50, 50))], 64)
    assert {image.size for image in shown} == {(64, 64)}
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SgaError, match="cannot be read as an image"):
        load(tmp_path / "broken.png")


ODD = [
    float("nan"),
    float("inf"),
    float("-inf"),
    -1,
    -1.5,
    0,
    10**30,
    10**400,
    "",
    "x",
    "~nouser/x",
    "\0",
    "a" * 5000,
    "$x^",
    "{",
    "{0}",
]
ODD += [True, [], [1], ["a"], [[]], {}, {"a": 1}, {"alpha": 7}, [{}], "\x1b[2J", "ä" * 300]


def slots(values, path=()):
    """Every place of a table where a value stands."""
    for key in values if isinstance(values, dict) else range(len(values)):
        yield (*path, key)
        if isinstance(values[key], dict | list):
            yield from slots(values[key], (*path, key))


def with_value(text, path, value):
    values = json.loads(text)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


def full(folder):
    values = toml.loads(write_plan(folder).read_text())
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "price_input": 1.0, "price_output": 1.0, "budget": 1.0}
    values |= {"judge": judge | {"references": 2, "timeout": 9.0}, "title": "t", "out": "o", "tolerance_minutes": 3.0}
    values |= {"confidence": 0.9, "generate": {"width": 64, "scale": 1.0}, "metrics": {"clip": "c", "further": ["d"]}}
    values["datasets"][0] |= {"n1_hours": 2.0, "prompts_file": "p.txt"}
    values["variants"][0] |= {"budget": 1.0, "label": "l", "role": "sga", "output_name": "n"}
    values["variants"][1] |= {"weights": "w", "images": ""}
    values["variants"][2] |= {"run": "r", "images": ""}
    (folder / "p.txt").write_text("one more\n")
    return json.dumps(values)


@pytest.mark.parametrize("odd", ODD, ids=[repr(odd)[:16] for odd in ODD])
def test_no_value_of_a_plan_is_a_traceback(tmp_path, odd, capsys):
    """A plan is read, or its problems are said; and what was read is asked for its pictures."""
    text = full(tmp_path)
    for path in slots(json.loads(text)):
        values = with_value(text, path, odd)
        problems: list[str] = []
        plan = _plan(Fields(values, "", problems), tmp_path)
        if not problems:
            with contextlib.suppress(SgaError, OSError):
                all_images(plan)


BYTES = [
    b"\xff",
    b"\xef\xbb\xbftitle = 5",
    b"a = {b = 2",
    b"a = [[[[",
    b"x",
    b"\x00",
    b"[[datasets]]\n[datasets]",
    b"=",
    b"",
]


@pytest.mark.parametrize("content", BYTES, ids=map(repr, BYTES))
@pytest.mark.parametrize("command", ["run", "report", "study"])
def test_a_file_that_is_no_plan_gets_one_sentence(tmp_path, content, command, capsys):
    (tmp_path / "plan.toml").write_bytes(content)
    assert main([command, str(tmp_path / "plan.toml")]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_mark_before_the_first_key_hides_nothing(tmp_path):
    path = write_plan(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_plan(path).seeds == (1, 2)


def test_a_prompts_file_that_is_not_utf_8_is_a_problem_beside_the_others(tmp_path):
    values = toml.loads(write_plan(tmp_path).read_text())
    values["datasets"][0] = {"name": "alpha", "references": "references/alpha", "prompts_file": "p.txt"}
    (tmp_path / "plan.toml").write_text(toml.dumps(values | {"sedes": 1}))
    (tmp_path / "p.txt").write_bytes("ein Mädchen\n".encode("cp1252"))
    with pytest.raises(SgaError, match="(?s)prompts_file = 'p.txt': .*not UTF-8.*sedes is unknown"):
        read_plan(tmp_path / "plan.toml")
    (tmp_path / "plan.toml").write_text(toml.dumps(values))
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf" + "ein Mädchen\n".encode())
    assert read_plan(tmp_path / "plan.toml").datasets[0].prompts == ("ein Mädchen",)


@pytest.mark.parametrize("key", ["budget", "price_input", "price_output", "timeout"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1.0"])
def test_a_budget_or_price_that_is_no_number_is_refused(tmp_path, key, value):
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "price_input": 1.0, "price_output": 1.0, "budget": 1.0}
    path = write_plan(tmp_path, judge={**judge, "references": 2, key: 777.0})
    path.write_text(path.read_text().replace("777.0", value))
    with pytest.raises(SgaError, match=rf"\[judge\]: {key} = "):
        read_plan(path)


@pytest.mark.parametrize(
    "start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x00\x00\x00\x00WEBP", b"BM", b"GIF89a", b""]
)
@pytest.mark.parametrize("cut", [0, 40, 400])
def test_a_damaged_picture_is_named(tmp_path, start, cut):
    good = tmp_path / "good.png"
    noise(1).save(good)
    (tmp_path / "bad.png").write_bytes(start + good.read_bytes()[len(start) : cut])
    with pytest.raises(SgaError, match="bad.png: cannot be read as an image"):
        load(tmp_path / "bad.png")


def test_a_picture_that_pillow_stumbles_over_is_named(tmp_path):
    noise(1).save(tmp_path / "bad.png")
    content = bytearray((tmp_path / "bad.png").read_bytes())
    content[29:33] = b"\0\0\0\0"  # the checksum of the header: Pillow raises SyntaxError
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(SgaError, match="bad.png: cannot be read as an image"):
        load(tmp_path / "bad.png")
