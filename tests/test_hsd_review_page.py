"""The review page in headless Chromium: by mouse, by keys, in two tabs, and across a kill of the command."""

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.hsd import run
from sga_kohya.hsd.out.strips import view
from sga_kohya.hsd.photos.images import decode_image
from sga_kohya.hsd.review.decisions import DECISIONS, Decisions
from sga_kohya.hsd.review.desk import Desk
from sga_kohya.hsd.review.server import Server
from sga_kohya.hsd.review.sources import FOLDER
from tests.evaluate_browser import Page, chromium
from tests.test_hsd_review import CONFIG, detector, kept, out, photos, reasons
from tests.test_hsd_run import rows_of

__all__ = ["detector", "out", "photos"]

PHOTOS = "document.querySelectorAll('.photo').length"
CARD = "document.querySelector('.photo.current')"
LOSE_A_REPLY = """
window.lost = 0; const real = fetch;
window.fetch = async (name, ...more) => {
  const reply = await real(name, ...more);
  if (name === "decide" && !lost++) throw new TypeError("the connection is gone");
  return reply;
}; 0"""


@contextlib.contextmanager
def served(out: Path, photos: Path | None) -> Iterator[Server]:
    server = Server(Desk(out, photos), "python -m sga_kohya.hsd …")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def opened(page: Page, url: str) -> None:
    page.size(1280, 900)
    page.open(url)
    page.until(f"{PHOTOS} === 3 && {CARD}")


def on_stage(page: Page, x: int, y: int, root: int = 0) -> tuple[float, float]:
    """Where a pixel of a photo of 400x300 is in the window."""
    left, top, width, height = page.run(
        f"(() => {{ const s = document.querySelectorAll('.stage')[{root}]; s.scrollIntoView({{block: 'center'}});"
        "const b = s.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] })()"
    )
    return left + x * width / 400, top + y * height / 300


def states(page: Page) -> list[str]:
    return page.run(f"[...{CARD}.querySelectorAll('.slice')].map(s => s.className.replace('slice', '').trim())")


def test_a_person_reviews_photos_by_mouse(photos, out, tmp_path):
    with served(out, photos) as server, chromium(tmp_path) as page:
        opened(page, server.url)
        page.click(".slice:not(.selected) [title=x]")
        page.until(f"{CARD}.querySelector('.slice.rejected.selected')")
        assert Decisions(out).rows[0]["box"] is None and Decisions(out).rows[0]["level"] == "macro"
        page.click("#undo")
        page.until(f"!{CARD}.querySelector('.slice.rejected')")

        # The meso box, 100 60 292 252, by 60 pixels to the left; the size that it will have is told on the way.
        start, end = on_stage(page, 120, 80), on_stage(page, 60, 80)
        page.hold(start, end)
        page.until("/^256×256, enlarged ×1.33/.test(document.querySelector('.stage .told').textContent)")
        page.release(end)
        page.until(f"{CARD}.querySelector('.slice.moved')")
        (row,) = [row for row in Decisions(out).rows if row.get("level") == "meso"]
        assert abs(row["box"][0] - 40) <= 1 and row["box"][2] - row["box"][0] == 192 and row["size"] == [256, 256]

        # Its lower right corner; what is shown is the frame of a size that the level has.
        corner, end = on_stage(page, 232, 252), on_stage(page, 190, 200)
        page.hold(corner, end)
        page.until("document.querySelector('.stage .frame') && /×/.test(document.querySelector('.told').textContent)")
        told = page.run("document.querySelector('.told').textContent")
        page.release(end)
        page.until(f"!{CARD}.querySelector('.told')")
        resized = [row for row in Decisions(out).rows if row.get("level") == "meso"][-1]
        assert resized["box"][2] < row["box"][2] and f"{resized['size'][0]}×{resized['size'][1]}" in told

        page.click(".photo:nth-child(1) .level:nth-child(3) h4 button")
        page.until("document.querySelector('.stage.adding')")
        start, end = on_stage(page, 300, 20), on_stage(page, 390, 120)
        page.hold(start, end)
        page.release(end)
        page.until(f"{CARD}.querySelector('.slice.added')")

        page.click(".slice.added [title=e]")
        page.until("document.querySelector('.slice form textarea')")
        page.run("document.querySelector('.slice form textarea').value = 'a <b>corner</b>'")
        page.click(".slice form button")
        page.until(
            "[...document.querySelectorAll('.slice.added .caption')].some(c => c.textContent === 'a <b>corner</b>')"
        )
        assert page.complaints == []
    run(photos, out, CONFIG)
    assert [level for level, _ in kept(out)] == ["macro", "meso", "micro", "micro"]
    assert (out / "1_micro" / "astronaut-2.txt").read_text() == "a <b>corner</b>\n"


