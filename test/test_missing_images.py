"""Tests of the search for bags that should hold images but do not."""

from __future__ import annotations

import pytest

from rlfp_ros.recording.missing_images import NO_IMAGES_S, MissingImages

CAMERA = ["/camera"]
NOTHING_PUBLISHES = "no images are recorded: nothing publishes /camera; start the camera, or set image_topic"


def recorded(seconds: float, images: int = 0) -> MissingImages:
    """Return what is known of a bag that has been recorded for some time, with so many images in it."""
    missing = MissingImages()
    missing.begin_bag("run")
    missing.message(100.0, is_image=False)
    for _ in range(images):
        missing.message(100.0, is_image=True)
    missing.message(100.0 + seconds, is_image=False)
    return missing


@pytest.mark.parametrize(
    ("published", "reason"),
    [([], NOTHING_PUBLISHES), (CAMERA, "no images are recorded: /camera is announced, but no message arrives")],
)
def test_a_bag_without_images_is_reported_once_with_its_reason(published: list[str], reason: str) -> None:
    missing = recorded(NO_IMAGES_S + 0.1)
    assert missing.look(CAMERA, published)
    assert missing.reason == reason
    assert not missing.look(CAMERA, published)
    assert missing.reason == reason
    missing.end_bag(CAMERA)
    assert missing.bags == {"run": reason}


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        (recorded(NO_IMAGES_S - 0.1), CAMERA),
        (recorded(NO_IMAGES_S + 0.1, images=1), CAMERA),
        (recorded(NO_IMAGES_S + 0.1), []),
    ],
    ids=["short", "with an image", "none expected"],
)
def test_a_bag_that_is_short_or_holds_or_needs_no_images_is_not_reported(
    missing: MissingImages, names: list[str]
) -> None:
    assert not missing.look(names, [])
    assert missing.reason == ""
    missing.end_bag(names)
    assert missing.bags == {}


def test_the_reason_goes_when_the_first_image_comes_and_each_bag_is_judged_by_itself() -> None:
    missing = recorded(NO_IMAGES_S + 0.1)
    missing.look(CAMERA, [])
    missing.message(104.0, is_image=True)
    assert not missing.look(CAMERA, CAMERA)
    assert missing.reason == ""
    missing.end_bag(CAMERA)
    missing.begin_bag("run_2")
    assert missing.images == 0
    missing.message(200.0, is_image=False)
    missing.message(201.0 + NO_IMAGES_S, is_image=False)
    missing.end_bag(CAMERA)
    assert missing.bags == {"run_2": "no images are recorded"}
