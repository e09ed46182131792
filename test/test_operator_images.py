"""Tests of the images on the operator's page, of what is drawn into them, and of clicks as goals."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_robot import CAMERA, seen_image

from rlfp_ros.control.arm import load_arm
from rlfp_ros.operator.clicked_goal import goal_of_click
from rlfp_ros.operator.seen_image import LENGTH
from rlfp_ros.schema import ConfigurationError


def test_message_has_the_image_and_its_lines_in_pixels() -> None:
    covariance = np.diag([4e-4, 1e-4, 1e-4])
    features = np.array([[0.0, 0.0, 0.5], [0.1, -0.2, 1.5], [np.nan, 0.0, 1.0]], np.float32)
    image = seen_image(
        features=features,
        object_position=np.array([0.5, 0.0, 0.0]),
        object_covariance=covariance,
        goal=np.array([0.4, 0.1, 0.0]),
        tool=np.array([0.5, 0.0, 0.0]),
        residual=np.array([0.0, 0.2, 0.0]),
        domain_shift=0.25,
    )
    data = image.message(now_s=0.1)
    (length,) = LENGTH.unpack_from(data)
    header = json.loads(data[4 : 4 + length])
    image_drawn = cv2.imdecode(np.frombuffer(data[4 + length :], np.uint8), cv2.IMREAD_COLOR)
    assert image_drawn is not None
    assert image_drawn.shape == (48, 64, 3)
    assert np.abs(image_drawn.mean(axis=(0, 1)) - (30, 40, 200)).max() < 4  # OpenCV's order is BGR
    assert header["age_ms"] == 120.0
    assert header["shift"] == 0.25
    assert header["points"] == [[31.5, 23.5, 0.5], [37.5, 11.5, 1.0]]
    u, v, a, b, angle = header["object"]
    assert (u, v) == (31.5, 23.5)
    assert a == pytest.approx(2 * 60 * 0.02, rel=1e-2)
    assert b == pytest.approx(2 * 60 * 0.01, rel=1e-2)
    assert abs(math.sin(angle)) == pytest.approx(1.0, abs=1e-3)  # x of the base is down in the image
    assert header["goal"] == pytest.approx([25.5, 29.5])  # y to the left, x up
    assert header["tool"] == [31.5, 23.5]
    assert header["residual"] == pytest.approx([25.5, 23.5])  # 0.2 m/s for half a second


def test_jpeg_of_the_camera_is_passed_on_as_it_is() -> None:
    assert replace(seen_image(), image=b"\xff\xd8 a camera's own").jpeg() == b"\xff\xd8 a camera's own"


# --- click to goal ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.floats(0.36, 0.6), st.floats(-0.2, 0.2))
def test_a_click_on_the_pixel_of_a_point_of_the_table_gives_that_point(x: float, y: float) -> None:
    lens = replace(CAMERA, distortion=np.array([-0.2, 0.05, 0.001, 0.002, 0.0]))
    image = replace(seen_image(), camera=lens)
    pixel = image.pixel(np.array([x, y, 0.0]))
    assert pixel is not None
    goal = goal_of_click(pixel[0], pixel[1], image, load_arm("panda"), height_m=0.02)
    assert goal == pytest.approx([x, y, 0.02], abs=1e-3)


def test_clicks_without_a_point_of_the_workspace_are_refused_in_one_sentence() -> None:
    arm, image = load_arm("panda"), seen_image()
    with pytest.raises(ConfigurationError, match=r"outside the workspace: y is -0\.\d+ m, expected"):
        goal_of_click(
            63,
            23.5,
            image,
            arm.model_copy(update={"tool_limits": arm.tool_limits.model_copy(update={"lower": (0.1, -0.2, 0.0)})}),
        )
    with pytest.raises(ConfigurationError, match="outside the image"):
        goal_of_click(64, 10, image, arm)
    level = replace(image, T_base_camera=np.eye(4))  # looks up
    with pytest.raises(ConfigurationError, match="does not show the table"):
        goal_of_click(31.5, 23.5, level, arm)
    with pytest.raises(ConfigurationError, match="has no table"):
        goal_of_click(31.5, 23.5, image, arm.model_copy(update={"table_height": None}))