def test_a_person_reviews_photos_by_keys_alone(photos, out, tmp_path):
    with served(out, photos) as server, chromium(tmp_path) as page:
        opened(page, server.url)

        def press(*keys: str, until: str) -> None:
            for key in keys:
                page.key(key)
            page.until(until)

        press("2", "x", until=f"{CARD}.querySelector('.level:nth-child(2) .slice.rejected')")
        press("x", until=f"!{CARD}.querySelector('.rejected')")
        press("u", until=f"{CARD}.querySelector('.rejected')")
        press(
            "j", until=f"{CARD}.querySelector('b').textContent === 'chelsea.png' && {CARD}.querySelector('.selected')"
        )
        assert states(page) == ["", "selected", ""], "the level that was chosen stays chosen"
        press("ArrowLeft", "ArrowUp", "-", until=f"{CARD}.querySelector('.slice.moved')")
        press("3", "y", until=f"{CARD}.querySelector('.level:nth-child(3) .slice.kept')")
        press("e", until="document.activeElement.tagName === 'TEXTAREA'")
        page.run("document.activeElement.value = 'a tabby'")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", modifiers=2)
        page.until(f"{CARD}.querySelector('.level:nth-child(3) .caption').textContent === 'a tabby'")
        press("a", "Enter", until=f"{CARD}.querySelector('.slice.added')")
        press("Enter", until="document.querySelector('#large').open && document.querySelector('#large .stage .grip')")
        press("x", until="document.querySelectorAll('#large .stage .box').length === 3")
        press("Escape", until="!document.querySelector('#large').open")
        press("k", "k", "X", until=f"{CARD}.classList.contains('rejected')")
        press("?", until="document.querySelector('#help').open")
        press("Escape", until="!document.querySelector('#help').open")
        assert page.complaints == []
        while Decisions(out).photos:
            press("u", until=f"count === {len(Decisions(out).rows) + 1}")
        press("u", until="document.querySelector('#trouble').textContent === 'There is nothing to undo.'")
    assert Decisions(out).photos == []


def test_filters_find_what_was_decided_and_the_page_says_what_to_do_next(photos, out, tmp_path):
    with served(out, photos) as server, chromium(tmp_path) as page:
        opened(page, server.url)
        page.key("2")
        page.key("x")
        page.until("document.querySelector('#next').textContent.includes('1 photo waits for the next run:')")
        for show, count in (("no:meso", 1), ("rejected", 1), ("near-duplicates", 0), ("waiting", 1), ("", 3)):
            page.run(f"$('which').value = {json.dumps(show)}; $('which').onchange()")
            page.until(f"{PHOTOS} === {count} && document.querySelector('#empty').hidden === {json.dumps(count > 0)}")
        page.run("$('find').value = 'CHEL'; $('find').oninput()")
        page.until(f"{PHOTOS} === 1 && document.querySelector('#where').textContent === '1 of 1'")


def test_two_tabs_at_once_lose_nothing_and_see_each_other(photos, out, tmp_path):
    with served(out, photos) as server, chromium(tmp_path) as page:
        other = page.another()
        for tab in (page, other):
            opened(tab, server.url)
            tab.key("2")
        box = "[BASE + i, 10, BASE + 100 + i, 110]"
        press = f"Promise.all([0, 1, 2, 3, 4, 5].map(i => about({{do: 'add', level: 'micro', box: {box}}})))"
        other.run(f"window.adding6 = {press.replace('BASE', '200')}; 0")
        page.run(press.replace("BASE", "20"))
        other.run("adding6")
        page.key("2")
        page.key("x")
        page.until(f"{CARD}.querySelector('.rejected')")
        other.run("news()")
        other.until(f"{CARD}.querySelectorAll('.slice.added').length === 12 && {CARD}.querySelector('.rejected')")
        other.key("u")
        other.until(f"{CARD}.querySelectorAll('.slice.added').length === 11")
        assert other.run(f"Boolean({CARD}.querySelector('.rejected'))"), "each tab undoes what it has done"
        assert len(Decisions(out).rows) == 14 and Decisions(out).unread == 0
        other.socket.close()


def test_a_kill_of_the_command_loses_nothing(photos, out, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def started() -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "sga_kohya.hsd", "review", str(out), "--port", port]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return process, next(line.split()[-1] for line in process.stdout if line.startswith("review page"))

    process, url = started()
    try:
        with chromium(tmp_path) as page:
            opened(page, url)
            page.key("2")
            page.key("x")
            page.until(f"{CARD}.querySelector('.rejected')")
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            page.key("3")
            page.key("x")
            page.until("/^Not saved: 1 decision/.test(document.querySelector('#trouble').textContent)")
            assert len(Decisions(out).rows) == 1
            with (out / DECISIONS).open("a") as file:
                file.write('{"at": "2026", "id": "cut short by the ki')
            process, again = started()
            assert again == url, "so that the page that is open goes on"
            page.until(f"{CARD}.querySelectorAll('.slice.rejected').length === 2")
            page.until("document.querySelector('#trouble').hidden")

            # Kept, but the command could not say so any more: it is sent again, and is the same decision.
            page.run(LOSE_A_REPLY)
            page.key("a")
            page.key("Enter")
            page.until(f"{CARD}.querySelectorAll('.slice.added').length === 1 && lost === 2")
    finally:
        process.kill()
        process.wait()
    assert [row["level"] for row in Decisions(out).rows] == ["meso", "micro", "micro"] and Decisions(out).unread == 1
    run(photos, out, CONFIG)
    assert [level for level, _ in kept(out)] == ["macro", "micro"] and len(reasons(out)) == 2


