"""Tests of the camera `file`: a video or a folder of images, in real time and with the stamps of a camera."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from rlfp_ros.drivers.camera import (
    CAMERAS,
    CameraDriver,
    CameraLost,
    CapturedImage,
    OpenedCamera,
    SourceEnded,
    make_camera,
)
from rlfp_ros.drivers.cameras.file import FileCamera
from rlfp_ros.plugins import load_file
from rlfp_ros.schema import ConfigurationError

RATE_HZ = 50.0


def marked(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return an image that shows its number as a grey level, with a red corner. bgr uint8."""
    image = np.full((height, width, 3), 10 * number, np.uint8)
    image[:16, :16] = (0, 0, 255)
    return image


def number_of(image: np.ndarray) -> int:
    """Return the number that an image shows."""
    return round(float(image[image.shape[0] // 2 :].mean()) / 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images whose names sort by number, not by letter, and a file that is no image."""
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"image_{number + 8}.png"), marked(number))
    (tmp_path / "notes.txt").write_text("a red corner")
    return tmp_path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE_HZ, (64, 48))
    for number in range(5):
        writer.write(marked(number))
    writer.release()
    return path


def opened(source: Path, settings: str = "") -> CameraDriver:
    camera = make_camera("file", str(source), settings)
    assert camera.open() == OpenedCamera(64, 48)
    return camera


def read(camera: CameraDriver) -> tuple[CapturedImage, int]:
    """Return the next image, and by how much it came after its stamp, ns."""
    while True:
        image = camera.read(timeout_s=0.2)
        if image is not None:
            return image, time.monotonic_ns() - image.captured_ns


@pytest.mark.parametrize(("kind", "settings"), [("folder", f"{{rate_hz: {RATE_HZ}}}"), ("video", "")])
def test_images_come_in_order_when_they_are_due_and_are_stamped_with_that_time(
    kind: str, settings: str, request: pytest.FixtureRequest
) -> None:
    camera = opened(request.getfixturevalue(kind), settings)
    began = time.monotonic_ns()
    taken = [read(camera) for _ in range(5)]
    assert [number_of(image.image) for image, _ in taken] == [0, 1, 2, 3, 4]
    stamps = np.array([image.captured_ns for image, _ in taken])
    np.testing.assert_allclose(np.diff(stamps), 1e9 / RATE_HZ, atol=1e3)
    assert 0 <= stamps[0] - began < 0.5e9
    assert all(late >= 0 for _, late in taken)  # never before its time
    red, _, blue = taken[4][0].image[4, 4]
    assert (red > 200, blue < 60) == (True, True)
    with pytest.raises(SourceEnded, match="has ended"):
        camera.read(1.0)
    camera.close()


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_a_loop_continues_with_even_times(kind: str, request: pytest.FixtureRequest) -> None:
    camera = opened(request.getfixturevalue(kind), f"{{rate_hz: {RATE_HZ}, loop: true}}")
    taken = [read(camera)[0] for _ in range(12)]
    assert [number_of(image.image) for image in taken] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    np.testing.assert_allclose(np.diff([image.captured_ns for image in taken]), 1e9 / RATE_HZ, atol=1e3)
    camera.close()


def test_a_reader_that_is_late_gets_the_image_that_is_due_and_after_a_pause_the_next(folder: Path) -> None:
    camera = opened(folder, f"{{rate_hz: {RATE_HZ}, loop: true}}")
    read(camera)
    time.sleep(3.4 / RATE_HZ)
    image, late = read(camera)
    assert number_of(image.image) in (2, 3)  # image 1 is more than one period late
    assert late < 2e9 / RATE_HZ
    time.sleep(1.2)
    following, late = read(camera)
    assert (number_of(following.image) - number_of(image.image)) % 5 == 1
    assert late < 2e9 / RATE_HZ
    camera.close()


def test_read_returns_after_its_timeout_and_keeps_the_image(folder: Path) -> None:
    camera = opened(folder, "{rate_hz: 2}")
    assert number_of(read(camera)[0].image) == 0
    began = time.monotonic()
    assert camera.read(0.05) is None
    assert time.monotonic() - began < 0.3
    assert number_of(read(camera)[0].image) == 1
    camera.close()


def test_a_damaged_image_is_reported_and_the_next_one_comes(folder: Path) -> None:
    (folder / "image_9.png").write_bytes(b"not an image")
    cv2.imwrite(str(folder / "image_10.png"), marked(2, width=32))
    camera = opened(folder, f"{{rate_hz: {RATE_HZ}}}")
    assert number_of(read(camera)[0].image) == 0
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"image_9\.png: is not an image that OpenCV reads"):
        camera.read(1.0)
    with pytest.raises(ConfigurationError, match="an image is 32x48 px, the first was 64x48"):
        camera.read(1.0)
    assert number_of(read(camera)[0].image) == 3
    assert time.monotonic() - began > 2 / RATE_HZ  # each takes its time, so that a folder that is gone does not spin
    camera.close()


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("", "", "no source; give a video file or a folder of images"),
        ("nothing", "", "nothing: no such file or folder"),
        ("empty", "", r"empty: has no image; expected files named \*\.png"),
        ("text.mp4", "", r"text\.mp4: is not a video that OpenCV reads"),
        ("empty", "{rate: 30}", "settings of the camera file: rate is not a known field"),
        ("empty", "{rate_hz: 0}", "settings of the camera file: rate_hz is 0, but it should be greater than 0"),
        ("empty", "fast", "settings of the camera file is 'fast', expected names and values"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_sentence(
    source: str, settings: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("a text")
    with pytest.raises(ConfigurationError, match=message):
        make_camera("file", str(tmp_path / source) if source else "", settings).open()


def test_a_camera_of_ones_own_is_made_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"camera is 'mine', expected one of file.*RLFP_PLUGINS"):
        make_camera("mine", "", "")

    @CAMERAS.register("mine")
    class Mine(FileCamera):
        """A camera of one's own."""

    try:
        assert isinstance(make_camera("mine", "", ""), Mine)
    finally:
        CAMERAS.remove("mine")


def test_the_example_of_a_camera_of_ones_own_plays_what_it_is_given(video: Path) -> None:
    load_file(Path(__file__).resolve().parents[1] / "examples" / "my_camera.py")
    try:
        camera = make_camera("network", str(video), "{delay_s: 0.05}")
        assert camera.open() == OpenedCamera(64, 48)
        taken = [read(camera) for _ in range(5)]
        assert [number_of(image.image) for image, _ in taken] == [0, 1, 2, 3, 4]
        assert all(50e6 <= late < 500e6 for _, late in taken)
        with pytest.raises(CameraLost, match="sends nothing"):
            camera.read(1.0)
        camera.close()
        with pytest.raises(CameraLost, match="no video comes from there"):
            make_camera("network", str(video.with_name("none")), "").open()
    finally:
        CAMERAS.remove("network")
