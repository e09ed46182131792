"""Keypoint errors of an encoder by group of randomisation parameters.

The profiles are `train`, `train` with one group of parameters from `validation` at a time, and `validation`. A keypoint
counts as lost if it is in the image and the encoder's error is more than 4 pixels.

./rlfp bench perception_gap [BUNDLE] [--scenes N] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from rlfp_ros.cli.parsing import add_result, parse_benchmark, positive
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.perception.encoder import OnnxEncoder
from rlfp_ros.seeds import BENCHMARKS
from rlfp_ros.simulation.postures import arrange
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import Profile, load_profile, stream
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

GROUPS: dict[str, tuple[str, ...]] = {
    "train": (),
    "textures": (),
    "light": ("light_elevation", "ambient"),
    "colours": ("block_hue", "block_value", "arm_tint"),
    "distractors": ("distractors",),
    "exposure": ("exposure", "gamma"),
    "noise": ("noise",),
    "blur": ("blur",),
    "jpeg": ("jpeg_quality",),
}
SEEDS = BENCHMARKS.first + 3_000_000
POSTURES = 4  # images per scene
LOST_PX = 4.0


def mixed(group: str) -> Profile:
    """Return `train` with one group of `validation`'s parameters."""
    train, validation = load_profile("train"), load_profile("validation")
    taken = {name: validation.ranges[name] for name in GROUPS[group]}
    textures = "validation" if group == "textures" else "train"
    return train.model_copy(update={"ranges": train.ranges | taken, "textures": textures})


def measure(bundle: str, profile: Profile, scenes: int) -> dict[str, dict[str, float]]:
    """Return for each keypoint the median error in pixels and the share lost."""
    loaded = load_bundle(bundle)
    contract = loaded.contract
    arm, task = trained_arm(loaded), load_task(contract.task)
    world, kinematics = PybulletWorld(arm, task, profile, load_scene(arm=arm), contract.camera), Kinematics(arm)
    encoder, intrinsics = OnnxEncoder(loaded.session("encoder.onnx")), contract.camera.intrinsics
    centre, size = np.array([intrinsics.cx, intrinsics.cy]), (contract.camera.width, contract.camera.height)
    errors = []
    for seed in range(SEEDS, SEEDS + scenes):
        world.reset(seed)
        rng, lying = stream(seed, "postures"), task.object_pose(world)[0]
        for _ in range(POSTURES):
            arrange(world, kinematics, lying, rng)
            seen = encoder(world.render())[0]
            true = world.keypoints()
            error = np.linalg.norm(seen[: len(true), :2] - true, axis=1) * intrinsics.fx
            pixels = true * intrinsics.fx + centre
            visible = ((pixels >= 0) & (pixels < size)).all(axis=1)
            errors.append(np.where(visible, error, np.nan))
    world.close()
    table = np.stack(errors)
    return {
        name: {
            "median_px": round(float(np.nanmedian(table[:, index])), 3),
            "lost": round(float(np.nanmean((table[:, index] > LOST_PX)[~np.isnan(table[:, index])])), 3),
        }
        for index, name in enumerate(task.keypoints)
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench perception_gap", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="reach_panda")
    parser.add_argument("--scenes", type=positive, default=100)
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    results = {}
    for group in (*GROUPS, "validation"):
        profile = load_profile("validation") if group == "validation" else mixed(group)
        results[group] = measure(options.bundle, profile, options.scenes)
        cells = "  ".join(f"{name} {v['median_px']:.2f} px, {v['lost']:.1%} lost" for name, v in results[group].items())
        print(f"{group:12} {cells}", flush=True)
    if options.json:
        write_json(options.json, {"bundle": options.bundle, "gap": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
