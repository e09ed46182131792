"""May perception be believed: ROC of a bundle's domain-shift score, and whether its pose regions hold what they say.

Images of fresh episodes, as training renders them. The score is to tell training's own images from: the held-out
profile `validation`, inverted colours, a blacked-out half, exchanged colour channels, and cameras that stand elsewhere.
The pose head's nominal 50, 90 and 99 % regions are held against the true positions under `train` and `validation`.

    ./rlfp bench trust [--bundle NAME] [--images N] [--json FILE] [--document docs/explanation/trust.md]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rlfp_ros.cli.parsing import add_result, parse_benchmark, positive
from rlfp_ros.contract import Bundle, CameraContract, load_bundle
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.evaluation.results import put_between, write_json
from rlfp_ros.evaluation.statistics import wilson95
from rlfp_ros.learning.cell import load_cell
from rlfp_ros.learning.encoders.alterations import CORRUPTIONS, ENCODINGS, UNSEEN, Alteration
from rlfp_ros.learning.export.trust import one_of, rendered
from rlfp_ros.learning.recipes.frames import Frames, FrameSource
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import Pose
from rlfp_ros.seeds import BENCHMARKS
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.postures import arrange
from rlfp_ros.simulation.randomization import stream
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

SEED = BENCHMARKS.first + 1_000_000
REGIONS = {0.5: 2.366, 0.9: 6.251, 0.99: 11.345}  # share -> chi-square with 3 degrees of freedom
MARKS = ("<!-- benchmarks/trust.py begins -->", "<!-- benchmarks/trust.py ends -->")
WRONG_M = 0.03  # an object seen farther off than this is seen wrong
ROOMS = ("twin_near", "twin_dim", "twin_glare", "twin_clutter", "twin_moved")
HOLDS = 0.95  # score at which the controller holds the arm
FALSE_ALARMS = 0.01  # share of training's own images at which detections are counted


@dataclass(frozen=True)
class Seen:
    """What perception said of N images."""

    distances: np.ndarray  # [N], what the score is made of: finer, since the score is cut off at 0 and 1
    scores: np.ndarray  # [N] in [0, 1]
    squares: np.ndarray  # [N], squared distance of the true position in the pose covariance's own units
    errors_m: np.ndarray  # [N]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench trust", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="reach_panda", help="a folder, or a name in models/")
    parser.add_argument("--images", type=positive, default=2000, help="of each kind")
    add_result(parser, "--json")
    add_result(parser, "--document", page=MARKS, help="a page between whose marks the tables are put")
    parser.add_argument(
        "--errors",
        action="store_true",
        help="instead: does the score foretell that the object is seen more than 30 mm off? 500 images of each family",
    )
    options = parse_benchmark(parser, argv)
    bundle = load_bundle(options.bundle)
    if options.errors:
        return _main_errors(bundle, options)
    result = measure(bundle, options.images)
    text = markdown(result)
    print(text)
    if options.json:
        write_json(options.json, result)
    if options.document:
        put_between(options.document, *MARKS, text)
    return 0


def measure(bundle: Bundle, images: int) -> dict[str, Any]:
    """Every figure of the two tables."""
    camera, perception = bundle.contract.camera, Perception(bundle)
    train = render(bundle, "train", camera, images)
    rendered = {
        "validation": render(bundle, "validation", camera, images),
        "camera 9 cm and 6 degrees off": render(bundle, "train", moved(camera, 0.09, 6.0), images),
        "camera 24 cm and 12 degrees off": render(bundle, "train", moved(camera, 0.24, 12.0), images),
        "camera across the table": render(bundle, "train", across(camera), images),
    }
    usual = look(perception, *train)
    shifts: dict[str, Seen] = {name: look(perception, *frames) for name, frames in rendered.items()}
    for name, alter in ALTERED.items():
        shifts[name] = look(perception, np.ascontiguousarray(alter(train[0])), train[1])
    threshold = np.quantile(usual.distances, 1 - FALSE_ALARMS)
    return {
        "bundle": bundle.contract.name,
        "images": images,
        "cores": os.cpu_count(),
        "usual": _alarms(usual),
        "shifts": {
            name: {
                "auc": round(area_under_roc(usual.distances, seen.distances), 3),
                "detected": round(float(np.mean(seen.distances > threshold)), 3),
            }
            | _alarms(seen)
            for name, seen in shifts.items()
        },
        "calibration": {
            name: {
                "inside": {
                    f"{share:g}": round(float(np.mean(seen.squares < edge)), 3) for share, edge in REGIONS.items()
                },
                "median_error_mm": round(1e3 * float(np.median(seen.errors_m)), 1),
            }
            for name, seen in (("train", usual), ("validation", shifts["validation"]))
        },
    }


def render(bundle: Bundle, profile: str, camera: CameraContract, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, 3] and the object's positions [N, 3] m in `camera`'s optical frame."""
    contract = bundle.contract
    cell = load_cell(contract.task, str(bundle.arm_file or contract.arm.name), profile, camera.height)
    source = FrameSource(cell, SEED, count, other_camera=camera)
    with tempfile.TemporaryDirectory() as folder, Frames(source, Path(folder)) as frames:
        frames.wait_for(count)
        return np.array(frames.images), np.array(frames.positions)


