"""Tests of `rlfp arm check` and `rlfp arm capsules`, and of the arm in examples/my_arm/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import load_or_skip
from image_file import read_image

from rlfp_ros import cli
from rlfp_ros.commissioning.arm_check import Severity, check, concerns
from rlfp_ros.commissioning.capsules import fit_arm, fit_capsule, link_triangles, outside, surface_points
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.arm_parts import Capsule
from rlfp_ros.control.policy import residual_of
from rlfp_ros.control.robot_description import carried_files
from rlfp_ros.simulation.environment import ManipulationEnv

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "my_arm" / "my_arm.yaml"
PANDA = load_arm("panda")


def found(arm: Arm, level: Severity) -> str:
    return "\n".join(f"{finding.part}: {finding.text}" for finding in check(arm) if finding.level is level)


def limits(**changes: object) -> Arm:
    return PANDA.model_copy(update={"limits": PANDA.limits.model_copy(update=changes)})


def test_the_default_arm_passes_and_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "panda.png"
    assert cli.main(["arm", "check", "panda", "--out", str(image)]) == 0
    assert found(PANDA, Severity.WARNING) == found(PANDA, Severity.ERROR) == ""
    pixels = read_image(image)
    assert pixels.shape == (480, 960, 3)
    assert np.mean((pixels != 235).any(axis=2)) > 0.05  # the arm, not only the background
    assert "tool at" in capsys.readouterr().out


def test_ten_turns_and_degrees_are_pointed_out() -> None:
    upper = (31.4 / 2, *PANDA.limits.upper[1:])
    turns = found(limits(lower=(-31.4 / 2, *PANDA.limits.lower[1:]), upper=upper), Severity.WARNING)
    assert "panda_joint1 may turn from -15.7 to 15.7 rad, 5.0 turns: a cable or hose winds up" in turns
    assert "panda_joint1 may go from -15.7 to 15.7 rad, but panda.urdf allows" in turns
    assert "velocity of panda_joint3 is 180 rad/s; is it in degrees?" in found(
        limits(velocity=(2.0, 2.0, 180.0, 2.0, 2.0, 2.0, 2.0)), Severity.WARNING
    )


def test_a_home_whose_tool_is_not_straight_is_pointed_out() -> None:
    tilted = PANDA.model_copy(update={"home": (*PANDA.home[:5], PANDA.home[5] - 0.2, PANDA.home[6])})
    assert "home: the tool points 11 degrees away from straight down" in found(tilted, Severity.WARNING)
    wrong = PANDA.model_copy(update={"home": (*PANDA.home[:5], PANDA.home[5] - 1.2, PANDA.home[6])})
    assert "degrees away from straight down; the z axis of tool_frame must point" in found(wrong, Severity.ERROR)
    assert any("away from straight down" in line for line in concerns(tilted))
    assert concerns(PANDA) == []


def test_missing_capsules_are_pointed_out() -> None:
    none = PANDA.model_copy(update={"capsules": ()})
    assert "capsules: none: nothing keeps the arm from itself and from the table" in found(none, Severity.WARNING)
    assert any("rlfp arm capsules" in line for line in concerns(none))
    some = PANDA.model_copy(update={"capsules": PANDA.capsules[-4:]})
    assert "but none on panda_link0, panda_link1" in found(some, Severity.WARNING)


def test_a_home_in_collision_and_a_tool_outside_its_box_are_errors() -> None:
    fat = PANDA.model_copy(update={"capsules": tuple(c.model_copy(update={"radius": 0.3}) for c in PANDA.capsules)})
    assert "the arm would not be enabled" in found(fat, Severity.ERROR)
    low = PANDA.model_copy(update={"tool_limits": PANDA.tool_limits.model_copy(update={"upper": (0.75, 0.35, 0.2)})})
    assert "home: the tool is at z = 0.235 m, outside 0.014 to 0.2 m; correct home or tool_limits" in found(
        low, Severity.ERROR
    )


def test_regions_out_of_reach_and_unknown_tasks_are_pointed_out() -> None:
    wide = PANDA.model_copy(
        update={
            "tool_limits": PANDA.tool_limits.model_copy(update={"upper": (1.5, 0.35, 0.6)}),
            "tasks": {"reach": {"region": {"lower": [0.4, -0.1], "upper": [1.4, 0.1]}}, "juggle": {}},
        }
    )
    assert "task reach: out of reach with the tool straight: region (1.4, -0.1, 0.035) m and 1 more" in found(
        wide, Severity.WARNING
    )
    assert "tasks has 'juggle', expected names out of: " in found(wide, Severity.ERROR)


def test_a_wrong_joint_ends_the_check_with_one_error(tmp_path: Path) -> None:
    document = yaml.safe_load(carried_files(PANDA)["arm.yaml"])
    document |= {"name": "mine", "joint_names": ["elbow", *PANDA.joint_names[1:]]}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    assert cli.main(["arm", "check", str(path)]) == 1
    assert "joint_names has 'elbow', but panda.urdf has" in found(load_arm(path), Severity.ERROR)


# --- capsules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_capsule_is_found_back_from_points_on_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    start, end, radius = random.normal(size=3), random.normal(size=3), random.uniform(0.05, 0.5)
    directions = random.normal(size=(3000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    share = np.where(directions @ (end - start) > 0, 1.0, 0.0)[:, None]
    points = start + share * (end - start) + radius * directions
    first, second, wide = fit_capsule(points)
    assert wide == pytest.approx(radius, rel=0.05)
    assert np.linalg.norm(second - first) == pytest.approx(np.linalg.norm(end - start), rel=0.05, abs=0.05)
    whole = Capsule(link="x", start=tuple(first), end=tuple(second), radius=wide)
    assert outside(points, [whole]).max() < 1e-9


def test_fitted_capsules_enclose_every_link_in_no_more_space_than_the_pandas_own() -> None:
    """Her own were made by hand, from the meshes' corners."""
    fits, triangles = fit_arm(PANDA), link_triangles(PANDA)
    assert {fit.link for fit in fits} == set(triangles)
    for fit in fits:
        points = surface_points(triangles[fit.link], spacing=0.01)
        assert outside(points, fit.capsules).max() <= 0.0
        assert fit.outside <= 0.0
        own = [capsule for capsule in PANDA.capsules if capsule.link == fit.link]
        if own:
            box = np.ptp([*(c.start for c in own), *(c.end for c in own)], axis=0) + 2 * max(c.radius for c in own)
            assert fit.volume < np.prod(box)
            assert fit.volume < 1.05 * sum(_volume(capsule) for capsule in own)
    tables = {fit.link: fit.capsules[0].table for fit in fits}
    assert not tables["panda_leftfinger"]
    assert tables["panda_hand"]


