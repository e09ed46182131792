"""The interface of a camera that needs no ROS driver, and the registry from which `camera:=` chooses one by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from rlfp_ros import plugins, schema
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import ConfigurationError, Schema


class CameraLost(Exception):
    """Raised if the camera is not there now; the message says what was seen. It is opened again until it is back."""


class SourceEnded(Exception):
    """Raised by `read` after the last image of a recording."""


@dataclass(frozen=True, eq=False)
class CapturedImage:
    """One image and the time of its exposure.

    Attributes
    ----------
    image
        rgb uint8 [H, W, 3].
    captured_ns
        Time of exposure on CLOCK_MONOTONIC, as `time.monotonic_ns()` counts.
    """

    image: np.ndarray
    captured_ns: int


@dataclass(frozen=True)
class OpenedCamera:
    """A camera that is ready.

    Attributes
    ----------
    width, height
        Size of all its images, px.
    remarks
        One sentence for each setting that the camera did not take, with what it offers instead.
    """

    width: int
    height: int
    remarks: tuple[str, ...] = ()


class CameraDriver(Protocol):
    """Delivers images. Its methods are called one after the other; after `close` it may be opened again."""

    def open(self) -> OpenedCamera:
        """Connect and set up the camera.

        Raises
        ------
        CameraLost
            If it is not there, or another program uses it: the node waits for it.
        ConfigurationError
            If it cannot be used, and waiting does not help.
        """

    def read(self, timeout_s: float) -> CapturedImage | None:
        """Wait for the next image.

        Returns
        -------
        CapturedImage or None
            None if no image came within `timeout_s`.

        Raises
        ------
        CameraLost
            If the camera is gone.
        SourceEnded
            If there are no further images.
        ConfigurationError
            If this image cannot be used. The next one may be good.
        """

    def close(self) -> None:
        """Release the camera. Does nothing if it is not open."""


class CameraDriverClass(Protocol):
    """What the registry holds: a class that makes a driver.

    Attributes
    ----------
    Settings
        Schema of the parameter `settings` of the camera node.
    recorded
        Whether the images exist already: the first one then waits until a node subscribes.
    """

    Settings: ClassVar[type[Schema]]
    recorded: ClassVar[bool]

    def __call__(self, source: str, settings: Any) -> CameraDriver:
        """Make a driver that is not open yet.

        Parameters
        ----------
        source
            Which camera: a device, or a file. Its form is the driver's own.
        settings
            An instance of `Settings`.
        """


CAMERAS = Registry[CameraDriverClass](
    "camera", builtin="rlfp_ros.drivers.cameras", members=("Settings", "recorded", "open", "read", "close")
)


def make_camera(name: str, source: str, settings: str) -> CameraDriver:
    """Make the camera driver `name`.

    Parameters
    ----------
    name
        A name in `CAMERAS`.
    source
        Which camera, as the driver takes it.
    settings
        YAML mapping with the driver's settings, such as "{rate_hz: 30}"; empty for the defaults.

    Raises
    ------
    ConfigurationError
        If no camera has this name, or it does not take these settings.
    """
    if name not in CAMERAS:
        raise ConfigurationError(
            f"camera is {name!r}, expected one of {', '.join(CAMERAS)}; if it comes from a plugin, name its file in "
            f"the environment variable {plugins.VARIABLE} or install its package"
        )
    driver = CAMERAS[name]
    label = f"settings of the camera {name}"
    values = schema.named_values(settings, label, "{rate_hz: 30}")
    return driver(source, schema.validate(values, driver.Settings, label))
