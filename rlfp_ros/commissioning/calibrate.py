"""`rlfp calibrate` and `rlfp align`: make the files that drivers and graph read from a recorded bag."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from rlfp_ros import schema
from rlfp_ros.commissioning.align import align, describe, write_overlays
from rlfp_ros.commissioning.board import Board, View, calibrate_camera, calibrate_hand_eye, write_camera_info
from rlfp_ros.commissioning.cell_file import intrinsics_text, pose_text, set_camera
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.control.workspace import CameraInfoFile
from rlfp_ros.perception.extrinsics import load_extrinsics, load_pose, write_extrinsics
from rlfp_ros.perception.image_topics import is_rectified
from rlfp_ros.perception.images import write_image
from rlfp_ros.recording.bag_topics import ANY, TopicChoice, image_topic, robot_topics
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.snapshots import read_snapshots, standing_snapshots
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer

BETWEEN_S = 0.5  # the board is searched in one image of a bag per half second
MAX_VIEWS = 60  # views that a calibration uses
PRINT_PX = 120  # edge of a square in the board's image
ENOUGH_COVERAGE = 0.6  # share of the image's cells in which a corner should be found


def parse_board(squares: str, square: float, marker: float, dictionary: str) -> Board:
    """Parse a board; `squares` is COLUMNSxROWS. Raises ConfigurationError if there is no such board."""
    columns, by, rows = squares.partition("x")
    if not (by and columns.isdecimal() and rows.isdecimal()):
        raise ConfigurationError(f"--squares is {squares!r}, expected COLUMNSxROWS such as 7x5")
    return Board(int(columns), int(rows), square, marker, dictionary)


def board(shape: Board, out: Path) -> int:
    """Write the board's image, to print at its true size."""
    write_image(out, shape.image(PRINT_PX))
    width, height = shape.columns + 2, shape.rows + 2
    millimetres = f"{1e3 * shape.square * width:.0f} x {1e3 * shape.square * height:.0f} mm"
    Console(highlight=False).print(f"{out}: print it {millimetres} with its margin, flat, and measure a square")
    return 0


def intrinsics(
    shape: Board,
    bag: Path | None,
    images: Sequence[Path],
    out: Path,
    choice: TopicChoice = ANY,
    cell: Path | None = None,
) -> int:
    """Calibrate a camera's K and lens from images of a board.

    Writes the camera_info file that drivers read, and the same values into the file of a cell.
    """
    console = Console(highlight=False)
    views: list[View] = []
    size, looked_at = (0, 0), 0
    if bag is not None:
        console.print(f"images from {_raw_image_topic(bag, choice)}")
    for image in _images(bag, images, choice):
        looked_at += 1
        if size not in ((0, 0), (image.shape[1], image.shape[0])):
            raise ConfigurationError(
                f"one image is {image.shape[1]} x {image.shape[0]}, another {size[0]} x {size[1]}; "
                "calibrate with images of one size"
            )
        size = (image.shape[1], image.shape[0])
        view = shape.find(image)
        if view is not None and len(views) < MAX_VIEWS and _new(view, views):
            views.append(view)
    console.print(f"the board was found in {len(views)} different images of {looked_at}")
    found = calibrate_camera(views, *size)
    write_camera_info(out, found, out.stem)
    K, D = found.camera.K, found.camera.distortion
    console.print(
        f"{out}: fx {K[0, 0]:.1f}, fy {K[1, 1]:.1f}, cx {K[0, 2]:.1f}, cy {K[1, 2]:.1f} px, "
        f"distortion {np.round(np.zeros(5) if D is None else D, 4).tolist()}, rms {found.rms_px:.2f} px"
    )
    if cell is not None:
        set_camera(cell, intrinsics=intrinsics_text(schema.load(out, CameraInfoFile)))
        console.print(f"{cell}: camera.intrinsics are these")
    if found.coverage < ENOUGH_COVERAGE:
        console.print(f"corners in {found.coverage:.0%} of the image: show the board near its edges too")
    return 0


