"""Tests of image decoding: every encoding gives the expected pixels, and data that is not an image is refused."""

from __future__ import annotations

import io
import re
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rlfp_ros.perception import images
from rlfp_ros.schema import ConfigurationError

RGB = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def _yuv422(rgb: np.ndarray, order: str) -> np.ndarray:
    """BT.601, 8 bit, limited range, chroma of each pair's left pixel, by the standard's own formula."""
    r, g, b = (rgb[..., c].astype(np.float64) for c in range(3))
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    packed = np.zeros((*rgb.shape[:2], 2))
    luma, chroma = (1, 0) if order == "uyvy" else (0, 1)
    packed[..., luma] = y
    packed[:, 0::2, chroma], packed[:, 1::2, chroma] = u[:, 0::2], v[:, 0::2]
    return np.round(packed).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., 0]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., 0]])),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_colour_encodings_are_exact_with_and_without_row_padding(
    encoding: str, pixels: np.ndarray, padding: int
) -> None:
    rows = pixels.reshape(6, -1)
    padded = np.hstack([rows, np.full((6, padding), 77, np.uint8)])
    found = images.from_raw(encoding, 6, 8, padded.shape[1], padded.tobytes())
    np.testing.assert_array_equal(found, RGB)


def test_mono_becomes_grey() -> None:
    grey = RGB[..., 0]
    found = images.from_raw("mono8", 6, 8, 8, grey.tobytes())
    np.testing.assert_array_equal(found, np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
@pytest.mark.parametrize("padding", [0, 6])
def test_yuv422_follows_bt601(encoding: str, order: str, padding: int) -> None:
    rgb = np.repeat(RGB[:, ::2], 2, axis=1)  # pairs of equal colour, so that shared chroma loses nothing
    rows = _yuv422(rgb, order).reshape(6, -1)
    padded = np.hstack([rows, np.full((6, padding), 200, np.uint8)])
    found = images.from_raw(encoding, 6, 8, padded.shape[1], padded.tobytes())
    assert np.abs(found.astype(int) - rgb).max() <= 3  # rounding of 8-bit Y, U and V


def test_the_last_row_may_lack_its_padding() -> None:
    padded = np.hstack([RGB.reshape(6, -1), np.zeros((6, 4), np.uint8)]).tobytes()[:-4]
    np.testing.assert_array_equal(images.from_raw("rgb8", 6, 8, 28, padded), RGB)


def test_rgb8_without_padding_is_not_copied() -> None:
    data = RGB.tobytes()
    assert np.shares_memory(images.from_raw("rgb8", 6, 8, 24, data), np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("16UC1", 6, 8, 16, bytes(96)), "encoding is '16UC1', expected one of rgb8"),
        (("8UC3", 6, 8, 24, bytes(144)), "encoding is '8UC3'"),
        (("mjpeg", 6, 8, 24, bytes(144)), "encoding is 'mjpeg'"),  # of a driver that copies compressed bytes
        (("nv12", 6, 8, 8, bytes(72)), "encoding is 'nv12'"),
        (("bayer_rggb8", 6, 8, 8, bytes(48)), "encoding is 'bayer_rggb8'"),
        (("rgb8", 6, 8, 23, bytes(144)), "step is 23, expected at least 24"),
        (("rgb8", 6, 8, 24, bytes(143)), "data has 143 bytes, expected 144"),
        (("rgb8", 0, 8, 24, b""), "width x height is 8 x 0"),
        (("rgb8", 2**31, 2**31, 2**33, b""), "width x height is 2147483648"),
        (("yuv422", 6, 7, 14, bytes(84)), "width is 7, expected an even one"),
    ],
)
def test_data_that_is_not_an_image_is_refused_in_one_sentence(
    arguments: tuple[str, int, int, int, bytes], field: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(field)) as caught:
        images.from_raw(*arguments, "/cam/image")
    assert "/cam/image" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("words", ["{kind}", "rgb8; {kind} compressed bgr8", "bgr8; {kind} compressed bgr8"])
def test_compressed_images_decode_to_rgb(kind: str, words: str) -> None:
    smooth = np.dstack([np.tile(np.linspace(20, 230, 64), (48, 1))] * 3).astype(np.uint8)
    smooth[..., 0] //= 2
    content = cv2.imencode(f".{kind}", smooth[..., ::-1])[1].tobytes()
    found = images.from_compressed(words.format(kind=kind), content)
    assert np.abs(found.astype(int) - smooth).max() <= (0 if kind == "png" else 6)


