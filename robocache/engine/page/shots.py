"""The page as pictures, as wide as a desk and as a pocket: drawn by a Chromium of this machine, without windows and
without the network. It is spoken to by its own protocol (DevTools) over two pipes, so that no package is needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robocache.errors import ConfigError

#: Pixels across.
WIDTHS = (1280, 400)
#: Looked for on the PATH, in this order, where ``CHROME`` names none.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: What a picture has room for, in pixels, and how long the browser may take for one, in seconds.
_TALLEST, _PATIENCE = 16_000, 60.0


@dataclass(frozen=True)
class Shot:
    """png: the whole page; overflow: pixels that it is wider than its window; complaints: what the browser logged"""

    png: bytes
    overflow: int
    complaints: tuple[str, ...]


def browser() -> str:
    """The program. ``ConfigError`` where there is none."""
    for name in filter(None, (os.environ.get("CHROME"), *BROWSERS)):
        if found := shutil.which(name):
            return found
    raise ConfigError(
        [f"pictures of a page need a browser: none of {', '.join(BROWSERS)} is on the PATH; install Chromium "
         "(apt install chromium), or say with the variable CHROME where it is"]
    )  # fmt: skip


def shots(page: Path, widths: Sequence[int] = WIDTHS) -> dict[int, Shot]:
    """The page of a file, by width. ``ConfigError`` where there is no browser, or it does not do as it is asked."""
    with tempfile.TemporaryDirectory(prefix="robocache-page-") as folder, _Browser(browser(), folder) as chrome:
        return {width: chrome.shot(page.absolute().as_uri(), width) for width in widths}


class _Browser:
    def __init__(self, program: str, folder: str):
        ours = (os.pipe(), os.pipe())
        # The protocol is spoken over the descriptors 3 and 4; out of their way first.
        theirs, other = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (ours[0][0], ours[1][1]))
        os.close(ours[0][0])
        os.close(ours[1][1])
        self._out, self._in = ours[0][1], ours[1][0]
        options = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
                   "--disable-dev-shm-usage", f"--user-data-dir={folder}"]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")  # it has none as root; the page comes from us and may load nothing
        self._process = subprocess.Popen(
            [program, *options],
            preexec_fn=lambda: (os.dup2(theirs, 3), os.dup2(other, 4)),
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(other)
        self._number, self._held, self._waiting = 0, b"", list[dict[str, Any]]()

    def __enter__(self) -> _Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def shot(self, uri: str, width: int) -> Shot:
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Log", "Runtime"):
            self._ask(f"{domain}.enable", {}, session)
        size: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", size, session)
        self._ask("Page.navigate", {"url": uri}, session)
        complaints: list[str] = []
        while (event := self._event(session))["method"] != "Page.loadEventFired":
            complaints += _complaint(event)
        content = self._ask("Page.getLayoutMetrics", {}, session)["cssContentSize"]
        size["height"] = min(max(int(content["height"]), 1), _TALLEST)
        self._ask("Emulation.setDeviceMetricsOverride", size, session)
        data = self._ask("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}, session)["data"]
        complaints += [text for event in self._waiting for text in _complaint(event)]
        self._waiting.clear()
        self._ask("Target.closeTarget", {"targetId": target})
        return Shot(b64decode(data), max(0, int(content["width"]) - width), tuple(complaints))

    def _ask(self, method: str, params: Mapping[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        try:
            os.write(self._out, json.dumps(message).encode() + b"\0")
        except OSError as error:
            raise ConfigError([f"{self._process.args!r} does not answer ({error})"]) from error
        while (found := self._next()).get("id") != self._number:
            self._waiting.append(found)
        if "error" in found:
            raise ConfigError([f"the browser refuses {method}: {found['error'].get('message')}"])
        return dict(found["result"])

    def _event(self, session: str) -> dict[str, Any]:
        while True:
            found = self._waiting.pop(0) if self._waiting else self._next()
            if found.get("sessionId") == session and "method" in found:
                return found

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            block = os.read(self._in, 1 << 20) if ready else b""
            if not block:
                raise ConfigError(["the browser has ended, or takes too long, before the page was drawn"])
            self._held += block
        message, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(message))


def _complaint(event: Mapping[str, Any]) -> list[str]:
    params = event.get("params", {})
    if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return [str(params["entry"]["text"])]
    if event.get("method") == "Runtime.exceptionThrown":
        return [str(params["exceptionDetails"].get("text"))]
    return []