def extrinsics(
    shape: Board,
    bag: Path,
    arm_name: str,
    bundle: str | None,
    out: Path,
    choice: TopicChoice = ANY,
    cell: Path | None = None,
) -> int:
    """Calibrate the camera's pose from a board on the tool and the arm's poses.

    Writes the file for extrinsics:=, and the same pose into the file of a cell.
    """
    console = Console(highlight=False)
    arm = load_arm(arm_name)
    kinematics = Kinematics(arm)
    views, tools, camera = [], [], None
    console.print(_topics(bag, arm, choice))
    snapshots = standing_snapshots(bag, arm, choice)
    for snapshot in snapshots:
        camera = snapshot.camera or camera
        view = shape.find(snapshot.image)
        if view is not None and snapshot.joints is not None:
            views.append(view)
            tools.append(kinematics.forward(snapshot.joints.positions))
    console.print(f"the arm stood in {len(snapshots)} postures, the board was found in {len(views)} of them")
    if camera is None:
        raise ConfigurationError(
            f"{bag}: holds no camera_info; calibrate the camera first (./rlfp calibrate intrinsics), give the driver "
            "its file and record again"
        )
    found = calibrate_hand_eye(views, tools, camera)
    remark = f"{date.today().isoformat()}, {arm.name}: {len(views)} postures, rms {found.rms_px:.2f} px"
    write_extrinsics(out, found.T_base_camera, remark)
    place = ", ".join(f"{value:.3f}" for value in found.T_base_camera[:3, 3])
    worst = max(found.view_errors_px)
    console.print(f"{out}: camera at ({place}) m, rms {found.rms_px:.2f} px, worst posture {worst:.2f} px")
    if cell is not None:
        set_camera(cell, T_base_camera=pose_text(load_pose(out)), calibrated=json.dumps(remark))
        console.print(f"{cell}: camera.T_base_camera is this pose")
    if bundle is not None:
        load_extrinsics(out, load_bundle(bundle).contract.camera)  # refuses a pose outside the tolerance
        console.print(f"inside the tolerance of {bundle}")
    return 0


def overlay(
    bag: Path,
    arm_name: str | None,
    bundle: str,
    extrinsics_file: str,
    meshes: str,
    out: Path,
    choice: TopicChoice = ANY,
) -> int:
    """Draw the simulator's arm over the recorded one, and print the pixel error of its outline."""
    console = Console(highlight=False)
    loaded = load_bundle(bundle)
    # The bundle may be for another arm, because only its camera is used.
    arm = load_arm(arm_name) if arm_name else trained_arm(loaded)
    T_base_camera = load_extrinsics(extrinsics_file, loaded.contract.camera)
    console.print(_topics(bag, arm, choice))
    snapshots = [snapshot for snapshot in standing_snapshots(bag, arm, choice) if snapshot.camera is not None][:8]
    if not snapshots:
        raise ConfigurationError(f"{bag}: holds no camera_info, which the overlay is drawn with; record it too")
    renderer = ArmRenderer(arm, "collision" if meshes == "collision" else "visual")
    try:
        found = align(snapshots, renderer, T_base_camera)
        paths = write_overlays(snapshots, renderer, T_base_camera, out)
    finally:
        renderer.close()
    console.print(describe(found, arm))
    console.print(f"{len(paths)} overlays in {out}: the green outline is where the arm should be")
    return 0


def _images(bag: Path | None, paths: Sequence[Path], choice: TopicChoice) -> Iterator[np.ndarray]:
    """Yield rgb uint8 [H, W, 3] of every file, or of a bag one image per half second."""
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigurationError(f"{path}: is not an image that OpenCV reads")
        yield np.ascontiguousarray(image[..., ::-1])
    if bag is None:
        if not paths:
            raise ConfigurationError("calibrate intrinsics: nothing to look at; give --bag FOLDER or image files")
        return
    last = -np.inf
    for snapshot in read_snapshots(bag, choice=choice):
        if (snapshot.stamp_ns - last) * 1e-9 >= BETWEEN_S:
            last = snapshot.stamp_ns
            yield snapshot.image


def _topics(bag: Path, arm: Arm, choice: TopicChoice) -> str:
    with BagReader(bag) as reader:
        return str(robot_topics(reader, arm, choice))


def _raw_image_topic(bag: Path, choice: TopicChoice) -> str:
    """Return the image topic of a bag. Raises ConfigurationError if its images no longer show the lens."""
    with BagReader(bag) as reader:
        topic = image_topic(reader, choice)
    if is_rectified(topic, choice.image_kind):
        raise ConfigurationError(
            f"{bag}: the images of {topic} are rectified, expected raw ones, in which the lens shows; record the raw "
            "topic, or say --image-kind raw if they are raw"
        )
    return topic


def _new(view: View, views: Sequence[View]) -> bool:
    """Return whether the board has moved: repeated views would only get more weight."""
    centre = view.pixels.mean(axis=0)
    spread = view.pixels.std(axis=0)
    return all(
        np.linalg.norm(other.pixels.mean(axis=0) - centre) + np.linalg.norm(other.pixels.std(axis=0) - spread) > 10
        for other in views
    )


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None
