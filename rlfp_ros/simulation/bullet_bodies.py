"""The bodies of a task in PyBullet: blocks, markers and articulated objects."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlfp_ros.simulation.brick import brick
from rlfp_ros.simulation.cell_object import NOMINAL_MASS, ObjectMesh
from rlfp_ros.simulation.randomization import Sample
from rlfp_ros.simulation.scene_renderer import Part
from rlfp_ros.simulation.tasks.task_scene import Body, Hue, Plate, Slider, Vector, turned_by

FAR_AWAY = (0.0, 0.0, -5.0)  # m, place of unused bodies, behind the camera's far plane
DRAWER_MASS = 0.3  # kg, nominal, of a slider's moving part
HANDLE_MASS = 0.02  # kg
MARKER_THICKNESS = 0.002  # m
FIRST_LINK_BODY = 1 << 20  # numbers of links that count as bodies of their own; PyBullet's own numbers are below
CLEAR_STEP = 0.08  # m, between the points along an articulated object that decoration keeps away from


class BulletBodies:
    """Creates a task's bodies in one physics server, moves them, and answers queries.

    Parameters
    ----------
    client
        The physics server's client.
    mesh
        The shape of the blocks that have the object's colour; None for boxes.
    mass
        Nominal mass of a block, kg.

    Attributes
    ----------
    blocks, markers
        Bodies, in the order of their creation.
    hues
        The part and the kind of colour of every body that has one.
    """

    def __init__(self, client: Any, mesh: ObjectMesh | None = None, mass: float = NOMINAL_MASS) -> None:
        self._client, self._mesh, self._mass = client, mesh, mass
        self.blocks: list[Body] = []
        self.markers: list[Body] = []
        self.hues: dict[Part, Hue] = {}
        self._sliders: dict[Slider, tuple[float, float]] = {}  # with the ends on its x axis, rear and open handle, m
        self._links: dict[Body, Part] = {}  # bodies that are links of another one

    @property
    def all(self) -> tuple[Body, ...]:
        """All bodies."""
        parts = [body for slider in self._sliders for body in (slider.housing, slider.drawer, slider.handle)]
        return (*self.blocks, *self.markers, *parts)

    @property
    def still(self) -> list[Part]:
        """Parts that do not move within an episode."""
        return [(body, -1) for body in (*self.markers, *(slider.housing for slider in self._sliders))]

    def add_block(self, size: Vector, studs: bool, hue: Hue) -> Body:
        """Add a free box; `studs` makes it look like a LEGO brick, but its collision shape stays the box."""
        client, half = self._client, [extent / 2 for extent in size]
        if self._mesh is not None and hue is Hue.OBJECT:
            visual, collision = self._mesh_shape(self._mesh, "Visual"), self._mesh_shape(self._mesh, "Collision")
        elif studs:
            vertices, normals = brick(size)
            visual = client.createVisualShape(
                client.GEOM_MESH,
                vertices=vertices.tolist(),
                indices=list(range(len(vertices))),
                normals=normals.tolist(),
                uvs=[[0.0, 0.0]] * len(vertices),
            )
        else:
            visual = client.createVisualShape(client.GEOM_BOX, halfExtents=half)
        if self._mesh is None or hue is not Hue.OBJECT:
            collision = client.createCollisionShape(client.GEOM_BOX, halfExtents=half)
        body: Body = client.createMultiBody(self._mass, collision, visual, basePosition=FAR_AWAY)
        self.blocks.append(body)
        self.hues[body, -1] = hue
        return body

    def _mesh_shape(self, mesh: ObjectMesh, kind: Literal["Visual", "Collision"]) -> int:
        """Create a shape of the object's mesh; the collision shape is its convex hull."""
        client = self._client
        create = client.createVisualShape if kind == "Visual" else client.createCollisionShape
        middle = [-mesh.scale * value for value in mesh.middle]
        place = {f"{kind.lower()}FramePosition": middle}
        shape: int = create(client.GEOM_MESH, fileName=str(mesh.file), meshScale=[mesh.scale] * 3, **place)
        return shape

    def add_marker(self, radius: float) -> Body:
        """Add a flat disc without collision."""
        shape = self._client.createVisualShape(self._client.GEOM_CYLINDER, radius=radius, length=MARKER_THICKNESS)
        marker: Body = self._client.createMultiBody(0, -1, shape, basePosition=FAR_AWAY)
        self.markers.append(marker)
        return marker

    def add_slider(
        self, housing: Sequence[Plate], drawer: Sequence[Plate], handle: Sequence[Plate], travel: float
    ) -> Slider:
        """Add an articulated object; PyBullet enforces the limits of a joint only if it comes from a URDF."""
        client = self._client
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "slider.urdf"
            path.write_bytes(ElementTree.tostring(_slider_urdf(housing, drawer, handle, travel)))
            body: Body = client.loadURDF(str(path), FAR_AWAY, useFixedBase=True, flags=client.URDF_MAINTAIN_LINK_ORDER)
        links = [FIRST_LINK_BODY + len(self._links) + link for link in range(2)]
        slider = Slider(body, *links)
        self._links.update({links[0]: (body, 0), links[1]: (body, 1)})
        self.hues |= {(body, -1): Hue.OTHER, (body, 0): Hue.OTHER, (body, 1): Hue.OBJECT}
        rear = min(plate.middle[0] - plate.size[0] / 2 for plate in housing)
        self._sliders[slider] = rear, travel
        return slider

    def place(self, body: Body, position: Vector, yaw: float) -> None:
        """Move a body to a position in the base frame, at rest."""
        orientation = (0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2)))
        self._client.resetBasePositionAndOrientation(body, position, orientation)
        self._client.resetBaseVelocity(body, (0, 0, 0), (0, 0, 0))

    def slide(self, slider: Slider, opening: float) -> None:
        """Open a slider within its limits, at rest."""
        opening = min(max(opening, 0.0), self._sliders[slider][1])
        self._client.resetJointState(*self._links[slider.drawer], opening, 0.0)

    def part(self, body: Body) -> Part:
        """Return PyBullet's number of a body and of its link, -1 for a base."""
        return self._links.get(body, (body, -1))

    def pose(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3] m and quaternion xyzw [4], base frame."""
        if body in self._links:
            position, orientation = self._client.getLinkState(*self._links[body], computeForwardKinematics=1)[4:6]
        else:
            position, orientation = self._client.getBasePositionAndOrientation(body)
        return np.array(position), np.array(orientation)

    def contacts(self, body: Body, arm: Body) -> np.ndarray:
        """Return the points [N, 3] m, base frame, at which the arm touches a body."""
        owner, link = self.part(body)
        found = self._client.getContactPoints(arm, owner, linkIndexB=link)
        return np.array([contact[5] for contact in found], dtype=float).reshape(-1, 3)

    def set_dynamics(self, drawn: Sample) -> None:
        """Apply an episode's masses and friction."""
        client, friction = self._client, drawn["object_friction"]
        for block in self.blocks:
            client.changeDynamics(block, -1, mass=self._mass * drawn["object_mass"], lateralFriction=friction)
        for slider in self._sliders:
            body, joint = self._links[slider.drawer]
            client.changeDynamics(
                body,
                joint,
                mass=DRAWER_MASS * drawn["object_mass"],
                lateralFriction=friction,
                jointDamping=drawn["slider_damping"],
            )
            client.changeDynamics(*self._links[slider.handle], lateralFriction=friction)
            # A motor that wants no speed is dry friction: it resists up to its largest force.
            client.setJointMotorControl2(
                body, joint, client.VELOCITY_CONTROL, targetVelocity=0.0, force=drawn["slider_friction"]
            )

    def clear_points(self) -> list[np.ndarray]:
        """Return points [3] m that decoration keeps away from, so that it never hides an object."""
        points = [self.pose(block)[0] for block in self.blocks]
        for slider, (rear, travel) in self._sliders.items():
            position, quaternion = self.pose(slider.housing)
            points += points_along(position, quaternion, rear, travel)
        return points