def test_old_publishers_that_compress_rgb_as_bgr_are_understood() -> None:
    content = cv2.imencode(".png", RGB)[1].tobytes()  # rgb handed over as if it were bgr
    np.testing.assert_array_equal(images.from_compressed("rgb8; png compressed rgb8", content), RGB)


def test_mono_compressed_images_become_grey() -> None:
    content = cv2.imencode(".png", RGB[..., 0])[1].tobytes()
    np.testing.assert_array_equal(images.from_compressed("mono8; png compressed mono8", content)[..., 2], RGB[..., 0])


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_compressed_image_that_was_cut_is_refused(kind: str) -> None:
    content = cv2.imencode(f".{kind}", np.tile(RGB, (8, 8, 1)))[1].tobytes()
    for length in (0, 3, 60, len(content) // 2, len(content) - 70):
        with pytest.raises(ConfigurationError, match="not a whole"):
            images.from_compressed(kind, content[:length])


def test_an_image_that_claims_to_be_enormous_is_refused_before_it_is_decoded() -> None:
    content = bytearray(cv2.imencode(".png", RGB)[1].tobytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(ConfigurationError, match="60000 x 60000"):
        images.from_compressed("png", bytes(content))


SMOOTH = np.dstack([np.tile(np.linspace(20, 230, 64), (48, 1))] * 3).astype(np.uint8) // [2, 1, 3]
SMOOTH = SMOOTH.astype(np.uint8)


def _file(kind: str, image: np.ndarray) -> bytes:
    return cv2.imencode(f".{kind}", image)[1].tobytes()


def _jpeg_of(mode: str) -> bytes:
    """A JPEG that OpenCV cannot write: of inks, or progressive."""
    file = io.BytesIO()
    Image.fromarray(SMOOTH).convert(mode).save(file, "jpeg", progressive=True)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("count", [1, 62, 63, 64, 200, 4096, 100_000])
def test_bytes_behind_the_end_are_ignored_and_logged_once(
    kind: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Drivers hand over their whole buffer, in which the image before was larger."""
    content = _file(kind, SMOOTH[..., ::-1])
    expected = images.from_compressed(kind, content)
    assert caplog.messages == []
    topic = f"/cam/{kind}/{count}"  # logged once per topic in a process
    for trailing in (bytes(count), b"\xff\xd9" * (count // 2), (content * 30)[-count:]):
        found = images.from_compressed(kind, content + trailing, topic)
        np.testing.assert_array_equal(found, expected)
    assert caplog.messages == [f"topic {topic}: bytes behind the end of the compressed image are ignored"]


def test_a_cut_image_with_a_thumbnail_is_refused() -> None:
    """The thumbnail's end is not the image's."""
    thumbnail = _file("jpeg", SMOOTH)
    content = _file("jpeg", SMOOTH)
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    content = content[:2] + segment + content[2:]
    assert images.from_compressed("jpeg", content).shape == (48, 64, 3)
    with pytest.raises(ConfigurationError, match="not a whole"):
        images.from_compressed("jpeg", content[:-20])


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_png_is_refused(place: float) -> None:
    content = bytearray(_file("png", np.tile(RGB, (8, 8, 1))))
    at = int(place * len(content))
    content[at : at + 40] = bytes(40)
    with pytest.raises(ConfigurationError, match="not a whole"):
        images.from_compressed("png", bytes(content))


def _without_huffman_tables(content: bytes) -> bytes:
    """The frames of many USB cameras (MJPEG): the standard's tables are left out."""
    kept, place = content[:2], 2
    while content[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4])
        kept += b"" if content[place + 1] == 0xC4 else content[place:end]
        place = end
    return kept + content[place:]


def _palette_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(SMOOTH).quantize(128).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("words", ["{kind}", "bgr8; {kind} compressed bgr8"])
@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("png", _file("png", SMOOTH[..., ::-1]), SMOOTH),
        ("png", _file("png", np.dstack([SMOOTH[..., ::-1], SMOOTH[..., 0]])), SMOOTH),  # alpha is left out, as of rgba8
        ("png", _file("png", SMOOTH[..., 0]), np.dstack([SMOOTH[..., 0]] * 3)),
        ("jpeg", _file("jpeg", SMOOTH[..., ::-1]), SMOOTH),
        ("jpeg", _file("jpeg", SMOOTH[..., 0]), np.dstack([SMOOTH[..., 0]] * 3)),
        ("jpeg", _jpeg_of("RGB"), SMOOTH),
        ("jpeg", _without_huffman_tables(_file("jpeg", SMOOTH[..., ::-1])), SMOOTH),
        ("jpeg", cv2.imencode(".jpg", SMOOTH[..., ::-1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes(), SMOOTH),
        ("png", _palette_png(), SMOOTH),
        ("jpeg", _jpeg_of("L"), np.dstack([SMOOTH @ [0.299, 0.587, 0.114]] * 3)),
    ],
)
def test_kinds_of_files_that_are_images(words: str, kind: str, content: bytes, expected: np.ndarray) -> None:
    found = images.from_compressed(words.format(kind=kind), content).astype(int)
    assert np.abs(found - expected).max() <= (0 if kind == "png" else 8)


@pytest.mark.parametrize(
    ("words", "content", "reason"),
    [
        ("16UC1; png compressed ", _file("png", np.full((48, 64), 700, np.uint16)), "a depth image"),
        ("32FC1; png compressed ", _file("png", SMOOTH), "a depth image"),
        ("png", _file("png", np.full((48, 64), 700, np.uint16)), "a PNG of 16-bit grey values"),
        ("mono16; png compressed mono16", _file("png", np.full((48, 64), 700, np.uint16)), "16-bit grey values"),
        ("rgb16; png compressed bgr16", _file("png", SMOOTH.astype(np.uint16) * 257), "a PNG of 16-bit colour"),
        ("jpeg", _jpeg_of("CMYK"), "a JPEG of four inks"),
    ],
)
def test_files_that_no_colour_camera_sends_are_refused_with_the_reason(words: str, content: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(reason)) as caught:
        images.from_compressed(words, content, "/cam/compressed")
    assert "/cam/compressed" in str(caught.value)
    assert "publish colour images with 8 bits per channel" in str(caught.value)


def test_refusals_of_cut_images_are_equal_so_that_a_node_can_log_them_once() -> None:
    content = _file("jpeg", np.tile(RGB, (8, 8, 1)))
    refusals = set()
    for length in (100, 400, len(content) - 70):
        with pytest.raises(ConfigurationError) as caught:
            images.from_compressed("jpeg", content[:length])
        refusals.add(str(caught.value))
    assert len(refusals) == 1


@pytest.mark.parametrize("words", ["", "16UC1; compressedDepth", "h264", "32FC1; compressedDepth png"])
def test_formats_that_are_not_images_are_refused(words: str) -> None:
    with pytest.raises(ConfigurationError, match="expected jpeg or png"):
        images.from_compressed(words, b"x" * 100)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*images.ENCODINGS, "mono16", ""]),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 200),
    st.binary(max_size=4000),
)
def test_any_message_gives_an_image_or_a_sentence(
    encoding: str, height: int, width: int, step: int, data: bytes
) -> None:
    try:
        found = images.from_raw(encoding, height, width, step, data)
    except ConfigurationError:
        return
    assert found.shape == (height, width, 3)
    assert found.dtype == np.uint8


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]), st.booleans())
def test_any_bytes_called_jpeg_give_an_image_or_a_sentence(body: bytes, head: bytes, ended: bool) -> None:
    with pytest.raises(ConfigurationError):
        images.from_compressed("jpeg", head + body + (b"\xff\xd9IEND" if ended else b""))


