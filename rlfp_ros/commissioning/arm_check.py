"""`rlfp arm check`: checks that an arm's file, its URDF and the tasks fit together; prints a table, draws an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
import pinocchio as pin
from rich.console import Console
from rich.table import Table

from rlfp_ros.commissioning.capsules import link_triangles
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import LINK, Kinematics
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.images import write_image
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer
from rlfp_ros.simulation.arm_settings import fit_settings
from rlfp_ros.simulation.scene import SceneCamera, load_scene
from rlfp_ros.simulation.tasks.task import TASKS, load_task

TURNS = 2.0  # a joint whose range is longer than this many turns is reported
FASTEST = 15.0  # rad/s; a higher limit is probably in degrees
TILTED, WRONG_WAY = np.radians(3.0), np.radians(45.0)  # angle of the tool at home from straight down: warning, error
NEAR = 0.03  # m; a smaller spare distance at home gives a warning
MANY_TRIANGLES = 50_000  # in the collision meshes; with more, an image of 84 px takes TinyRenderer 12 ms or longer
REACHED_M, REACHED_RAD = 0.001, 0.01  # accuracy that inverse kinematics must achieve
STEPS = 200  # iterations of the inverse kinematics
SUGGESTION_STARTS = 20  # random postures from which a home is searched for
IMAGE_PX = 480  # edge of the drawn image


class Severity(Enum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class ArmFinding:
    """One line of the table."""

    part: str
    level: Severity
    text: str


def check(arm: Arm) -> Iterator[ArmFinding]:
    """Check an arm without moving anything; ends after an error that makes the other checks impossible."""
    try:
        kinematics = Kinematics(arm)
    except ConfigurationError as error:
        yield ArmFinding("joints", Severity.ERROR, str(error))
        return
    count = f"{len(arm.joint_names)} joints, {arm.base_frame} to {arm.tool_frame}"
    yield ArmFinding("joints", Severity.OK, f"{count}, all in {arm.urdf_path.name}")
    yield from _limits(arm, kinematics)
    yield from _home(arm, kinematics)
    yield from _capsules(arm)
    yield from _distances(arm, kinematics)
    yield from _gripper(arm)
    for name in TASKS:
        yield _task(arm, kinematics, name)
    unknown = [name for name in arm.tasks if name not in TASKS]
    if unknown:
        yield ArmFinding(
            "tasks", Severity.ERROR, f"tasks has {unknown[0]!r}, expected names out of: {', '.join(TASKS)}"
        )


def concerns(arm: Arm) -> list[str]:
    """List warnings about an arm, in sentences, for a person who is about to train or move it."""
    try:
        kinematics = Kinematics(arm)
    except ConfigurationError:
        return []  # the command itself reports this error
    found = [*_limits(arm, kinematics), *_home(arm, kinematics)]
    if not arm.capsules:
        found.append(_no_capsules())
    return [f"{arm.origin}: {finding.part}: {finding.text}" for finding in found if finding.level is not Severity.OK]


def _limits(arm: Arm, kinematics: Kinematics) -> Iterator[ArmFinding]:
    found = []
    limits, model = arm.limits, kinematics.model
    order = range(len(arm.joint_names)) if kinematics.order is None else kinematics.order
    for number, (joint, place) in enumerate(zip(arm.joint_names, order, strict=True)):
        low, high = limits.lower[number], limits.upper[number]
        turns = (high - low) / (2 * np.pi)
        if turns > TURNS + 1e-3:
            found.append(
                f"{joint} may turn from {low:g} to {high:g} rad, {turns:.1f} turns: a cable or hose winds up; set "
                "lower and upper to what it bears"
            )
        least, most = float(model.lowerPositionLimit[place]), float(model.upperPositionLimit[place])
        if least < most and (low < least - 1e-3 or high > most + 1e-3):
            found.append(
                f"{joint} may go from {low:g} to {high:g} rad, but {arm.urdf_path.name} allows {least:g} to {most:g}"
            )
        if limits.velocity[number] > FASTEST:
            found.append(f"velocity of {joint} is {limits.velocity[number]:g} rad/s; is it in degrees?")
        longest = limits.velocity[number] / limits.acceleration[number]
        if longest > 3.0:
            found.append(f"{joint} needs {longest:.1f} s to its velocity; is acceleration in rad/s^2?")
    yield from (ArmFinding("limits", Severity.WARNING, text) for text in found)
    if not found:
        yield ArmFinding("limits", Severity.OK, f"inside those of {arm.urdf_path.name}; source: {limits.source[:70]}")


def _home(arm: Arm, kinematics: Kinematics) -> Iterator[ArmFinding]:
    pose = kinematics.forward(np.array(arm.home))
    tilt = float(np.arccos(np.clip(-pose[2, 2], -1, 1)))
    place = ", ".join(f"{value:.3f}" for value in pose[:3, 3])
    if tilt > TILTED:
        degrees = np.degrees(tilt)
        advice = (
            "the z axis of tool_frame must point out of the gripper or along the rod: correct tool_frame, "
            "pointer.direction or home"
            if tilt > WRONG_WAY
            else "tasks keep the direction that it has at home: correct home, unless this is meant"
        )
        level = Severity.ERROR if tilt > WRONG_WAY else Severity.WARNING
        text = f"the tool points {degrees:.0f} degrees away from straight down; {advice}"
        yield ArmFinding("home", level, text + (_suggested_home(arm, kinematics) if level is Severity.ERROR else ""))
    outside = [
        f"{axis} = {value:.3f} m, outside {low:g} to {high:g} m"
        for axis, value, low, high in zip("xyz", pose[:3, 3], arm.tool_limits.lower, arm.tool_limits.upper, strict=True)
        if not low < value < high
    ]
    if outside:
        text = f"the tool is at {outside[0]}; correct home or tool_limits"
        yield ArmFinding("home", Severity.ERROR, text + ("" if tilt > WRONG_WAY else _suggested_home(arm, kinematics)))
    smallest = float(np.linalg.svd(kinematics.jacobian(np.array(arm.home)), compute_uv=False)[-1])
    if len(arm.home) >= 6 and smallest < 0.02:
        yield ArmFinding(
            "home", Severity.WARNING, f"near a singularity (smallest singular value {smallest:.3f}); bend the arm"
        )
    away = np.array(arm.home) + 0.1 * np.where(np.arange(len(arm.home)) % 2, 1, -1)
    if not _reaches(arm, kinematics, pose[:3, 3], pose[:3, 2], away):
        yield ArmFinding(
            "home", Severity.WARNING, "inverse kinematics does not find back to it from 0.1 rad away; bend the arm"
        )
    elif tilt <= TILTED and not outside:
        yield ArmFinding("home", Severity.OK, f"tool at ({place}) m, straight down; inverse kinematics finds it")


def _suggested_home(arm: Arm, kinematics: Kinematics) -> str:
    """Return a posture, in words, whose tool points straight down in the middle of the tool box."""
    middle = 0.5 * (np.array(arm.tool_limits.lower) + np.array(arm.tool_limits.upper))
    low, high = np.array(arm.limits.lower), np.array(arm.limits.upper)
    random = np.random.default_rng(0)
    starts = [np.array(arm.home), 0.5 * (low + high), *random.uniform(low, high, (SUGGESTION_STARTS, len(low)))]
    for start in starts:
        found = _inverse_kinematics(arm, kinematics, middle, np.array([0.0, 0.0, -1.0]), start)
        if found is not None:
            return f" (for example home: [{', '.join(f'{angle:.3f}' for angle in found)}])"
    return " (no posture was found with the tool straight down in the middle of tool_limits)"


def _no_capsules() -> ArmFinding:
    return ArmFinding(
        "capsules",
        Severity.WARNING,
        "none: nothing keeps the arm from itself and from the table; `rlfp arm capsules` fits them to the meshes",
    )


def _capsules(arm: Arm) -> Iterator[ArmFinding]:
    try:
        triangles = link_triangles(arm)
    except ConfigurationError as error:
        yield ArmFinding("meshes", Severity.ERROR, str(error))
        return
    number = sum(len(each) for each in triangles.values())
    if number > MANY_TRIANGLES and arm.visuals != "low_polygon":
        text = f"{number} triangles make images slow; add `visuals: low_polygon`"
        yield ArmFinding("meshes", Severity.WARNING, text)
    else:
        yield ArmFinding("meshes", Severity.OK, f"{number} triangles on {len(triangles)} links")
    if not arm.capsules:
        yield _no_capsules()
        return
    fingers = arm.gripper.joint_names if arm.gripper else ()
    bare = [link for link in triangles if link not in {capsule.link for capsule in arm.capsules}]
    if len(bare) > len(fingers):
        text = f"{len(arm.capsules)}, but none on {', '.join(bare)}; `rlfp arm capsules` fits them to the meshes"
        yield ArmFinding("capsules", Severity.WARNING, text)
    else:
        yield ArmFinding("capsules", Severity.OK, f"{len(arm.capsules)}")


def _distances(arm: Arm, kinematics: Kinematics) -> Iterator[ArmFinding]:
    if not arm.capsules:
        return
    settings = ControllerSettings()
    try:
        distances = Distances.with_margins_of(settings, kinematics)
    except ConfigurationError as error:
        yield ArmFinding("collision", Severity.ERROR, str(error))
        return
    spare = distances.spare(np.array(arm.home))
    if not len(spare):
        yield ArmFinding("collision", Severity.WARNING, "no pair of capsules is checked; add capsules to more links")
        return
    nearest = int(np.argmin(spare))
    text = f"{1e3 * spare[nearest]:.0f} mm to spare at home, between {' and '.join(distances.names[nearest])}"
    if spare[nearest] <= 0:
        yield ArmFinding(
            "collision", Severity.ERROR, f"{text}: the arm would not be enabled; correct home or the capsules"
        )
    else:
        yield ArmFinding("collision", Severity.WARNING if spare[nearest] < NEAR else Severity.OK, text)


def _gripper(arm: Arm) -> Iterator[ArmFinding]:
    if arm.gripper is None:
        yield ArmFinding("gripper", Severity.OK, "none" + (", a pointer" if arm.pointer else ""))
        return
    gripper = arm.gripper
    if gripper.closed_width >= gripper.open_width:
        text = f"closed_width {gripper.closed_width:g} m is not below open_width {gripper.open_width:g} m"
        yield ArmFinding("gripper", Severity.ERROR, text)
    else:
        yield ArmFinding("gripper", Severity.OK, f"{gripper.closed_width:g} to {gripper.open_width:g} m wide")


def _task(arm: Arm, kinematics: Kinematics, name: str) -> ArmFinding:
    part = f"task {name}"
    task = load_task(name)
    if task.grips and arm.gripper is None:
        return ArmFinding(part, Severity.OK, "needs a gripper, which the arm does not have")
    try:
        given = fit_settings(task.settings, arm, task.source)
        task.fit_to(arm)
    except ConfigurationError as error:
        return ArmFinding(part, Severity.WARNING, str(error))
    home = np.array(arm.home)
    down = kinematics.forward(home)[:3, 2]
    height = max(task.object_height, arm.tool_limits.lower[2])
    missed = []
    for field, region in given.regions().items():
        for x in (region.lower[0], region.upper[0]):
            for y in (region.lower[1], region.upper[1]):
                if not _reaches(arm, kinematics, np.array([x, y, height]), down, home):
                    missed.append(f"{field} ({x:g}, {y:g}, {height:g}) m")
    if missed:
        more = f" and {len(missed) - 1} more corners" if len(missed) > 1 else ""
        advice = f"make the region smaller: in this file, tasks: {{{name}: ...}}"
        return ArmFinding(part, Severity.WARNING, f"out of reach with the tool straight: {missed[0]}{more}; {advice}")
    return ArmFinding(part, Severity.OK, "reaches the corners of " + ", ".join(given.regions()))


def _reaches(arm: Arm, kinematics: Kinematics, position: np.ndarray, direction: np.ndarray, start: np.ndarray) -> bool:
    return _inverse_kinematics(arm, kinematics, position, direction, start) is not None


def _inverse_kinematics(
    arm: Arm, kinematics: Kinematics, position: np.ndarray, direction: np.ndarray, start: np.ndarray
) -> np.ndarray | None:
    """Find joints [J] rad inside the limits for a tool position [3] m and direction [3], by damped least squares."""
    low, high = np.array(arm.limits.lower), np.array(arm.limits.upper)
    q = np.clip(start, low, high)
    for _ in range(STEPS):
        found, rotation, jacobian = kinematics.evaluate(q)
        turn = np.cross(rotation[:, 2], direction)
        error = np.concatenate([position - found, turn])
        if (
            np.linalg.norm(error[:3]) < REACHED_M
            and np.linalg.norm(turn) < REACHED_RAD
            and rotation[:, 2] @ direction > 0
        ):
            return q
        # The rotation about the tool's axis is free.
        free = np.eye(3) - np.outer(rotation[:, 2], rotation[:, 2])
        rows = np.vstack([jacobian[:3], free @ jacobian[3:]])
        step = rows.T @ np.linalg.solve(rows @ rows.T + 1e-4 * np.eye(6), error)
        q = np.clip(q + np.clip(step, -0.2, 0.2), low, high)
    return None


def draw(arm: Arm, path: Path) -> Path:
    """Write a PNG with the arm at home and its capsules, from the scene's camera and from the side."""
    camera = load_scene(arm=arm.model_copy(update={"workspace": None})).camera
    assert isinstance(camera, SceneCamera)
    reach = arm.tool_limits.upper[0]
    side = camera.model_copy(
        update={"position": (0.5 * reach, -2.2 * reach, 0.6 * reach), "target": (0.45 * reach, 0.0, 0.3 * reach)}
    )
    views = []
    renderer = ArmRenderer(arm, "visual")
    try:
        for each in (camera, side):
            contract = each.model_copy(update={"width": IMAGE_PX, "height": IMAGE_PX}).contract()
            model = CameraModel(IMAGE_PX, IMAGE_PX, contract.intrinsics.matrix())
            T_base_camera = contract.T_base_camera.matrix()
            width = arm.gripper.open_width if arm.gripper else 0.0
            rendering = renderer(model, T_base_camera, np.array(arm.home), width)
            image = np.where(rendering.mask[..., None], rendering.image, 235).astype(np.uint8)
            _outline_capsules(image, arm, model.K, T_base_camera)
            views.append(image)
    finally:
        renderer.close()
    write_image(path, np.hstack(views))
    return path


