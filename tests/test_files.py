"""Files as text and by their names, on a system that is not this one."""

import ast
from pathlib import Path, PureWindowsPath

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.hsd.arguments import parse_option
from sga_kohya.kit import files
from sga_kohya.kit.files import too_long, user_path, whole_file, write_whole

PACKAGE = Path(__file__).parents[1] / "sga_kohya"
TEXT = {"read_text", "write_text", "open", "TextIOWrapper", "fdopen", "NamedTemporaryFile"}


def names_no_encoding(call: ast.Call) -> bool:
    """Whether a call opens a file as text in whatever encoding this machine happens to prefer."""
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if isinstance(function, ast.Name) and name != "open":
        return False  # kit.text's own read_text, which tells the encoding by the file
    if name not in TEXT or any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    owner = getattr(getattr(function, "value", None), "id", "")
    if owner in ("Image", "webbrowser", "os", "request", "av"):
        return False
    nodes = (node for argument in call.args for node in ast.walk(argument))
    words = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    modes = words + [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    return not any("b" in mode and set(mode) <= set("rwxab+") for mode in modes)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_text_is_read_and_written_in_a_named_encoding(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    assert [call.lineno for call in calls if names_no_encoding(call)] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"model=C:\x\new.onnx", r"C:\x\new.onnx"),
        (r'model="C:\x\y.onnx"', r"C:\x\y.onnx"),
        (r'model="C:\new\table.onnx"', r"C:\new\table.onnx"),
        (r"model='C:\new\table.onnx'", r"C:\new\table.onnx"),
        (r"model=\\server\new\x.onnx", r"\\server\new\x.onnx"),
        ("model=C:/x/y.onnx", "C:/x/y.onnx"),
        ("confidence=0.4", 0.4),
        ("classes={face = 'micro'}", {"face": "micro"}),
        ("a=b=c", "b=c"),
    ],
)
def test_paths_of_windows_in_key_value_options(text, value):
    assert parse_option(text)[1] == value


def test_a_path_that_windows_does_not_take_is_said_to_be_too_long():
    path = PureWindowsPath("C:/photos") / ("x" * 300)
    assert "310 characters, and Windows takes 259" in too_long(path, windows=True)
    assert too_long(PureWindowsPath("C:/photos/a.png"), windows=True) == "" == too_long(path, windows=False)


def test_whoever_writes_there_hears_it(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "too_long", lambda path, windows=True: too_long(path, windows))
    deep = tmp_path / ("x" * 150) / ("y" * 150)
    with pytest.raises(SgaError, match="Windows takes 259"), whole_file(deep / "a.txt") as part:
        part.write_bytes(b"")  # there is no such folder, as Windows says of one too long
    with pytest.raises(SgaError, match="--x .*Windows takes 259"):
        user_path(deep, "--x")


def test_a_file_that_another_program_holds_is_tried_again(monkeypatch, tmp_path):
    """As on Windows, where TensorBoard, a viewer or a virus scanner has it open."""
    real, waits, refusals = files.os.replace, [], [PermissionError(13, "held")] * 3

    def replace(source, target):
        if refusals:
            raise refusals.pop()
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files.time, "sleep", waits.append)
    write_whole(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode() and len(waits) == 3
    refusals += [PermissionError(13, "held")] * 9
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode() and list(tmp_path.iterdir()) == [tmp_path / "a.txt"]
