"""A webcam for tests: test/fake_v4l2.c, and a process in which drivers see it.

The process is needed because LD_PRELOAD takes effect when a program starts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rlfp_ros.schema import ConfigurationError

NEEDS_COMPILER = "the fake webcam needs a C compiler"
COLOUR = (200, 100, 50)  # rgb of all its MJPG images
DELAY_US = 20_000  # from an image's stamp to its delivery


def has_compiler() -> bool:
    """Return whether the device can be built."""
    return shutil.which("cc") is not None


class Webcam:
    """A device in a folder of its own. Words change how it behaves, as test/fake_v4l2.c says."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError if there is no C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise ConfigurationError(f"{NEEDS_COMPILER}; install gcc")
        self._devices, self._log = folder / "dev", folder / "log"
        self._devices.mkdir()
        self.path = self._devices / "video0"
        self._library = folder / "fake_v4l2.so"
        source = Path(__file__).with_name("fake_v4l2.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self._library, source, "-ldl"], check=True)
        cv2.imwrite(str(folder / "image.jpg"), np.full((480, 640, 3), COLOUR[::-1], np.uint8))
        self.variables = {
            "LD_PRELOAD": str(self._library),
            "FAKE_V4L2": str(self._devices),
            "FAKE_V4L2_JPEG": str(folder / "image.jpg"),
            "FAKE_V4L2_DELAY_US": str(DELAY_US),
            "FAKE_V4L2_LOG": str(self._log),
        }
        self.plug()

    def plug(self, *words: str, name: str = "Desk Cam", device: str = "video0") -> None:
        """Plug it in, or change how it behaves while it is plugged in."""
        scratch = self._devices / "changed"
        scratch.write_text("\n".join([name, *words, ""]))
        scratch.replace(self._devices / device)

    def unplug(self, device: str = "video0") -> None:
        """Unplug it."""
        (self._devices / device).unlink()

    def link(self, name: str, device: str = "video0") -> None:
        """Make the by-id link that udev makes."""
        links = self._devices / "v4l" / "by-id"
        links.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(self._devices / device)

    def stamps_us(self) -> list[int]:
        """Return the stamps of all delivered images, us of the driver's clock."""
        return [int(words[2]) for words in self._lines() if words[0] == "image"]

    def controls(self) -> dict[int, int]:
        """Return the controls that were set, in the order of their first setting."""
        return {int(words[1], 16): int(words[2]) for words in self._lines() if words[0] == "set"}

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self._log.read_text().splitlines()] if self._log.exists() else []


class RemoteCamera:
    """The driver `uvc` in a process that sees the fake device. Errors are raised here as `RuntimeError`."""

    def __init__(self, webcam: Webcam) -> None:
        root = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(webcam.path.parent)],
            env={**os.environ, **webcam.variables, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, call: str, **values: Any) -> Any:
        """Call a method: open (source, settings), read (timeout_s), find (source), doctor, close."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"call": call, **values}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _serve(folder: Path) -> None:
    from rlfp_ros.cli.doctor import camera_findings
    from rlfp_ros.drivers.camera import CameraDriver, CameraLost, make_camera
    from rlfp_ros.drivers.v4l2 import find_device

    camera: CameraDriver | None = None
    for line in sys.stdin:
        given = json.loads(line)
        call = given.pop("call")
        result: Any = None
        try:
            if call == "doctor":
                result = [[found.part, found.health.value, found.text, found.fix] for found in camera_findings(folder)]
            elif call == "find":
                result = str(find_device(given["source"], folder))
            elif call == "open":
                camera = make_camera("uvc", given["source"], given["settings"])
                opened = camera.open()
                result = [opened.width, opened.height, list(opened.remarks)]
            elif call == "read":
                assert camera is not None
                image = camera.read(given["timeout_s"])
                pixel = None if image is None else image.image[100, 100].tolist()
                result = image and [image.captured_ns, time.monotonic_ns(), pixel, list(image.image.shape)]
            elif camera is not None:
                camera.close()
            answer = {"result": result}
        except (ConfigurationError, CameraLost) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
