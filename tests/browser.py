"""A headless Chromium that a test can steer: the few words of the WebDriver protocol that are needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--force-color-profile=srgb",
)  # fmt: skip
PATIENCE = 60  # seconds
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that the protocol gives to a reference
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_here() -> bool:
    return bool(shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome")))


class Browser:
    """One window of Chromium, closed at the end of a ``with`` block."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.session = ""
        options = {
            "binary": shutil.which("chromium") or shutil.which("google-chrome"),
            "args": [*FLAGS, f"--user-data-dir={self.profile.name}", f"--window-size={width},{height}"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = "/session/" + self._when_ready({"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(PATIENCE)
            self.profile.cleanup()

    def _when_ready(self, wanted: dict[str, Any]) -> Any:
        for _ in range(10 * PATIENCE):
            try:
                return self.call("POST", "/session", wanted)
            except urllib.error.HTTPError:
                self.driver.terminate()
                raise
            except urllib.error.URLError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not answer")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        content = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{self.session}{path}", content, method=method)
        with NO_PROXY.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self.call("POST", "/url", {"url": page.absolute().as_uri()})

    def run(self, script: str, *values: Any) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": list(values)})

    def wait_for(self, script: str) -> Any:
        """Run a script that hands its result to its last argument."""
        return self.call("POST", "/execute/async", {"script": script, "args": []})

    def devtools(self, command: str, **values: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def press(self, selector: str, keys: str) -> None:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[ELEMENT]}/value", {"text": keys})

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse, from and to places in the window."""
        moves = [
            {"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y), "origin": "viewport"}
            for x, y in (start, end)
        ]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, moves[1], {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.call("POST", "/actions", {"actions": [mouse]})

    def messages(self) -> list[dict[str, Any]]:
        """Of the console."""
        return self.call("POST", "/se/log", {"type": "browser"})

    def picture(self, file: Path) -> None:
        """The whole page as a PNG file."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def print(self, file: Path) -> None:
        """The page as a PDF file."""
        file.write_bytes(base64.b64decode(self.call("POST", "/print", {"background": False})))