def test_nothing_lies_beyond_the_right_edge_on_either_page(photos, out, tmp_path):
    long = "a_very_long_name_" * 8 + ".png"
    Image.new("RGB", (1800, 350), "teal").save(photos / long)
    (photos / long).with_suffix(".txt").write_text("w" * 300)
    run(photos, out, CONFIG)
    pages = {"review": ".photo .slice, .photo .box, .photo button", "report": ".photo .slice, .photo .box"}
    with served(out, photos) as server, chromium(tmp_path, "--allow-file-access-from-files") as page:
        for name, url in (("review", server.url), ("report", (out / "report.html").as_uri())):
            for width, dark in ((1280, False), (390, True)):
                page.size(width, 900, dark)
                page.open(url)
                page.until("document.querySelectorAll('.photo').length === 4")
                edges = f"[...document.querySelectorAll({json.dumps(pages[name])})].map(e => e.getBoundingClientRect())"
                beyond = f"{edges}.filter(e => e.right > innerWidth + 1 || e.left < -1).length"
                assert page.run(beyond) == 0 and page.run("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.complaints == []


def test_photos_are_drawn_on_a_larger_picture_that_is_made_once(photos, out, monkeypatch):
    desk = Desk(out, photos)
    row = rows_of(out)[0]
    picture = desk.large.of(row["source"], row["source_sha256"])
    (photos / row["source"]).unlink()
    assert picture == desk.large.of(row["source"], row["source_sha256"]) and picture.startswith(b"\xff\xd8")
    assert [file.name for file in (out / FOLDER).glob("*.jpg")] == [f"{row['source_sha256']}.jpg"]
    other = rows_of(out)[-1]
    Image.new("RGB", (9, 9)).save(photos / other["source"])
    assert desk.large.of(other["source"], other["source_sha256"]) is None, "it is not the photo that was cut"


@pytest.mark.parametrize("shape", [(300, 400), (1350, 1800), (4000, 6001), (3, 6000), (5000, 1)])
def test_a_picture_of_a_photo_of_any_shape_shows_all_of_it(shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[shape[0] // 2 :, :, 0] = 255
    small, _ = decode_image(view(pixels))
    factor = min(1, 640 / max(shape))
    assert small.shape == (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)), 3)
    assert abs(float(small[..., 0].mean()) - float(pixels[..., 0].mean())) < 4 or min(small.shape[:2]) == 1


def asked(server: Server, path: str, body: str | None = None, **changed: str | None) -> int:
    """The status of a request as the page makes it. changed: headers, None to leave one out."""
    name = f"127.0.0.1:{server.port}"
    headers = {"Host": name, "Origin": f"http://{name}", "Content-Type": "application/json"}
    headers = {
        **headers,
        "Content-Length": str(len(body or "")),
        **{k.replace("_", "-"): v for k, v in changed.items()},
    }
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1"]
    lines += [f"{key}: {value}" for key, value in headers.items() if value is not None]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", body or ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_only_whoever_has_the_address_reads_and_only_the_page_decides(photos, out):
    with served(out, photos) as server:
        below, reject = f"/{server.token}", json.dumps({"root": "astronaut", "do": "reject photo"})
        assert asked(server, f"{below}/") == asked(server, f"{below}/report/astronaut.jpg") == 200
        assert asked(server, f"{below}/large/astronaut") == 200
        for path in ("/", "/report/astronaut.jpg", "/x/report/astronaut.jpg", f"{below}x/"):
            assert asked(server, path) == 403, path
        for path in (
            "report/none.jpg",
            "sga_manifest.jsonl",
            "large/none",
            "report/../sga_manifest.jsonl",
            f"{FOLDER}/token",
        ):
            assert asked(server, f"{below}/{path}") == 404, path
        refused = (
            {"Origin": "https://evil.example"},
            {"Origin": None},
            {"Content_Type": "text/plain"},
            {"Host": "evil.example"},
        )
        for changed in refused:
            assert asked(server, f"{below}/decide", reject, **changed) in (403, 415), changed
        assert asked(server, "/decide", reject) == 403 and not Decisions(out).rows
        assert asked(server, f"{below}/decide", reject) == 200 and len(Decisions(out).rows) == 1
        assert oct((out / FOLDER / "token").stat().st_mode & 0o777) == "0o600"


def test_the_command_says_where_it_is_and_lets_no_second_one_decide(photos, out, capsys):
    command = [sys.executable, "-m", "sga_kohya.hsd", "review", str(out), "--port", "0"]
    # A shell that started this run in the background has switched Ctrl-C off for everything below it.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heeds)
    try:
        assert re.match(r"review page: http://127\.0\.0\.1:\d+/[\w-]{32}/$", first.stdout.readline())
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 2 and "another process is writing" in second.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0 and "--config" in first.stdout.read()
    finally:
        first.kill()
        first.wait()