class _FakeBridge:
    """Answers as cv_bridge does, on messages without padding."""

    def imgmsg_to_cv2(self, message: types.SimpleNamespace, desired_encoding: str) -> np.ndarray:
        assert desired_encoding == "rgb8"
        channels = message.step // message.width
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, channels)
        code = {"bgr8": cv2.COLOR_BGR2RGB, "yuv422": cv2.COLOR_YUV2RGB_UYVY, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2}
        return cv2.cvtColor(pixels, code[message.encoding])


def test_cv_bridge_is_used_under_numpy_1_and_left_alone_under_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=_FakeBridge, __spec__=None))
    images.cv_bridge.cache_clear()
    try:
        monkeypatch.setattr(np, "__version__", "2.1.0")
        assert images.cv_bridge() is None
        images.cv_bridge.cache_clear()
        monkeypatch.setattr(np, "__version__", "1.26.4")
        assert isinstance(images.cv_bridge(), _FakeBridge)
        assert images.cv_bridge_status() == "cv_bridge"
        padded = np.hstack([RGB[..., ::-1].reshape(6, -1), np.zeros((6, 7), np.uint8)])
        np.testing.assert_array_equal(images.from_raw("bgr8", 6, 8, 31, padded.tobytes()), RGB)
        assert images.from_raw("yuyv", 6, 8, 16, bytes(96)).shape == (6, 8, 3)
    finally:
        images.cv_bridge.cache_clear()
