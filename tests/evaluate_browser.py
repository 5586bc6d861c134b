"""Drive headless Chromium over its DevTools protocol: load a page, run JavaScript, click, press keys, take pictures."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-quic", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"]
FLAGS += ["--remote-allow-origins=*", "--disable-dev-shm-usage"]


class Page:
    def __init__(self, address: str, target: str) -> None:
        """address: of the browser, HOST:PORT. target: the tab."""
        import websocket

        self.address, self.number = address, 0
        self.socket = websocket.create_connection(f"ws://{address}/devtools/page/{target}", timeout=60)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def another(self) -> "Page":
        """A new tab of the same browser."""
        return Page(self.address, self.call("Target.createTarget", url="about:blank")["targetId"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.bringToFront")  # a tab behind another one draws nothing
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def until(self, script: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}; {self.run('document.body.innerText')[:500]}"
            time.sleep(0.02)

    def middle(self, selector: str) -> tuple[float, float]:
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        return box[0], box[1]

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, source: str, target: str) -> None:
        """Both must be in view."""
        start = self.middle(source)
        box = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(target)}).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        self.hold(start, (box[0], box[1]))
        self.release((box[0], box[1]))

    def hold(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at one place and move to another."""
        (x, y), (to_x, to_y) = start, end
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for part in (0.3, 0.7, 1.0):
            place = {"x": x + (to_x - x) * part, "y": y + (to_y - y) * part}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **place)

    def release(self, place: tuple[float, float]) -> None:
        x, y = place
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Page]:
    """Skips the test, saying why, where there is no browser. flags: further ones."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH: the page was not clicked through; apt-get install chromium")
    pytest.importorskip("websocket", reason="websocket-client drives chromium; pip install websocket-client")
    profile = folder / "chromium"
    command = [browser, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            told = (profile / "DevToolsActivePort").read_text() if (profile / "DevToolsActivePort").is_file() else ""
            if told:  # the file is there before its content
                break
            time.sleep(0.05)
        port = told.split()[0]
        for _ in range(200):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
                pages = [page for page in json.load(reply) if page["type"] == "page"]
            if pages:
                break
            time.sleep(0.05)
        page = Page(f"127.0.0.1:{port}", pages[0]["id"])
        yield page
        page.socket.close()
    finally:
        process.terminate()
        process.wait(20)