def look(perception: Perception, images: np.ndarray, positions: np.ndarray) -> Seen:
    """Through the deployed code."""
    percepts = [perception(image) for image in images]
    found = np.stack([np.asarray(percept.object_pose)[:3] for percept in percepts]).astype(np.float64)
    covariances = np.stack([np.asarray(percept.pose_cov)[:3, :3] for percept in percepts]).astype(np.float64)
    error = found - positions
    distance = perception.domain_shift.distance
    return Seen(
        np.array([distance(percept.embedding) for percept in percepts]),
        np.array([percept.domain_shift for percept in percepts]),
        np.einsum("ni,nij,nj->n", error, np.linalg.inv(covariances), error),
        np.linalg.norm(error, axis=1),
    )


def area_under_roc(usual: np.ndarray, unusual: np.ndarray) -> float:
    """Probability that an unusual image has the higher value; ties count half."""
    order = np.sort(usual)
    below = np.searchsorted(order, unusual, side="left") + np.searchsorted(order, unusual, side="right")
    return float(np.mean(below) / (2 * len(usual)))


def _alarms(seen: Seen) -> dict[str, float]:
    return {"score_above_0.5": _share(seen.scores > 0.5), "score_above_0.9": _share(seen.scores > 0.9)}


def _share(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 3)


# --- what is unlike training -----------------------------------------------------------------------------------------


