"""kit/page and kit/svg: values are text, whatever they look like, and a page is made as its rows come."""

import json
import re
from pathlib import Path

import jinja2
import pytest
from PIL import Image

from sga_kohya.kit import page as kit_page
from sga_kohya.kit.page import as_json, data_uri, render, stream
from sga_kohya.kit.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, legend, text
from tests.pages import HOSTILE, assert_stays_text, taken_apart


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package with a template page.html, and returns its name."""

    def make(template: str) -> str:
        folder = tmp_path / f"of_{tmp_path.name}"  # a name of its own: Python knows modules by name
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "page.html").write_text(template, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return folder.name

    return make


BODY = '{% extends "base.html" %}{% block title %}{{ name }}{% endblock %}'
WHOLE = BODY + '{% block main %}<p title="{{ name }}">{{ name }}</p>{{ chart }}{% endblock %}'
DATA = BODY + '{% block main %}<script type="application/json">{{ name|tojson }}</script>{% endblock %}'


def chart(name: str) -> Chart:
    found = Chart(name, name, (0, 1))
    found.dots([(0.5, 0.5)], "s0", name)
    found.line([(0, 0), (1, 1)], name)
    return found


def test_values_stay_text_in_elements_attributes_and_charts(package):
    name = package(WHOLE)
    pages = [render(name, "page.html", name=words, chart=chart(words)) for words in (HOSTILE, "harmless")]
    assert_stays_text(*pages)
    found = taken_apart(pages[0])
    assert found.words.count(HOSTILE) == 5, "title, attribute, paragraph, label of the chart and name of its axis"


def test_json_cannot_end_its_script(package):
    name = package(DATA)
    pages = [render(name, "page.html", name=[words, {"z": 1, "a": 2}]) for words in (HOSTILE, "harmless")]
    assert taken_apart(pages[0]).elements == taken_apart(pages[1]).elements
    content = re.search(r"json\">(.*?)</script>", pages[0], re.DOTALL).group(1)
    assert json.loads(content) == [HOSTILE, {"z": 1, "a": 2}] and list(json.loads(content)[1]) == ["z", "a"]
    assert json.loads(as_json("ü </script>")) == "ü </script>" and "ü" in as_json("ü")


def test_a_template_that_asks_for_what_it_was_not_given_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="'chart' is undefined"):
        render(package(WHOLE), "page.html", name="n")


def test_file_names_that_are_no_utf_8_can_be_written(package):
    page = render(package(WHOLE), "page.html", name=b"caf\xe9".decode(errors="surrogateescape"), chart="")
    assert page.encode() and r"caf\udce9" in page


def test_a_page_comes_in_pieces_as_its_rows_do(package):
    rows = iter("abc")
    template = BODY + "{% block main %}{% for row in rows %}[{{ row }}]{% endfor %}{% endblock %}"
    pieces = stream(package(template), "page.html", name="n", rows=rows)
    assert next(piece for piece in pieces if piece == "a")
    assert next(rows) == "b", "the rest was not asked for yet"
    assert "[c]" in "".join(pieces)


def test_every_page_extends_the_one_base():
    """One look, one place for colours; and no page is made beside it."""
    root = Path(kit_page.__file__).parents[2]
    pages = [path for path in root.rglob("*.html") if path.name != "base.html"]
    assert len(pages) >= 6
    for path in pages:
        assert path.read_text(encoding="utf-8").startswith('{% extends "base.html" %}'), path
    for path in root.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"from html import|import html\b|html\.escape|string import Template", source), path


def test_the_page_shows_no_script_unless_it_has_a_nonce(package):
    name = package(WHOLE)
    assert 'nonce="&#34;a"' in render(name, "page.html", name="n", chart="", nonce='"a')
    assert "nonce" not in render(name, "page.html", name="n", chart="")


def test_pictures_are_addresses_of_themselves():
    assert data_uri(Image.new("RGB", (4, 4))).startswith("data:image/webp;base64,UklGR")
    assert data_uri(Image.new("RGB", (4, 4)), "JPEG", quality=85).startswith("data:image/jpeg;base64,/9j/")


def numbers(pattern: str, drawn: Chart) -> list[float]:
    return [float(number) for number in re.findall(pattern, drawn.__html__())]


def test_charts_put_numbers_where_they_belong():
    """The corners of the axes, by hand; what lies beyond is drawn at the end."""
    drawn = Chart("t", "n", (-1, 0, 1))
    drawn.dots([(0, -1), (1, 1), (0.5, 0), (0.5, 7)], "s0")
    assert numbers(r'cx="([\d.]+)"', drawn) == [LEFT, WIDTH - RIGHT, *[(LEFT + WIDTH - RIGHT) / 2] * 2]
    assert numbers(r'cy="([\d.]+)"', drawn) == [HEIGHT - BOTTOM, TOP, (TOP + HEIGHT - BOTTOM) / 2, TOP]
    assert drawn.__html__().count('class="zero"') == 1 and 'class="zero"' not in Chart("t", "n", (0, 1)).__html__()


def test_bars_share_the_axis_and_stand_on_it():
    drawn = Chart("t", "n", (0, 2))
    drawn.bars([0, 1, 2, 3], "s1")
    heights = numbers(r'height="([\d.]+)" rx', drawn)
    whole = HEIGHT - TOP - BOTTOM
    assert heights == [0, whole / 2, whole, whole]
    tops = numbers(r'y="([\d.]+)" width', drawn)
    assert [top + height for top, height in zip(tops, heights, strict=True)] == [HEIGHT - BOTTOM] * 4


def test_whiskers_reach_from_low_to_high():
    drawn = Chart("t", "n", (0, 1))
    drawn.whiskers([(0.5, 0.0, 1.0)], "s2")
    assert f'y1="{HEIGHT - BOTTOM}.0" y2="{TOP}.0" class="whisker s2"' in drawn.__html__()


def test_legends_and_labels_escape_names():
    assert HOSTILE in taken_apart(legend([(HOSTILE, "s0")])).words
    assert taken_apart(text(1, 2, HOSTILE)).words[-1] == HOSTILE
