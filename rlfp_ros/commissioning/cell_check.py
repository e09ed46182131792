"""`rlfp cell check`: says what a cell's file lacks, and draws the cell as a policy sees it, beside a real image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from rlfp_ros.commissioning.align import align, describe, overlay
from rlfp_ros.commissioning.arm_check import ArmFinding, Severity
from rlfp_ros.control.arm import Arm, JointState, find_cell, load_arm, read_cell
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.distances import Distances
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.workspace import CellFile
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.images import write_image
from rlfp_ros.recording.bag_topics import ANY, TopicChoice
from rlfp_ros.recording.snapshots import Snapshot, standing_snapshots
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer
from rlfp_ros.simulation.cell_camera import check_seen, live_camera, mounted_camera
from rlfp_ros.simulation.cell_object import object_mesh
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import TASKS, load_task

FEWEST_PX = 3.0  # width of the object in a policy's image; with less it is hard to find
TILE = 420  # px, edge of the drawn images
SEED = 1  # of the drawn episode
MOST_SNAPSHOTS = 8  # postures of a recording that are compared
BAR = 24  # px, height of the captions
Meshes = Literal["visual", "collision"]


@dataclass(frozen=True)
class Seen:
    """Images of the real cell."""

    snapshots: Sequence[Snapshot]
    source: str  # the file or folder that they come from


def check(cell: CellFile, arm: Arm) -> Iterator[ArmFinding]:
    """Check the file of a cell without any hardware.

    Parameters
    ----------
    cell
        The file's content.
    arm
        The arm in the cell, from `load_arm`.
    """
    yield ArmFinding("arm", Severity.OK, f"{arm.name}, {len(arm.joint_names)} joints ({arm.origin})")
    yield from _camera(cell, arm)
    yield from _object(arm)
    yield from _obstacles(arm)
    for name in TASKS:
        yield _task(arm, name)
    unknown = [name for name in cell.tasks if name not in TASKS]
    if unknown:
        yield ArmFinding("tasks", Severity.ERROR, f"has {unknown[0]!r}, expected names out of: {', '.join(TASKS)}")
    if not cell.launch:
        yield ArmFinding(
            "launch",
            Severity.WARNING,
            "is empty: the defaults of real_arm.launch.py name the camera's and arm's topics",
        )


def _camera(cell: CellFile, arm: Arm) -> Iterator[ArmFinding]:
    lens = cell.camera.intrinsics
    try:
        live, shown = live_camera(cell, arm.cell_origin), mounted_camera(arm)
    except ConfigurationError as error:
        yield ArmFinding("camera", Severity.ERROR, str(error))
        return
    across, down = live.field_of_view()
    size = f"{live.width} x {live.height} px, {across:.0f} x {down:.0f} degrees, {cell.camera.rate_hz:g} Hz"
    if any(lens.distortion_coefficients.data):
        yield ArmFinding("lens", Severity.OK, size)
    else:
        advice = "has no distortion: calibrate it (./rlfp calibrate intrinsics --cell), or it is an estimate"
        yield ArmFinding("lens", Severity.WARNING, f"{size}; {advice}")
    place = ", ".join(f"{value:.3f}" for value in cell.camera.T_base_camera.xyz)
    if cell.camera.calibrated:
        yield ArmFinding("pose", Severity.OK, f"at ({place}) m, calibrated {cell.camera.calibrated}")
    else:
        advice = "is an estimate; calibrate it (./rlfp calibrate extrinsics --cell) before an arm moves"
        yield ArmFinding("pose", Severity.WARNING, f"at ({place}) m {advice}")
    contract = shown.contract()
    assert arm.workspace is not None
    distance = float(np.linalg.norm(np.subtract(shown.target, shown.position)))
    object_px = min(arm.workspace.object.size[:2]) * contract.intrinsics.fx / distance
    found = f"{shown.covered:.0%} of camera.view, the object is about {object_px:.1f} px wide at {shown.width} px"
    small, cut = object_px < FEWEST_PX, shown.covered < 0.999
    if small:
        found += f", expected at least {FEWEST_PX:g} px: make camera.view smaller or move the camera closer"
    elif cut:
        found += ": the rest is outside the camera's image"
    yield ArmFinding("view", Severity.WARNING if small or cut else Severity.OK, found)


def _object(arm: Arm) -> Iterator[ArmFinding]:
    assert arm.workspace is not None
    thing = arm.workspace.object
    size = " x ".join(f"{1e3 * edge:.0f}" for edge in thing.size)
    shape = "a mesh" if thing.mesh else "a box"
    try:
        object_mesh(load_scene(arm=arm))
    except ConfigurationError as error:
        yield ArmFinding("object", Severity.ERROR, str(error))
        return
    if arm.gripper is not None and min(thing.size[:2]) > arm.gripper.open_width:
        yield ArmFinding(
            "object",
            Severity.WARNING,
            f"{shape} of {size} mm is wider than the gripper's {1e3 * arm.gripper.open_width:.0f} mm: lift, place and "
            "stack are not possible",
        )
        return
    yield ArmFinding(
        "object", Severity.OK, f"{shape} of {size} mm, hue {thing.hue_deg[0]:g} to {thing.hue_deg[1]:g} degrees"
    )


def _obstacles(arm: Arm) -> Iterator[ArmFinding]:
    if not arm.obstacles:
        yield ArmFinding("obstacles", Severity.OK, "none")
        return
    kinematics = Kinematics(arm)
    distances = Distances.with_margins_of(ControllerSettings(), kinematics)
    spare = [
        (float(value), " and ".join(names))
        for value, names in zip(distances.spare(np.array(arm.home)), distances.names, strict=True)
        if any(name.startswith("obstacle ") for name in names)
    ]
    least, names = min(spare, default=(np.inf, ""))
    if least <= 0:
        text = f"{names} are {-1e3 * least:.0f} mm too close to each other at home; correct the box or home"
        yield ArmFinding("obstacles", Severity.ERROR, text)
    else:
        listed = ", ".join(each.name for each in arm.obstacles)
        yield ArmFinding("obstacles", Severity.OK, f"{listed}; {1e3 * least:.0f} mm to spare at home")


def _task(arm: Arm, name: str) -> ArmFinding:
    try:
        task = load_task(name)
        task.fit_to(arm)
        check_seen(arm, task, load_scene(arm=arm).camera.contract())
    except ConfigurationError as error:
        return ArmFinding(name, Severity.WARNING, f"not possible here: {error}")
    regions = (
        f"{field} x {region.lower[0]:g} to {region.upper[0]:g}, y {region.lower[1]:g} to {region.upper[1]:g} m"
        for field, region in task.settings.regions().items()
    )
    return ArmFinding(name, Severity.OK, "; ".join(regions))


def from_bag(arm: Arm, bag: Path, choice: TopicChoice = ANY) -> Seen:
    """Read the images of a bag in which the arm stands, with its joints. Raises ConfigurationError without any."""
    assert arm.workspace is not None
    live = live_camera(arm.workspace, arm.cell_origin)
    found = [
        Snapshot(each.stamp_ns, each.image, each.camera or live, each.joints)
        for each in standing_snapshots(bag, arm, choice)
    ]
    if not found:
        raise ConfigurationError(f"{bag}: the arm stands in none of its images; record it at rest")
    return Seen(found[:MOST_SNAPSHOTS], str(bag))


def from_image(arm: Arm, file: Path, joints: Sequence[float] | None) -> Seen:
    """Read an image file of the cell's camera.

    Parameters
    ----------
    arm
        The arm in its cell.
    file
        The image.
    joints
        [J] rad, where the arm stands in it; None if that is not known.

    Raises
    ------
    ConfigurationError
        If the file is not an image of the camera's size, or the joints are not the arm's.
    """
    assert arm.workspace is not None
    live = live_camera(arm.workspace, arm.cell_origin)
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigurationError(f"{file}: is not an image that OpenCV reads")
    if image.shape[:2] != (live.height, live.width):
        raise ConfigurationError(
            f"{file}: is {image.shape[1]} x {image.shape[0]} px, but camera.intrinsics of {arm.cell_origin} are for "
            f"{live.width} x {live.height}; take an image of that size"
        )
    state = None
    if joints is not None:
        if len(joints) != len(arm.joint_names):
            raise ConfigurationError(
                f"--joints has {len(joints)} values, expected {len(arm.joint_names)} in rad: "
                f"{', '.join(arm.joint_names)}"
            )
        zeros = np.zeros(len(joints))
        width = 0.0 if arm.gripper is None else arm.gripper.open_width
        state = JointState(0, np.array(joints, dtype=float), zeros, zeros, width)
    return Seen([Snapshot(0, np.ascontiguousarray(image[..., ::-1]), live, state)], str(file))


def draw(arm: Arm, task: str, seen: Seen | None, out: Path, meshes: Meshes = "visual") -> str:
    """Write the image of a cell: simulated as a policy sees it, and beside it the real image with the arm's outline.

    Parameters
    ----------
    arm
        The arm in its cell.
    task
        The task whose objects are drawn.
    seen
        Images of the real cell, if there are any.
    out
        The file.
    meshes
        The arm's meshes that the real image is compared with.

    Returns
    -------
    str
        How well the arm's outline fits; empty without images and joints.

    Raises
    ------
    ConfigurationError
        If the arm is not in view.
    """
    env = ManipulationEnv(task, arm, "none", render_mode="rgb_array")
    try:
        env.reset(seed=SEED)
        simulated, camera = env.render(), env.world.camera.contract
    finally:
        env.close()
    tiles, fit = [_tile(simulated, "as the policy sees the simulated cell")], ""
    if seen is not None:
        T = camera.T_base_camera.matrix()
        first, known = seen.snapshots[0], [each for each in seen.snapshots if each.joints is not None]
        image = first.image if first.camera is None else first.camera.undistort(first.image)
        if known:
            renderer = ArmRenderer(arm, meshes)
            try:
                first, image = known[0], overlay(known[0], renderer, T)
                fit = describe(align(known, renderer, T), arm)
            finally:
                renderer.close()
        assert first.camera is not None
        view = CameraModel(TILE, TILE, _enlarged(camera.intrinsics.matrix(), TILE / camera.width))
        tiles.append(_tile(_seen_as(image, first.camera, view), f"the same part of {Path(seen.source).name}"))
    write_image(out, np.hstack(tiles))
    return fit


def _enlarged(K: np.ndarray, factor: float) -> np.ndarray:
    enlarged = K * factor
    enlarged[:2, 2] = (K[:2, 2] + 0.5) * factor - 0.5
    enlarged[2, 2] = 1.0
    return enlarged


def _seen_as(image: np.ndarray, live: CameraModel, view: CameraModel) -> np.ndarray:
    """Return the part of an undistorted image [H, W, 3] that another camera at the same place sees."""
    mapping = live.K @ np.linalg.inv(view.K)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(image, mapping, (view.width, view.height), flags=flags))


def _tile(image: np.ndarray, caption: str) -> np.ndarray:
    tile = np.zeros((TILE + BAR, TILE, 3), np.uint8)
    tile[:TILE] = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    place = (6, TILE + BAR - 7)
    cv2.putText(tile, caption[:58], place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA)
    return tile


def run(
    name: str,
    task: str = "reach",
    bag: Path | None = None,
    image: Path | None = None,
    joints: Sequence[float] | None = None,
    out: Path | None = None,
    choice: TopicChoice = ANY,
    meshes: Meshes = "visual",
    more: Sequence[ArmFinding] = (),
) -> int:
    """Print the table and draw the image.

    Parameters
    ----------
    name
        Name or file of the cell.
    task
        The task whose objects are drawn.
    bag, image
        A recording or an image of the real cell.
    joints
        [J] rad, where the arm stands in `image`.
    out
        The drawn image's file.
    choice
        The topics of the bag.
    meshes
        The arm's meshes that the real image is compared with.
    more
        Further lines of the table.

    Returns
    -------
    int
        1 if there is an error, else 0.

    Raises
    ------
    ConfigurationError
        If the file is wrong, or the arm is not in view in the given images.
    """
    console = Console(highlight=False)
    path = find_cell(name)
    cell, arm = read_cell(path), load_arm(path)
    table = Table(title=f"cell {cell.name} ({path})", title_justify="left")
    for heading in ("part", "", "found"):
        table.add_column(heading)
    colours = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.ERROR: "red"}
    findings = [*check(cell, arm), *more]
    for finding in findings:
        table.add_row(finding.part, f"[{colours[finding.level]}]{finding.level.value}[/]", finding.text)
    console.print(table)
    failed = [finding for finding in findings if finding.level is Severity.ERROR]
    if any(finding.part in ("camera", "object") for finding in failed):
        return 1
    seen = from_bag(arm, bag, choice) if bag else from_image(arm, image, joints) if image else None
    out = out or Path("runs") / f"cell_{cell.name}.png"
    fit = draw(arm, task, seen, out, meshes)
    console.print(f"{out}: the cell as the policy sees it" + (f", beside {seen.source}" if seen else ""))
    if fit:
        console.print(fit)
    return int(bool(failed))