def _blackened(rows: slice, columns: slice) -> Callable[[np.ndarray], np.ndarray]:
    def blacken(images: np.ndarray) -> np.ndarray:
        images = images.copy()
        images[:, rows, columns] = 0
        return images

    return blacken


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverted colours": lambda images: 255 - images,
    "left half black": lambda images: _blackened(slice(None), slice(images.shape[2] // 2))(images),
    "lower half black": lambda images: _blackened(slice(images.shape[1] // 2, None), slice(None))(images),
    "red and blue exchanged": lambda images: images[..., ::-1],
}


def moved(camera: CameraContract, metres: float, degrees: float) -> CameraContract:
    """The camera pushed along (1, -2, 1) of the base frame and turned about (1, 1.5, 1) of its own."""
    T = camera.T_base_camera.matrix()
    direction, axis = np.array([1.0, -2.0, 1.0]), np.array([1.0, 1.5, 1.0])
    T[:3, 3] += metres * direction / np.linalg.norm(direction)
    T[:3, :3] = T[:3, :3] @ cv2.Rodrigues(np.radians(degrees) * axis / np.linalg.norm(axis))[0]
    return _placed(camera, T)


def across(camera: CameraContract) -> CameraContract:
    """The camera mirrored at the plane y = 0: it looks at the same place from the arm's other side."""
    T = camera.T_base_camera.matrix()
    mirror = np.diag([1.0, -1.0, 1.0])
    T[:3, 3] = mirror @ T[:3, 3]
    T[:3, :3] = mirror @ T[:3, :3] @ np.diag([-1.0, 1.0, 1.0])
    return _placed(camera, T)


def _placed(camera: CameraContract, T_base_camera: np.ndarray) -> CameraContract:
    from pinocchio import Quaternion

    quaternion = Quaternion(T_base_camera[:3, :3]).coeffs()  # xyzw
    pose = Pose(xyz=tuple(T_base_camera[:3, 3].tolist()), quaternion_xyzw=tuple(quaternion.tolist()))
    return camera.model_copy(update={"T_base_camera": pose})


# --- does the score foretell errors? ----------------------------------------------------------------------------------


def _main_errors(bundle: Bundle, options: argparse.Namespace) -> int:
    rows = errors_by_family(bundle)
    print(errors_markdown(rows))
    if options.json:
        write_json(options.json, {"bundle": bundle.contract.name, "cores": os.cpu_count(), "families": rows})
    return 0


def errors_by_family(bundle: Bundle, count: int = 500) -> dict[str, dict[str, Any]]:
    """Judge the bundle's score, and beside it how unlike training an image looks, in each family of images."""
    perception, arm = Perception(bundle), trained_arm(bundle)
    rng = np.random.default_rng(SEED)
    families: dict[str, Alteration] = {
        "as in training": lambda image, rng: image,
        "wrong encodings and orientations": one_of(ENCODINGS),
        "corruptions": one_of(CORRUPTIONS),
        "a kind that was never learnt from": one_of(UNSEEN),
    }
    rows = {"rooms in MuJoCo": errors_in_rooms(bundle, perception, arm, count)}
    for number, (name, alter) in enumerate(families.items()):
        scores, plain, errors = [], [], []
        for part in rendered(bundle.contract, arm, SEED + 10_000 * (number + 1), count):
            for image, position, joints in zip(part.images, part.positions, part.joint_positions, strict=True):
                percept = perception.encode(np.ascontiguousarray(alter(image, rng)), joints.astype(np.float64))
                scores.append(percept.domain_shift)
                plain.append(perception.domain_shift(percept.embedding))
                errors.append(float(np.linalg.norm(np.asarray(percept.object_pose)[:3] - position)))
        rows[name] = _foretold(np.array(scores), np.array(plain), np.array(errors))
    return rows


def errors_in_rooms(bundle: Bundle, perception: Perception, arm: Arm, count: int) -> dict[str, Any]:
    """Judge both scores on `count` images of the rooms that ship, of random postures as in training."""
    kinematics, scene = Kinematics(arm), load_scene(arm=arm)
    T_camera_base = np.linalg.inv(bundle.contract.camera.T_base_camera.matrix())
    scores, plain, errors = [], [], []
    for number, room in enumerate(ROOMS):
        task = load_task(bundle.contract.task)
        world = MujocoWorld(arm, task, load_room(room), scene, bundle.contract.camera)
        for index in range(count // len(ROOMS)):
            if index % 3 == 0:
                seed = SEED + 1000 * number + index
                world.reset(seed)
                rng, lying = stream(seed, "postures"), world.task.object_pose(world)[0]
            found = arrange(world, kinematics, lying, rng)  # type: ignore[arg-type]  # it needs what both worlds have
            joints = world.joint_state().positions
            percept = perception(world.render(), world.calibration, joint_positions=joints)
            scores.append(percept.domain_shift)
            plain.append(perception.domain_shift(percept.embedding))
            position = T_camera_base[:3, :3] @ found + T_camera_base[:3, 3]
            errors.append(float(np.linalg.norm(np.asarray(percept.object_pose)[:3] - position)))
        world.close()
    return _foretold(np.array(scores), np.array(plain), np.array(errors))


def _foretold(scores: np.ndarray, plain: np.ndarray, errors_m: np.ndarray) -> dict[str, Any]:
    """Areas under ROC, false holds and misses, with 95 % intervals, of the score and of the image-only score."""
    wrong = errors_m > WRONG_M
    row: dict[str, Any] = {"images": len(scores), "wrong": _share(wrong)}
    for label, values in (("score", scores), ("image_only", plain)):
        holds = values >= HOLDS
        row[label] = {
            "auc": round(area_under_roc(values[~wrong], values[wrong]), 3),
            "false_holds": _share(holds[~wrong]),
            "false_holds95": wilson95(int(holds[~wrong].sum()), int((~wrong).sum())),
            "misses": _share(~holds[wrong]),
            "misses95": wilson95(int((~holds[wrong]).sum()), int(wrong.sum())),
        }
    return row


def errors_markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table of `errors_by_family`; the image-only score in brackets."""
    lines = [
        f"| images | more than {1e3 * WRONG_M:g} mm off | area under ROC | false holds | misses |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [f"{row['score'][key]} ({row['image_only'][key]})" for key in ("auc", "false_holds", "misses")]
        lines.append(f"| {name} | {row['wrong']} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- the tables ------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """The two tables, with what they were measured on."""
    usual = result["usual"]
    lines = [
        f"{date.today()}, {result['cores']} cores, bundle `{result['bundle']}`, {result['images']} images of fresh "
        "episodes for each row.",
        "",
        "| images | area under ROC | detected | above 0.5 | above 0.9 |",
        "|---|---|---|---|---|",
        f"| as in training | 0.5 | {FALSE_ALARMS} | {usual['score_above_0.5']} | {usual['score_above_0.9']} |",
    ]
    lines += [
        f"| {name} | {row['auc']} | {row['detected']} | {row['score_above_0.5']} | {row['score_above_0.9']} |"
        for name, row in result["shifts"].items()
    ]
    lines += [
        "",
        "| profile | nominal 0.5 | nominal 0.9 | nominal 0.99 | median error |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['inside']['0.5']} | {row['inside']['0.9']} | {row['inside']['0.99']} | "
        f"{row['median_error_mm']} mm |"
        for name, row in result["calibration"].items()
    ]
    return "\n".join(lines)