def _volume(capsule: Capsule) -> float:
    length = float(np.linalg.norm(np.subtract(capsule.end, capsule.start)))
    return np.pi * capsule.radius**2 * (length + 4 / 3 * capsule.radius)


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_arm_passes_its_check(tmp_path: Path) -> None:
    arm = load_or_skip(EXAMPLE)
    assert cli.main(["arm", "check", str(EXAMPLE), "--out", str(tmp_path / "my_arm.png")]) == 0
    assert found(arm, Severity.WARNING) == found(arm, Severity.ERROR) == ""
    points = {link: surface_points(each, spacing=0.02) for link, each in link_triangles(arm).items()}
    for link, on_link in points.items():
        assert outside(on_link, [capsule for capsule in arm.capsules if capsule.link == link]).max() <= 0.0


@pytest.mark.parametrize("task", ["reach", "push"])
def test_the_example_arm_plays_an_episode(task: str) -> None:
    load_or_skip(EXAMPLE)
    env = ManipulationEnv(task, str(EXAMPLE), "none", "state")
    try:
        env.reset(seed=1)
        success = ended = False
        while not (success or ended):
            action = env.world.task.teacher(env.world, env.behaviour.action)
            assert residual_of(action, env.behaviour.action, 0).twist.shape == (6,)
            _, _, success, ended, _ = env.step(action)
        assert success
    finally:
        env.close()
