"""The appearance of an episode in PyBullet: colours, textures, photographs, and bodies without collision shapes.

Distractors, occluders and household objects are only visible.
"""

from __future__ import annotations

import colorsys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pybullet_data

from rlfp_ros.simulation.bullet_bodies import FAR_AWAY, BulletBodies
from rlfp_ros.simulation.cell_object import hue_offset
from rlfp_ros.simulation.randomization import OBJECTS, OTHERS, Profile, Sample, stream
from rlfp_ros.simulation.scene import Scene
from rlfp_ros.simulation.scene_renderer import Colour, SceneRenderer
from rlfp_ros.simulation.tasks.task_scene import Body, Hue
from rlfp_ros.simulation.textures import photograph_set, texture_set

TEXTURES = 48  # loaded once, because loadTexture leaks 1.5 MB per call
PHOTOGRAPHS = 24  # likewise
UPRIGHT = (0, 0, 0, 1)  # quaternion xyzw
DISTRACTOR_HUES = (0.12, 0.88)  # range on the colour circle from the hue of the task's object, which it excludes
OTHER_SHADES = (1.0, 0.55)  # factors of the value of other objects, so that two of the same hue differ
PLAIN_TABLE = (0.55, 0.52, 0.48)  # rgb, 0..1
UNPAINTED = (1.0, 1.0, 1.0)  # rgb, 0..1; shows a texture as it is
PLAIN_BACKGROUND = 200  # grey, 0..255
DISTRACTOR_REGION = ((0.15, -0.45), (0.85, 0.45))  # m, base frame
DISTRACTOR_HEIGHT = 0.03  # m, of a distractor's middle
DISTRACTOR_SWING = 0.04  # m, amplitude of a moving distractor
DISTRACTOR_CLEARANCE = 0.11  # m, from the task's objects: the amplitude and half of the largest distractor
MARKER_COLOUR = (0.05, 0.75, 0.25)  # rgb, 0..1; the same in every episode, because it shows the policy the goal
OCCLUDERS = 3
OCCLUDER_HALF_SIZE = (0.008, 0.008, 0.25)  # m
OCCLUDER_DEPTH = (0.3, 0.6)  # share of the distance from the camera to the point that it looks at
OCCLUDER_OFFSET = 0.12  # m to any side of that line
HOUSEHOLD = 6  # random objects of pybullet_data that a world loads; each adds 0.1 ms per image
HOUSEHOLD_SIZE = 0.035  # m, half of the longest extent
RANDOM_OBJECTS = 1000  # in pybullet_data; even numbers for training, odd ones for validation


