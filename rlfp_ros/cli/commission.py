"""Commands for bringing up an arm and a camera: `calibrate`, `align` and `gap`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rlfp_ros.cli.parsing import ARMS, CELLS, Commands, add_arm_or_cell, add_command, add_result, arm_of

if TYPE_CHECKING:
    from rlfp_ros.recording.bag_topics import TopicChoice

CALIBRATIONS = {
    "board": "write the image of a board to print",
    "intrinsics": "the camera's K and lens, from images of the board",
    "extrinsics": "the camera's place, from the board on the arm's tool at several postures",
}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    _add_calibrate(commands)

    command = add_command(
        commands, "align", _align, "overlay the simulator's arm on the real one and measure the offset in pixels"
    )
    command.add_argument(
        "topics", nargs="*", metavar="NAME:=VALUE", help="arguments of real_arm.launch.py, for example camera:=usb_cam"
    )
    command.add_argument(
        "--bag", type=Path, metavar="DIR", help="a recorded bag with an arm at rest (default: record the live topics)"
    )
    command.add_argument("--bundle", default="reach_panda", help="for its camera's tolerance (default: %(default)s)")
    add_arm_or_cell(command, "the bundle's", f"the cell with the arm and the camera's place: {CELLS}")
    command.add_argument(
        "--extrinsics",
        metavar="FILE",
        help="written by `calibrate extrinsics`, or bundle (default: the cell's, or bundle)",
    )
    command.add_argument(
        "--meshes",
        default="visual",
        choices=("visual", "collision"),
        help="collision for mock hardware, which shows those (default: %(default)s)",
    )
    add_result(
        command,
        "--out",
        folder=True,
        default=Path("runs/align"),
        metavar="DIR",
        help="for the overlays (default: %(default)s)",
    )
    add_topics(command)

    command = add_command(
        commands, "gap", _gap, "find the stage at which a recorded run diverges from how its policy was trained"
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--bag", type=Path, metavar="DIR", help="a recorded bag of the running graph")
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="a dataset, from `rlfp dataset`; only images and joints are compared"
    )
    command.add_argument("--bundle", default="reach_panda", help="the bundle that ran (default: %(default)s)")
    command.add_argument("--arm", help=f"{ARMS} (default: the bundle's)")
    add_result(command, "--json", metavar="FILE", help="also write the stages to FILE")
    add_topics(command)


def add_topics(command: argparse.ArgumentParser, images_only: bool = False) -> None:
    """Add the options that choose a camera and a robot in a bag that holds several."""
    command.add_argument(
        "--image-topic", default="", metavar="NAME", help="which images of the bag (default: the only)"
    )
    command.add_argument(
        "--image-kind",
        default="auto",
        choices=("auto", "raw", "rectified"),
        help="whether the images still show the lens; auto: rectified if the topic is named image_rect... (default)",
    )
    command.add_argument(
        "--namespace", default="", metavar="NAME", help="which robot of the bag; / is the root (default: the only one)"
    )
    if images_only:
        return
    command.add_argument(
        "--camera-info-topic", default="", metavar="NAME", help="of the images (default: the one beside them)"
    )
    command.add_argument(
        "--joint-states-topic", default="", metavar="NAME", help="of the arm (default: as its file says, or the only)"
    )


def topic_choice(options: argparse.Namespace) -> TopicChoice:
    """Return the choice that the options of `add_topics` make."""
    from rlfp_ros.recording.bag_topics import TopicChoice

    return TopicChoice(
        image=options.image_topic,
        camera_info=getattr(options, "camera_info_topic", ""),
        joint_states=getattr(options, "joint_states_topic", ""),
        namespace=options.namespace,
        image_kind=options.image_kind,
    )


def _add_calibrate(commands: Commands[argparse.ArgumentParser]) -> None:
    command = add_command(
        commands, "calibrate", _calibrate, "measure a camera's lens and its place: board, intrinsics, extrinsics"
    )
    parts = command.add_subparsers(title="what", metavar="WHAT", required=True)
    for name, text in CALIBRATIONS.items():
        part = add_command(parts, name, _calibrate, text)
        part.set_defaults(what=name)
        part.add_argument("--squares", default="7x5", metavar="CxR", help="columns x rows (default: %(default)s)")
        part.add_argument(
            "--square", type=float, default=0.03, metavar="M", help="side of a square in m (default: %(default)s)"
        )
        part.add_argument(
            "--marker",
            type=float,
            default=0.022,
            metavar="M",
            help="ChArUco marker's side in m; 0: checkerboard (default: %(default)s)",
        )
        part.add_argument("--dictionary", default="DICT_5X5_100", help="of the markers (default: %(default)s)")
        suffix = "png" if name == "board" else "yaml"
        add_result(
            part,
            "--out",
            default=Path(f"runs/calibration/{name}.{suffix}"),
            metavar="FILE",
            help="the file to write (default: %(default)s)",
        )
        if name != "board":
            part.add_argument("--bag", type=Path, required=name == "extrinsics", metavar="DIR", help="a recorded bag")
        if name == "intrinsics":
            part.add_argument("--cell", metavar="NAME", help=f"also write the lens into this cell's file: {CELLS}")
            part.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="image files, instead of a bag")
        if name == "extrinsics":
            text = "measure for this cell, and write the camera's pose into its file: " + CELLS
            add_arm_or_cell(part, "panda", text)
            part.add_argument("--bundle", help="also compare with the place of this bundle's camera")
        if name != "board":
            add_topics(part, images_only=name == "intrinsics")


def _calibrate(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import calibrate
    from rlfp_ros.control.arm import find_cell

    board = calibrate.parse_board(options.squares, options.square, options.marker, options.dictionary)
    if options.what == "board":
        return calibrate.board(board, options.out)
    if options.what == "intrinsics":
        cell = find_cell(options.cell) if options.cell else None
        return calibrate.intrinsics(board, options.bag, options.images, options.out, topic_choice(options), cell)
    arm = arm_of(options) or "panda"
    cell = Path(arm) if options.cell else None
    return calibrate.extrinsics(board, options.bag, arm, options.bundle, options.out, topic_choice(options), cell)


def _align(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import calibrate
    from rlfp_ros.graph.arguments import parse_arguments, parse_assignments
    from rlfp_ros.graph.live_bag import record_live
    from rlfp_ros.graph.real_arm import REAL_ARM
    from rlfp_ros.graph.resolution import in_cell

    choice, arm = topic_choice(options), arm_of(options)
    given = parse_assignments(options.topics, "align") | ({"cell": arm or ""} if options.cell else {})
    arguments = parse_arguments(REAL_ARM, in_cell(REAL_ARM, given))
    if choice.image_kind == "auto":  # image_kind:= is an argument of the graph, like the topics
        choice = dataclasses.replace(choice, image_kind=arguments["image_kind"])
    topics = [*options.topics, *([f"cell:={arm}"] if options.cell else [])]
    bag = options.bag or record_live("" if options.cell else arm or "", topics, options.out)
    extrinsics = options.extrinsics or (arm if options.cell and arm else "bundle")
    return calibrate.overlay(bag, arm, options.bundle, extrinsics, options.meshes, options.out, choice)


def _gap(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import gap

    is_dataset = options.data is not None
    source = options.data if is_dataset else options.bag
    return gap.run(source, options.bundle, options.arm, options.json, topic_choice(options), is_dataset)
