"""Tests of the camera `uvc` with OpenCV's own V4L2 backend on a fake device, which answers the kernel's calls."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webcam import COLOUR, DELAY_US, NEEDS_COMPILER, RemoteCamera, Webcam, has_compiler

from rlfp_ros.drivers import v4l2

pytestmark = pytest.mark.skipif(not has_compiler(), reason=NEEDS_COMPILER)

FIXED = "{exposure_s: 0.01, white_balance_k: 4500, focus: 30, controls: {power_line_frequency: 1}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webcam")


@pytest.fixture(scope="module")
def plugged(folder: Path) -> Webcam:
    return Webcam(folder)


@pytest.fixture(scope="module")
def process(plugged: Webcam) -> Iterator[RemoteCamera]:
    remote = RemoteCamera(plugged)
    yield remote
    remote.end()


@pytest.fixture
def webcam(plugged: Webcam) -> Webcam:
    """The device as it is out of the box."""
    plugged.plug()
    return plugged


@pytest.fixture
def camera(process: RemoteCamera, webcam: Webcam) -> Iterator[RemoteCamera]:
    yield process
    process("close")


def opened(camera: RemoteCamera, webcam: Webcam, settings: str = "") -> Any:
    return camera("open", source=str(webcam.path), settings=settings)


def failure(camera: RemoteCamera) -> str:
    """Return the error of the next image that has one; images that had come before are read."""
    for _ in range(8):
        try:
            camera("read", timeout_s=1.0)
        except RuntimeError as error:
            return str(error)
    return "none"


def test_images_have_the_drivers_stamps_to_the_microsecond(camera: RemoteCamera, webcam: Webcam) -> None:
    assert opened(camera, webcam) == [640, 480, []]
    taken = [camera("read", timeout_s=1.0) for _ in range(10)]
    driver_us = webcam.stamps_us()
    for captured_ns, read_ns, pixel, shape in taken:
        assert captured_ns % 1000 in (0, 1, 999)  # a float of milliseconds has carried it
        assert round(captured_ns / 1000) in driver_us
        assert DELAY_US * 1000 <= read_ns - captured_ns < 10**9
        np.testing.assert_allclose(pixel, COLOUR, atol=3)  # rgb, decoded from the JPEG
        assert shape == [480, 640, 3]
    assert np.all(np.diff([captured_ns for captured_ns, *_ in taken]) > 0)


def test_fixed_exposure_white_balance_and_focus_are_set_with_the_automatic_ones_off_before(
    camera: RemoteCamera, webcam: Webcam
) -> None:
    assert opened(camera, webcam, FIXED)[2] == []
    assert webcam.controls() == {
        v4l2.EXPOSURE_DYNAMIC_FRAMERATE: 0,
        v4l2.EXPOSURE_AUTO: v4l2.EXPOSURE_MANUAL,
        v4l2.EXPOSURE_ABSOLUTE: 100,  # of 100 us
        v4l2.AUTO_WHITE_BALANCE: 0,
        v4l2.WHITE_BALANCE_TEMPERATURE: 4500,
        v4l2.FOCUS_AUTO: 0,
        v4l2.FOCUS_ABSOLUTE: 30,
        0x00980918: 1,
    }
    camera("close")
    assert opened(camera, webcam)[2] == []
    assert webcam.controls()[v4l2.EXPOSURE_AUTO] == v4l2.EXPOSURE_AUTOMATIC[0]
    assert webcam.controls()[v4l2.AUTO_WHITE_BALANCE] == 1
    assert webcam.controls()[v4l2.FOCUS_AUTO] == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            "{width: 800, height: 600}",
            "MJPG 800x600 at 30 Hz could not be set, it gives MJPG 640x480 at 30 Hz; it offers: YUYV 640x480 at 30 Hz; "
            "YUYV 1280x720 at 10 Hz; MJPG 640x480 at 30, 15 Hz; MJPG 1280x720 at 30 Hz",
        ),
        (
            "{format: yuyv, width: 1280, height: 720}",
            "YUYV 1280x720 at 30 Hz could not be set, it gives YUYV 1280x720 at 10",
        ),
        ("{exposure_s: 0.0001}", "instead of 0.0001; it takes 0.0003 to 0.2047"),
        ("{focus: 32}", "focus is 30 instead of 32; it takes 0 to 250 in steps of 5"),
        ("{white_balance_k: 9000}", "instead of 9000; it takes 2800 to 6500 in steps of 10"),
        ("{gain: 3}", "gain could not be set, the camera has no such control; it has: auto_exposure, brightness, "),
        ("{controls: {power_line_frequency: 7}}", "instead of 7; it takes 0 (Disabled), 1 (50 Hz), 2 (60 Hz)"),
        ("{controls: {zoom: 1}}", "zoom could not be set, the camera has no such control"),
    ],
)
def test_a_setting_that_the_camera_does_not_take_is_reported_with_what_it_offers(
    settings: str, sentence: str, camera: RemoteCamera, webcam: Webcam
) -> None:
    (remark,) = opened(camera, webcam, settings)[2]
    assert sentence in remark
    assert remark.startswith("Desk Cam: ")
    assert camera("read", timeout_s=1.0) is not None


def test_size_rate_and_format_are_set(camera: RemoteCamera, webcam: Webcam) -> None:
    assert opened(camera, webcam, "{format: yuyv, width: 1280, height: 720, rate_hz: 10}") == [1280, 720, []]
    _, _, pixel, shape = camera("read", timeout_s=1.0)
    assert shape == [720, 1280, 3]
    np.testing.assert_allclose(pixel, np.full(3, 51), atol=2)  # Y of 60
    camera("close")
    assert opened(camera, webcam, "{rate_hz: 15}") == [640, 480, []]
    stamps = [camera("read", timeout_s=1.0)[0] for _ in range(6)]
    assert np.median(np.diff(stamps)) == pytest.approx(1e9 / 15, rel=0.2)


def test_stamps_of_the_system_clock_are_recognised_and_those_of_no_clock_are_reported(
    camera: RemoteCamera, webcam: Webcam
) -> None:
    webcam.plug("realtime")
    assert opened(camera, webcam)[2] == []
    captured_ns, read_ns, *_ = camera("read", timeout_s=1.0)
    assert DELAY_US * 1000 - 1e5 <= read_ns - captured_ns < 1e9
    camera("close")
    webcam.plug("ahead")
    (remark,) = opened(camera, webcam)[2]
    assert "stamps are of no clock of this machine, so images are stamped when they are received" in remark
    captured_ns, read_ns, *_ = camera("read", timeout_s=1.0)
    assert 0 <= read_ns - captured_ns < 1e9


def test_an_unplugged_camera_is_noticed_at_once_and_can_be_opened_again(camera: RemoteCamera, webcam: Webcam) -> None:
    opened(camera, webcam)
    assert camera("read", timeout_s=1.0) is not None
    webcam.unplug()
    began = time.monotonic()
    assert re.match(r"CameraLost: .*video0 \(Desk Cam\) is unplugged", failure(camera))
    assert time.monotonic() - began < 2.0
    camera("close")
    with pytest.raises(RuntimeError, match=r"CameraLost: .*video0: no such device"):
        opened(camera, webcam)
    webcam.plug()
    assert opened(camera, webcam) == [640, 480, []]
    assert camera("read", timeout_s=1.0) is not None


def test_a_camera_that_sends_nothing_costs_a_reader_its_timeout_and_no_more(
    camera: RemoteCamera, webcam: Webcam
) -> None:
    opened(camera, webcam)
    webcam.plug("stalled")
    began = time.monotonic()
    answers = [camera("read", timeout_s=0.2) for _ in range(8)]
    assert answers[-1] is None
    assert time.monotonic() - began < 3.0  # OpenCV by itself waits for ten seconds


def test_a_damaged_image_costs_only_itself(camera: RemoteCamera, webcam: Webcam) -> None:
    opened(camera, webcam)
    webcam.plug("damaged")
    assert re.search(r"ConfigurationError: .*sent a damaged image \(data is not a whole jpeg", failure(camera))
    webcam.plug()
    for _ in range(8):
        with contextlib.suppress(RuntimeError):  # damaged ones that had come before
            assert camera("read", timeout_s=1.0)[2] == pytest.approx(COLOUR, abs=3)
            return
    pytest.fail("no image after the damaged ones")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("busy",), r"CameraLost: .*video0: another program uses Desk Cam; end it"),
        (("forbidden",), r"ConfigurationError: .*video0: cannot be opened \(Permission denied\); add your user to the"),
        (
            ("metadata",),
            r"ConfigurationError: .*video0: captures no video \(UVC cameras have a second device for metadata\)",
        ),
    ],
)
def test_a_device_that_cannot_be_used_is_refused_in_one_sentence(
    words: tuple[str, ...], message: str, camera: RemoteCamera, webcam: Webcam
) -> None:
    webcam.plug(*words)
    with pytest.raises(RuntimeError, match=message):
        opened(camera, webcam)


def test_a_file_that_is_no_device_and_an_exposure_that_is_too_long_are_refused(
    camera: RemoteCamera, folder: Path
) -> None:
    (folder / "text").write_text("no device")
    with pytest.raises(RuntimeError, match="text: is not a V4L2 device"):
        camera("open", source=str(folder / "text"), settings="")
    with pytest.raises(RuntimeError, match=r"exposure_s is 0\.05, longer than the 0\.0333 s between images at 30 Hz"):
        camera("open", source="0", settings="{exposure_s: 0.05}")


def test_a_device_is_found_by_path_number_name_and_by_id_link(camera: RemoteCamera, webcam: Webcam) -> None:
    webcam.plug("metadata", device="video1")
    assert camera("find", source="") == str(webcam.path)  # the only one that captures
    webcam.plug(name="Wrist Cam", device="video2")
    webcam.link("usb-Maker_Wrist_0001-video-index0", device="video2")
    other = str(webcam.path.with_name("video2"))
    assert camera("find", source="wrist cam") == camera("find", source="2") == camera("find", source="maker") == other
    assert camera("find", source=other) == other
    with pytest.raises(
        RuntimeError,
        match=r"ConfigurationError: there are several cameras; choose .*video0 \(Desk Cam\), .*\(Wrist Cam\)",
    ):
        camera("find", source="")
    with pytest.raises(RuntimeError, match=r"2 cameras fit 'cam'; choose with camera_source:= from: "):
        camera("find", source="cam")
    with pytest.raises(RuntimeError, match=r"CameraLost: no camera is named 'ceiling'; choose .*video0"):
        camera("find", source="ceiling")
    webcam.plug("forbidden")
    assert camera("doctor") == [
        [
            "video0",
            "note",
            f"{webcam.path}: cannot be opened (Permission denied)",
            "add your user to the group video (sudo usermod -aG video $USER) and log in again",
        ],
        [
            "video2",
            "ok",
            "Wrist Cam, usb-Maker_Wrist_0001-video-index0: YUYV 640x480 at 30 Hz; YUYV 1280x720 at 10 Hz; "
            "MJPG 640x480 at 30, 15 Hz; MJPG 1280x720 at 30 Hz",
            "",
        ],
    ]
    for device in ("video1", "video2"):
        webcam.unplug(device)
    with pytest.raises(
        RuntimeError,
        match=r"ConfigurationError: there is no camera; .*video0: cannot be opened .*; add your user to the",
    ):
        camera("find", source="")
    webcam.unplug()
    assert camera("doctor") == []
    with pytest.raises(RuntimeError, match="CameraLost: there is no camera; no device in /dev/video"):
        camera("find", source="")
