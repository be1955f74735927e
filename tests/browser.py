"""A real Chromium, driven over its devtools protocol: what people will see, measured."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UP_S = 60.0


def installed() -> str | None:
    """The path of a Chromium, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Tab:
    """One page; `complaints` are what its console and log said of errors."""

    socket: ClientConnection
    session: str = ""
    complaints: list[str] = field(default_factory=list)
    _number: int = 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events in between are kept or dropped."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        self.socket.send(
            json.dumps(message | ({"sessionId": self.session} if self.session else {}))
        )
        while True:
            said = json.loads(self.socket.recv(timeout=UP_S))
            self._note(said)
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                result: dict[str, Any] = said["result"]
                return result

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Show a file in a window of so many CSS pixels, as on a phone if it is narrow."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + UP_S
        while self.value("document.readyState") != "complete" and time.monotonic() < deadline:
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What an expression gives in the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def pdf(self) -> bytes:
        """The page as it is printed on its own paper size."""
        printed = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    def picture(self, top: int, height: int, width: int) -> bytes:
        """PNG of a part of the whole page."""
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _note(self, said: dict[str, Any]) -> None:
        if said.get("method") == "Log.entryAdded":
            entry = said["params"]["entry"]
            if entry["level"] in ("error", "warning"):
                self.complaints.append(entry["text"])
        elif said.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(said["params"])[:300])


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """Start a Chromium with a profile of its own, and end it."""
    program = installed()
    assert program is not None
    command = (
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
    )
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(_address(profile, process), max_size=None) as socket:
                one = Tab(socket)
                made = one.ask("Target.createTarget", url="about:blank")
                joined = one.ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)
                one.session = joined["sessionId"]
                for domain in ("Page", "Runtime", "Log"):
                    one.ask(f"{domain}.enable")
                yield one
        finally:
            process.terminate()
            process.wait(20)


def _address(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """Chromium writes the port that it was given, and the path, into its profile."""
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + UP_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise RuntimeError("Chromium did not start")
