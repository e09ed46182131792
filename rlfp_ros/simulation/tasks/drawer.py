"""Drawer: pull a drawer open by its handle, with closed fingers. There is no teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from rlfp_ros.schema import ConfigurationError, Edge
from rlfp_ros.simulation.tasks.reward import closeness
from rlfp_ros.simulation.tasks.task import TASKS, Task
from rlfp_ros.simulation.tasks.task_scene import Plate, SceneBuilder, Slider, TaskScene, turned_by
from rlfp_ros.simulation.tasks.task_settings import Region, TaskSettings

if TYPE_CHECKING:
    from rlfp_ros.control.arm import Arm

TOOL_SHARE = 0.4  # of the reward, for a tool close to the gap behind the handle; the rest is for the opening
TOOL_NEAR = 0.05  # m, scale of the reward
IN_GAP = 0.015  # m, distance from the middle of the gap at which the tool is close enough
SUCCESS_REWARD = 5.0  # once
SPARE_TRAVEL = 0.03  # m that the drawer opens beyond `opening`
WALL, FRONT = 0.008, 0.012  # m, thickness of walls and of the drawer's front
SLACK = 0.004  # m, between drawer and housing
FOOT = 0.12  # m from the base frame along x, taken by the arm's foot
POST = 0.012  # m, edge of the two posts that carry the handle's bar


class DrawerSettings(TaskSettings):
    """`sim/tasks/drawer.yaml`."""

    block_size: tuple[Edge, Edge, Edge] = (0.016, 0.11, 0.024)  # m, of the handle's bar: thickness, width, height
    cabinet_size: tuple[Edge, Edge, Edge] = (0.20, 0.18, 0.075)  # m: depth, width, height
    handle_height: float = Field(default=0.042, gt=0, le=1)  # m, of the bar's middle above the table
    handle_gap: float = Field(default=0.045, gt=0, le=1)  # m, between the bar and the front, for the closed fingers
    region: Region = Region(lower=(0.44, -0.10), upper=(0.52, 0.10))  # of the bar's middle, closed
    largest_yaw: float = Field(default=0.3, ge=0, le=0.8)  # rad; at 0 the drawer opens along x, away from the arm
    opening: float = Field(default=0.15, gt=0, le=1)  # m
    handle_distance: float = Field(default=0.03, gt=0, le=1)  # m, from the tool to the gap's middle, while it counts

    def regions(self) -> dict[str, Region]:
        """Return the regions that the tool must be able to reach, by field or in words."""
        way = self.opening + SPARE_TRAVEL
        beside = way * math.sin(self.largest_yaw)
        (x_low, y_low), (x_high, y_high) = self.region.lower, self.region.upper
        pulled = Region(lower=(x_low, y_low - beside), upper=(x_high + way, y_high + beside))
        return {"region": self.region, "region with the drawer open": pulled}

    def scaled(self, scale: float) -> dict[str, Any]:
        """Return the opening for an arm of shorter reach."""
        return {"opening": scale * self.opening}


@TASKS.register("drawer")
class Drawer(Task):
    """Won if the drawer stays `opening` open for `hold`, to within `success_distance`, with the tool at the handle."""

    settings: DrawerSettings
    settings_schema = DrawerSettings
    starts_closed = True
    keypoints = ("object", "cabinet", "tool", "hand", "base")  # the object is the handle's bar
    objects = ("object", "cabinet")
    slider: Slider  # from `build` on

    def build(self, builder: SceneBuilder) -> None:
        """Create cabinet, drawer and handle. The frame of all three is at the middle of the closed handle's bar."""
        settings = self.settings
        (depth, width, height), bar = settings.cabinet_size, settings.block_size
        front = -bar[0] / 2 - settings.handle_gap  # x of the drawer's front
        bottom = -settings.handle_height  # z of the table
        rear, middle = front - depth, front - (depth + FRONT) / 2
        inside = depth - FRONT
        side, lid = width / 2 - WALL / 2, bottom + height - WALL / 2
        housing = [
            Plate((middle, 0.0, lid), (inside, width, WALL)),
            *(Plate((middle, y, bottom + height / 2), (inside, WALL, height)) for y in (-side, side)),
            Plate((rear + WALL / 2, 0.0, bottom + height / 2), (WALL, width, height)),
        ]
        low, high = bottom + SLACK, bottom + height - WALL - SLACK  # of the tray
        tray_rear, wall = rear + WALL + SLACK, width / 2 - WALL - SLACK
        length, centre = front - FRONT - tray_rear, (front - FRONT + tray_rear) / 2
        drawer = [
            Plate((front - FRONT / 2, 0.0, bottom + SLACK / 2 + height / 2), (FRONT, width, height - SLACK)),
            Plate((centre, 0.0, low + WALL / 2), (length, 2 * wall, WALL)),
            *(
                Plate((centre, y, (low + high) / 2), (length, WALL, high - low))
                for y in (-wall + WALL / 2, wall - WALL / 2)
            ),
            Plate((tray_rear + WALL / 2, 0.0, (low + high) / 2), (WALL, 2 * wall, high - low)),
        ]
        post = bar[1] / 2 - POST / 2
        handle = [
            Plate((0.0, 0.0, 0.0), bar),
            *(
                Plate((-(bar[0] + settings.handle_gap) / 2, y, 0.0), (settings.handle_gap, POST, POST))
                for y in (-post, post)
            ),
        ]
        self.slider = builder.add_slider(housing, drawer, handle, settings.opening + SPARE_TRAVEL)
        self.block = self.slider.handle
        self._gap = np.array([-(bar[0] + settings.handle_gap) / 2, 0.0, 0.0])  # middle of the gap in the handle's frame
        self._cabinet = np.array([rear + depth / 2, 0.0, bottom + height])  # middle of its top

    def fit_to(self, arm: Arm) -> None:
        """Use the settings for this arm. Raises ConfigurationError if the cabinet is out of reach or on the foot."""
        super().fit_to(arm)
        settings = self.settings
        (depth, width, _), yaw = settings.cabinet_size, settings.largest_yaw
        behind = settings.block_size[0] / 2 + settings.handle_gap + depth  # the handle, of the cabinet's rear
        nearest = settings.region.lower[0] - behind * math.cos(yaw) - width / 2 * math.sin(yaw)
        if nearest < FOOT:
            raise ConfigurationError(
                f"{self.source}: the cabinet's rear reaches x = {nearest:.2f} m, expected at least {FOOT} m, where the "
                f"foot of {arm.origin} ends; move region away from the arm, or make cabinet_size smaller"
            )

    def reset(self, builder: SceneBuilder, rng: np.random.Generator) -> None:
        """Put the closed cabinet somewhere, its front turned a little."""
        x, y = rng.uniform(self.settings.region.lower, self.settings.region.upper)
        yaw = rng.uniform(-self.settings.largest_yaw, self.settings.largest_yaw)
        builder.place(self.slider.housing, (x, y, self.settings.handle_height), yaw)
        builder.slide(self.slider, 0.0)

    def scatter(self, builder: SceneBuilder, scene: TaskScene, rng: np.random.Generator) -> None:
        """Open the drawer by any distance."""
        builder.slide(self.slider, rng.uniform(0.0, self.settings.opening + SPARE_TRAVEL))

    def keypoint(self, name: str, scene: TaskScene) -> np.ndarray:
        """Return the position [3] m, base frame, of one of `keypoints`; `cabinet` is the middle of its top."""
        if name != "cabinet":
            return super().keypoint(name, scene)
        return _point(self._cabinet, *scene.body_pose(self.slider.housing))

    @property
    def object_height(self) -> float:
        """Height of the handle's top above the table, m."""
        return self.settings.handle_height + self.settings.block_size[2] / 2

    def opened(self, scene: TaskScene) -> float:
        """Return how far the drawer is open, m."""
        closed, turned = scene.body_pose(self.slider.housing)
        return float((self.object_pose(scene)[0] - closed) @ turned_by(turned)[:, 0])

    def distance(self, scene: TaskScene) -> float:
        """Return how much of the opening is missing, m; more than `opening` counts as 0."""
        return max(0.0, self.settings.opening - self.opened(scene))

    def success(self, scene: TaskScene) -> bool:
        """Return whether the drawer is open and the tool is behind its handle, so that it was pulled there."""
        opened = self.distance(scene) < self.settings.success_distance
        return opened and self._from_gap(scene) < self.settings.handle_distance

    def reward(self, scene: TaskScene, success: bool) -> float:
        """Reward a tool that is close to the gap behind the handle, the opening, and success."""
        tool = closeness(self._from_gap(scene), TOOL_NEAR, IN_GAP)
        opened = min(max(self.opened(scene) / self.settings.opening, 0.0), 1.0)
        return TOOL_SHARE * tool + (1 - TOOL_SHARE) * opened - 1 + SUCCESS_REWARD * success

    def privileged_state(self, scene: TaskScene) -> np.ndarray:
        """Return the usual state of the handle, the way from tool to gap, the cabinet's pose and the opening, [28]."""
        way = self.gap(scene) - scene.tool_position()
        cabinet, turned = scene.body_pose(self.slider.housing)
        parts = [super().privileged_state(scene), way, cabinet, turned, [self.opened(scene)]]
        return np.concatenate(parts).astype(np.float32)

    def gap(self, scene: TaskScene) -> np.ndarray:
        """Return the middle of the gap between handle and front, [3] m, base frame: from there the tool can pull."""
        return _point(self._gap, *self.object_pose(scene))

    def _from_gap(self, scene: TaskScene) -> float:
        return math.dist(scene.tool_position(), self.gap(scene))


def _point(local: np.ndarray, position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Return a point [3] m of a body's frame in the base frame."""
    return position + turned_by(quaternion) @ local