def _outline_capsules(image: np.ndarray, arm: Arm, K: np.ndarray, T_base_camera: np.ndarray) -> None:
    kinematics = Kinematics(arm)
    pin.framesForwardKinematics(kinematics.model, kinematics.data, kinematics.joints(np.array(arm.home)))
    root_camera = np.asarray(kinematics.base_placement.homogeneous) @ T_base_camera
    for capsule in arm.capsules:
        if not kinematics.model.existFrame(capsule.link, LINK):
            continue
        placement = kinematics.data.oMf[kinematics.model.getFrameId(capsule.link, LINK)]
        mask = np.zeros(image.shape[:2], np.uint8)
        for share in np.linspace(0, 1, 24):
            point = placement.act((1 - share) * np.array(capsule.start) + share * np.array(capsule.end))
            x, y, z = root_camera[:3, :3].T @ (point - root_camera[:3, 3])
            if z > capsule.radius:
                centre = (round(K[0, 0] * x / z + K[0, 2]), round(K[1, 1] * y / z + K[1, 2]))
                cv2.circle(mask, centre, max(1, round(K[0, 0] * capsule.radius / z)), 255, -1)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, (30, 150, 30) if capsule.table else (200, 120, 20), 1)


def run(name_or_path: str, out: Path | None = None) -> int:
    """Print the table and draw the image. Returns 1 if there is an error, else 0."""
    console = Console(highlight=False)
    arm = load_arm(name_or_path)
    table = Table(title=f"arm {arm.name} ({arm.origin})", title_justify="left")
    for name in ("part", "", "found"):
        table.add_column(name)
    colours = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.ERROR: "red"}
    findings = list(check(arm))
    for finding in findings:
        table.add_row(finding.part, f"[{colours[finding.level]}]{finding.level.value}[/]", finding.text)
    console.print(table)
    failed = any(finding.level is Severity.ERROR for finding in findings)
    if not any(finding.part in ("joints", "meshes") and finding.level is Severity.ERROR for finding in findings):
        console.print(
            f"{draw(arm, out or Path('runs') / f'arm_check_{arm.name}.png')}: the arm at home, with its capsules"
        )
    return int(failed)
