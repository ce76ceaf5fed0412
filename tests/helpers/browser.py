"""A headless Chromium, driven as a person would: it opens pages, clicks with a mouse and types."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WHY_NOT = "no Chromium, or no package websockets, to drive a browser with"


def chromium() -> str | None:
    """The path of Chromium, if it is installed and can be driven."""
    try:
        import websockets.sync.client  # noqa: F401
    except ImportError:
        return None
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page. `clicks` and `texts` count the user's actions."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number, self.clicks, self.texts = socket, 0, 0, 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a DevTools command and returns its result; collects errors of the page meanwhile."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(timeout=300))
            if said.get("id") == self._number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        if said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(said["params"]["exceptionDetails"].get("exception", {}).get("description", "?"))
        if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
            entry = said["params"]["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        if said.get("method") == "Page.javascriptDialogOpening":
            self._number += 1
            self._socket.send(
                json.dumps({"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})
            )

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; None while another page is loading."""
        try:
            result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        except RuntimeError:
            return None
        return result["result"].get("value")

    def go(self, address: str) -> None:
        """Opens an address."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && window.htmx !== undefined")

    def wait(self, expression: str, seconds: float = 30.0) -> Any:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.js(f"(found => found instanceof Node || found)({expression})")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"{expression} did not come true; the page says: {self.text()[-1500:]}")

    def text(self) -> str:
        """The visible text of the page."""
        return self.js("document.body ? document.body.innerText : ''") or ""

    def click(self, selector: str, words: str = "") -> None:
        """Clicks the first element that matches a selector and contains these words.

        It leaves new content alone until htmx has set it up, 20 ms later; no person is that quick.
        """
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find(e => e.innerText.includes({json.dumps(words)}) && !e.disabled && !e.closest('.htmx-added'))"
        )
        where = self.wait(
            f"(() => {{ const e = {found}; if (!e) return null;"
            " e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            " return b.width ? [b.x + b.width / 2, b.y + b.height / 2] : null; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)
        self.clicks += 1

    def type(self, selector: str, text: str) -> None:
        """Replaces the text of a field, and leaves the field."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        self.call("Input.insertText", text=text)
        self.js("document.activeElement.blur()")
        self.texts += 1

    def press(self, key: str) -> None:
        """Presses Tab, Enter or Escape."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """Gives files to a file field, as its dialog or a drop would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])
        self.clicks += 1

    def look(self, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Sets the size of the screen, and light or dark colours."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def picture(self, path: Path, whole: bool = True) -> None:
        """Saves a screenshot as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium with its own profile in a folder."""
    from websockets.sync.client import connect

    words = [chromium(), "--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    words += ["--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    process = subprocess.Popen([*words, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_address(folder), max_size=None, ping_interval=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def _address(folder: Path) -> str:
    """The WebSocket address where the page takes commands."""
    file, end = folder / "DevToolsActivePort", time.monotonic() + 30
    while time.monotonic() < end:
        if file.is_file() and len(lines := file.read_text().splitlines()) >= 2:
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                pages = [one for one in json.load(answer) if one["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("Chromium did not start")
