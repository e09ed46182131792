"""Draws a PyBullet scene through a camera without its invisible parts.

TinyRenderer also spends time on hidden parts and on parts outside the image, and most of it on the table. Unless there
are shadows, still parts are therefore drawn once per episode, and links outside the image are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlfp_ros.simulation.camera import Camera
from rlfp_ros.simulation.tasks.task_scene import Body

UNSEEN = (0, 0, 0, 0)  # TinyRenderer skips bodies with alpha 0; moving them away would not save time

Part = tuple[Body, int]  # a body's link; -1 is its base
Colour = tuple[float, float, float]  # rgb, 0..1


class SceneRenderer:
    """Keeps the parts of a scene and their colours, and draws the visible ones.

    Parameters
    ----------
    client
        The physics server's client.
    camera
        The camera that sees the scene.
    arm
        The arm's body.
    cullable
        Links of the arm whose bounding boxes enclose their visual shapes.
    """

    def __init__(self, client: Any, camera: Camera, arm: Body, cullable: Sequence[int]) -> None:
        self._client, self._camera, self._arm, self._cullable = client, camera, arm, cullable
        self._colours: dict[Part, Colour | None] = {}  # None for a hidden part
        self._still: set[Part] = set()
        self._links_shown = [True] * len(cullable)
        self._backdrop_kept = False

    @property
    def colours(self) -> dict[Part, Colour | None]:
        """The colour of every part in this episode, or None for a hidden one."""
        return dict(self._colours)

    def stand_still(self, parts: Iterable[Part]) -> None:
        """Declare parts that do not move within an episode."""
        self._still.update(parts)

    def paint(self, body: Body, link: int, colour: Colour | None) -> None:
        """Give a part its colour for the episode; None hides it."""
        self._colours[body, link] = colour
        self._show(body, link, True)

    def forget_backdrop(self) -> None:
        """Redraw the still parts before the next image, because an episode began or a still part was moved."""
        self._backdrop_kept = False

    def render(self) -> np.ndarray:
        """Return the scene through the lens, uint8 [H, W, 3]."""
        if not self._camera.casts_shadows:
            if not self._backdrop_kept:
                self._keep_backdrop()
            visible = self._camera.sees(np.array([self._client.getAABB(self._arm, link) for link in self._cullable]))
            for index, link in enumerate(self._cullable):
                if visible[index] != self._links_shown[index]:
                    self._show(self._arm, link, visible[index])
            self._links_shown = visible
        return self._camera.render(self._client)

    def _show(self, body: Body, link: int, visible: bool) -> None:
        colour = self._colours[body, link]
        rgba = (*colour, 1) if visible and colour is not None else UNSEEN
        self._client.changeVisualShape(body, link, rgbaColor=rgba)

    def _keep_backdrop(self) -> None:
        for body, link in self._colours:
            self._show(body, link, (body, link) in self._still)
        self._camera.keep(self._client)
        for body, link in self._colours:
            self._show(body, link, (body, link) not in self._still)
        self._links_shown = [True] * len(self._cullable)
        self._backdrop_kept = True
