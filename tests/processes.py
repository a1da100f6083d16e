"""The command line in processes of its own, for the tests that end or kill it."""

import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from upstream import WAIT_S

POINTSMAN = str(Path(sys.executable).with_name("pointsman"))
WRONG = 2  # the exit code of what a person can mend


@dataclass
class Ended:
    """A command that ran to its end."""

    returncode: int
    stdout: str
    stderr: str


def written(folder: Path, settings: Any) -> str:
    path = folder / "pointsman.yaml"
    path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
    return str(path)


class Running:
    """A serving command, its lines read as they come."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [POINTSMAN, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.text = ""
        self.url = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line
            if found := re.search(r"ready on (http://\S+)", line):
                self.url = found.group(1)
                break
        assert self.url, f"it was never ready: {self.text}"
        self.output = self._process.stdout

    def tell(self, how: signal.Signals) -> None:
        self._process.send_signal(how)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.tell(how)
        rest, _ = self._process.communicate(timeout=WAIT_S)
        self.text += rest
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), WAIT_S).close()
    except OSError:
        return False
    return True