class Dressing:
    """The decoration of one world, created once and arranged for each episode.

    Parameters
    ----------
    client
        The physics server's client.
    renderer
        The renderer that gets the colours.
    profile
        Its parameters decide which kinds of decoration are created.
    scene
        The table and the camera.
    texture_pool
        Selects the `TEXTURES` textures of the profile's set that are loaded.
    """

    def __init__(
        self, client: Any, renderer: SceneRenderer, profile: Profile, scene: Scene, texture_pool: int = 0
    ) -> None:
        self._client, self._renderer, self._scene = client, renderer, scene
        self._hue_offset = hue_offset(scene)
        held_out = profile.textures == "validation"  # objects and photographs that training never shows
        self._distractors = [self._distractor(index) for index in range(OBJECTS)]
        self._occluders = [self._occluder() for _ in range(OCCLUDERS)] if "occluders" in profile.ranges else []
        self.household = self._random_objects(held_out) if "household" in profile.ranges else []
        images = [] if profile.textures == "plain" else texture_set(profile.textures, TEXTURES, TEXTURES * texture_pool)
        self._images, self._textures = images, self._load_textures(images)
        photographed = "photographs" in profile.ranges
        self.photographs = photograph_set("validation" if held_out else "train", PHOTOGRAPHS) if photographed else []
        self._photograph_textures = self._load_textures(self.photographs)
        self._motion: list[tuple[Body, np.ndarray, np.ndarray, float]] = []  # body, middle, swing, rad/s
        renderer.stand_still((body, -1) for body in (*self._occluders, *self.household))

    def arrange(
        self,
        sample: Sample,
        arm: tuple[Body, Sequence[int]],
        table: Body,
        bodies: BulletBodies,
        obstacles: Sequence[Body] = (),
    ) -> None:
        """Paint and place everything for an episode.

        Parameters
        ----------
        sample
            The episode's sample.
        arm
            The arm's body and its links.
        table
            Its body.
        bodies
            Those of the task, which no distractor may hide.
        obstacles
            The bodies of the cell's obstacles.
        """
        client, paint = self._client, self._renderer.paint
        rng = stream(sample.seed, "appearance")
        self._paint_objects(sample, bodies)
        for marker in bodies.markers:
            paint(marker, -1, MARKER_COLOUR)
        tint, value = sample["arm_tint"], sample["arm_value"]
        arm_hue = rng.uniform()
        body, links = arm
        clear_of = bodies.clear_points()
        for link in links:
            shade = colorsys.hsv_to_rgb(arm_hue, tint, value * rng.uniform(0.6, 1.0))
            if sample.textures == "plain":
                shade = (value, value, value)
            paint(body, link, shade)
        if self._textures:
            self._cover(table, self._textures[int(rng.integers(len(self._textures)))])
        else:
            client.changeVisualShape(table, -1, textureUniqueId=-1)  # the last episode may have left a photograph
            paint(table, -1, PLAIN_TABLE)
        self._place_distractors(sample, rng, clear_of)
        self._hang_occluders(sample)
        self._lay_out_household(sample, clear_of)
        rng = stream(sample.seed, "obstacles")
        for obstacle in obstacles:
            paint(obstacle, -1, self._any_colour(rng, darkest=0.2) if self._textures else PLAIN_TABLE)
        rng = stream(sample.seed, "photographs")
        if rng.uniform() < sample["photographs"]:
            self._cover(table, self._photograph_textures[int(rng.integers(PHOTOGRAPHS))])

    def move(self, elapsed_s: float) -> None:
        """Put the moving distractors where they are this long after the episode's start."""
        for body, middle, swing, rate in self._motion:
            position = middle + swing * np.sin(rate * elapsed_s)
            self._client.resetBasePositionAndOrientation(body, position.tolist(), UPRIGHT)

    def background(self, sample: Sample, shape: tuple[int, int]) -> np.ndarray:
        """Return the background behind table and arm, a random part of a texture, uint8 [H, W, 3].

        Parameters
        ----------
        sample
            The episode's sample.
        shape
            Height and width, pixels.
        """
        rng = stream(sample.seed, "background")
        images = self._images
        if stream(sample.seed, "photographed background").uniform() < sample["photographs"]:
            images = self.photographs
        if not images:
            return np.full((*shape, 3), PLAIN_BACKGROUND, np.uint8)
        image = images[int(rng.integers(len(images)))]
        size = int(rng.integers(len(image) // 4, len(image) + 1))
        x, y = rng.integers(0, len(image) - size + 1, 2)
        cut = cv2.resize(image[y : y + size, x : x + size], shape[::-1], interpolation=cv2.INTER_LINEAR)
        return (cut * rng.uniform(0.4, 1.0)).astype(np.uint8)

    # --- creating ---------------------------------------------------------------------------------------------------

    def _distractor(self, index: int) -> Body:
        size = 0.02 + 0.006 * index  # m
        client = self._client
        shape = (
            client.createVisualShape(client.GEOM_SPHERE, radius=size),
            client.createVisualShape(client.GEOM_BOX, halfExtents=[size, size * 1.6, size * 0.7]),
            client.createVisualShape(client.GEOM_CYLINDER, radius=size, length=3 * size),
        )[index % 3]
        return client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY)

    def _occluder(self) -> Body:
        client = self._client
        shape = client.createVisualShape(client.GEOM_BOX, halfExtents=OCCLUDER_HALF_SIZE)
        return client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY)

    def _random_objects(self, held_out: bool) -> list[Body]:
        client, bodies = self._client, []
        folder = Path(pybullet_data.getDataPath()) / "random_urdfs"
        for index in range(HOUSEHOLD):
            number = (2 * 83 * index) % RANDOM_OBJECTS + held_out
            mesh = folder / f"{number:03d}" / f"{number:03d}.obj"
            corners = np.array(
                [line.split()[1:4] for line in mesh.read_text().splitlines() if line.startswith("v ")], float
            )
            scale = 2 * HOUSEHOLD_SIZE / np.ptp(corners, axis=0).max()
            middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
            shape = client.createVisualShape(
                client.GEOM_MESH,
                fileName=str(mesh),
                meshScale=[scale] * 3,
                visualFramePosition=(-scale * middle).tolist(),
            )
            bodies.append(client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY))
        return bodies

    def _load_textures(self, images: list[np.ndarray]) -> list[int]:
        identifiers = []
        with tempfile.TemporaryDirectory() as folder:
            for index, image in enumerate(images):
                path = Path(folder) / f"{index}.png"
                cv2.imwrite(str(path), image[..., ::-1])
                identifiers.append(self._client.loadTexture(str(path)))
        return identifiers

    # --- an episode -------------------------------------------------------------------------------------------------

    def _paint_objects(self, sample: Sample, bodies: BulletBodies) -> None:
        others = 0
        for (body, link), hue in bodies.hues.items():
            if hue is Hue.OBJECT:
                colour = _colour(sample["block_hue"], sample["block_saturation"], sample["block_value"])
            else:
                drawn = [sample[name][others % OTHERS] for name in ("other_hue", "other_saturation", "other_value")]
                hue_deg = drawn[0] + 360 * self._hue_offset
                colour = _colour(hue_deg, drawn[1], drawn[2] * OTHER_SHADES[others % len(OTHER_SHADES)])
                others += 1
            self._renderer.paint(body, link, colour)

    def _cover(self, table: Body, texture: int) -> None:
        self._client.changeVisualShape(table, -1, textureUniqueId=texture)
        self._renderer.paint(table, -1, UNPAINTED)

    def _hide(self, body: Body) -> None:
        self._client.resetBasePositionAndOrientation(body, FAR_AWAY, UPRIGHT)
        self._renderer.paint(body, -1, None)

    def _place_distractors(self, sample: Sample, rng: np.random.Generator, clear_of: list[np.ndarray]) -> None:
        self._motion = []
        for place, index in enumerate(rng.permutation(OBJECTS)):
            body = self._distractors[index]
            if place >= sample["distractors"]:
                self._hide(body)
                continue
            self._renderer.paint(body, -1, self._any_colour(rng, darkest=0.2))
            direction = rng.uniform(0, 2 * np.pi)
            swing = DISTRACTOR_SWING * np.array([np.cos(direction), np.sin(direction), 0.0])
            rate = sample["distractor_speed"][place] / DISTRACTOR_SWING  # rad/s
            self._motion.append((body, _free_place(rng, clear_of), swing, rate))

    def _hang_occluders(self, sample: Sample) -> None:
        """Place bars between camera and table."""
        camera = self._scene.camera
        rng = stream(sample.seed, "occluders")
        for index, body in enumerate(self._occluders):
            if index >= sample["occluders"]:
                self._hide(body)
                continue
            between = np.array(camera.position) + rng.uniform(*OCCLUDER_DEPTH) * np.subtract(
                camera.target, camera.position
            )
            turned = rng.standard_normal(4)
            place = between + rng.uniform(-OCCLUDER_OFFSET, OCCLUDER_OFFSET, 3)
            self._client.resetBasePositionAndOrientation(body, place, turned / np.linalg.norm(turned))
            self._renderer.paint(body, -1, self._any_colour(rng, darkest=0.1))

    def _lay_out_household(self, sample: Sample, clear_of: list[np.ndarray]) -> None:
        """Place still objects on the table."""
        rng = stream(sample.seed, "household")
        for place, index in enumerate(rng.permutation(len(self.household))):
            body = self.household[index]
            if place >= sample["household"]:
                self._hide(body)
                continue
            yaw = rng.uniform(-np.pi, np.pi)
            turned = (0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))
            self._client.resetBasePositionAndOrientation(body, _free_place(rng, clear_of).tolist(), turned)
            self._renderer.paint(body, -1, self._any_colour(rng, darkest=0.2))

    def _any_colour(self, rng: np.random.Generator, darkest: float) -> Colour:
        """Return a random colour that is not the object's."""
        hue = (rng.uniform(*DISTRACTOR_HUES) + self._hue_offset) % 1
        return colorsys.hsv_to_rgb(hue, rng.uniform(0, 1), rng.uniform(darkest, 1))


def _colour(hue_deg: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb((hue_deg / 360) % 1, saturation, value)


def _free_place(rng: np.random.Generator, clear_of: list[np.ndarray]) -> np.ndarray:
    """Return a position on the table, [3] m, where a distractor never hides the task's objects."""
    while True:
        place = rng.uniform(DISTRACTOR_REGION[0], DISTRACTOR_REGION[1])
        if all(np.linalg.norm(place - point[:2]) > DISTRACTOR_CLEARANCE for point in clear_of):
            return np.array([*place, DISTRACTOR_HEIGHT])