def points_along(position: np.ndarray, quaternion: np.ndarray, rear: float, travel: float) -> list[np.ndarray]:
    """Return points [3] m, base frame, along an articulated object's axis, from its rear to its open handle.

    Parameters
    ----------
    position, quaternion
        Pose of the housing, [3] m and xyzw [4], turned about the vertical only.
    rear, travel
        The ends on its x axis, m.
    """
    axis = turned_by(quaternion)[:, 0]
    count = 1 + int(np.ceil((travel - rear) / CLEAR_STEP))
    return [position + along * axis for along in np.linspace(rear, travel, count)]


def _slider_urdf(
    housing: Sequence[Plate], drawer: Sequence[Plate], handle: Sequence[Plate], travel: float
) -> ElementTree.Element:
    root = ElementTree.Element("robot", name="slider")
    links = (("housing", housing, 1.0), ("drawer", drawer, DRAWER_MASS), ("handle", handle, HANDLE_MASS))
    for name, plates, mass in links:
        link = ElementTree.SubElement(root, "link", name=name)
        inertial = ElementTree.SubElement(link, "inertial")
        ElementTree.SubElement(inertial, "mass", value=str(mass))
        moments = dict.fromkeys(("ixx", "iyy", "izz"), "0.001") | dict.fromkeys(("ixy", "ixz", "iyz"), "0")
        ElementTree.SubElement(inertial, "inertia", moments)
        for plate in plates:
            for kind in ("visual", "collision"):
                shape = ElementTree.SubElement(link, kind)
                ElementTree.SubElement(shape, "origin", xyz=_numbers(plate.middle), rpy="0 0 0")
                geometry = ElementTree.SubElement(shape, "geometry")
                ElementTree.SubElement(geometry, "box", size=_numbers(plate.size))
    joint = ElementTree.SubElement(root, "joint", name="slide", type="prismatic")
    ElementTree.SubElement(joint, "parent", link="housing")
    ElementTree.SubElement(joint, "child", link="drawer")
    ElementTree.SubElement(joint, "axis", xyz="1 0 0")
    ElementTree.SubElement(joint, "limit", lower="0", upper=str(travel), effort="1000", velocity="10")
    fixed = ElementTree.SubElement(root, "joint", name="grip", type="fixed")
    ElementTree.SubElement(fixed, "parent", link="drawer")
    ElementTree.SubElement(fixed, "child", link="handle")
    return root


def _numbers(vector: Vector) -> str:
    return " ".join(f"{value:.6g}" for value in vector)
