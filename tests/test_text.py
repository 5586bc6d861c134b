"""Text that users wrote, in any encoding, and names that are shown to them: sga_kohya.kit.text."""

import pytest

from sga_kohya import SgaError
from sga_kohya.kit.cli import one_line
from sga_kohya.kit.intervals import Interval
from sga_kohya.kit.text import decode_text, lines_of, numeral, read_text, safe

WORDS = "zoé, 猫, red shoes"
MARKS = {"utf-16-le": "fffe", "utf-16-be": "feff", "utf-32-le": "fffe0000", "utf-32-be": "0000feff"}


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", *MARKS])
def test_text_that_says_its_encoding_is_read_as_written(codec):
    data = bytes.fromhex(MARKS.get(codec, "")) + WORDS.encode(codec)
    assert decode_text(data) == WORDS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("caffè".encode("cp1252"), "not UTF-8: byte 0xe8 at 4"),
        ("猫と靴".encode("cp932"), "not UTF-8: byte 0x94 at 0"),
        ("猫和红鞋".encode("gbk"), "not UTF-8: byte"),
        ("red shoes".encode("utf-16-le"), "holds NULs, as UTF-16 without a byte order mark does"),
        (b"\xff\xfe" + "red".encode("utf-16-le")[:-1], "not UTF-16: byte"),
        ("lost \ufffd here".encode(), "holds U+FFFD at 5, where another program has lost a character"),
        (b"a\0b", "holds NULs"),
        (b"", None),
    ],
)
def test_nothing_is_guessed(tmp_path, data, reason):
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    if reason is None:
        assert read_text(file) == ""
        return
    with pytest.raises(ValueError, match=reason.replace("+", r"\+")):
        decode_text(data)
    with pytest.raises(SgaError) as error:
        read_text(file)
    assert str(error.value).startswith(f"{file}: {reason}") and "save it as UTF-8" in str(error.value)


def test_lines_end_where_a_text_file_s_do_and_nowhere_else():
    assert lines_of("\n a \r\nb\u2028c\x0cd\rlast\n\n") == ["a", "b\u2028c\x0cd", "last"]


@pytest.mark.parametrize(
    "name", ["a.png", "猫 と\u3000靴.png", "é ü ß.png", "\U0001f469\u200d\U0001f3a8.png", "C:\\photos\\a.png"]
)
def test_ordinary_names_are_shown_as_they_are(name):
    assert safe(name) == name


@pytest.mark.parametrize("evil", [*"\n\r\t\b\x00\x1b\x7f\x9b\x85\u2028\u2029\u202e\u2066\u200f\ufeff\xad", "\udce9"])
def test_a_name_cannot_forge_a_line_move_the_cursor_or_turn_the_writing(evil):
    shown = safe(f"a{evil}b")
    assert evil not in shown and shown[0] == "a" and shown[-1] == "b" and shown[1] == "\\"
    assert safe(shown) == shown
    shown.encode()


def test_an_error_that_names_such_a_file_is_one_line():
    assert one_line(SgaError("no folder a\n\x1b[2Kwarning: b")) == "no folder a \\x1b[2Kwarning: b"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_defined_is_a_dash_in_every_table(number):
    assert numeral(number, "+.2f") == str(Interval(number)) == Interval(number).words(".0f", 100, " %") == "–"
    assert numeral(0.5, "+.2f") == "+0.50" and str(Interval(0.5)) == "0.500 [?]"
    assert Interval(0.5, 0.25, 0.75).words(".0f", 100, " %") == "50 % [25, 75]"
