"""Tests that every randomisation parameter has its effect, on pixels, motion or time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.cell_object import NOMINAL_MASS
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import PARAMETERS, Profile, Range, load_profile, sample
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import DT

# Lowest value that each is tried with against its nominal one; the image has to change.
VISIBLE = {
    "camera_position": 0.03,
    "camera_angle": 0.05,
    "field_of_view": 2.0,
    "lens_distortion": 0.2,
    "light_azimuth": 200.0,
    "light_elevation": 20.0,
    "light_colour": 0.5,
    "ambient": 0.9,
    "diffuse": 0.9,
    "specular": 0.9,
    "shadows": 1.0,
    "block_hue": 90.0,
    "block_saturation": 0.3,
    "block_value": 0.3,
    "arm_value": 0.3,
    "distractors": 5,
    "exposure": 0.8,
    "white_balance": 0.8,
    "gamma": 0.6,
    "noise": 10.0,
    "blur": 1.0,
    "jpeg_quality": 30.0,
    "glare": 0.5,
    "home_offset": 0.1,
    "low_light": 0.7,
    "fill_light": 0.6,
    "occluders": 3,
    "lamps": 2,
    "household": 5,
    "photographs": 1.0,
}
NEEDS = {"fill_azimuth": {"fill_light": 0.6}, "distractor_speed": {"distractors": 5}}  # to be seen at all
IN_MOTION = (
    "object_mass",
    "object_friction",
    "table_friction",
    "finger_friction",
    "joint_damping",
    "motor_gain",
    "motor_strength",
    "joint_noise",
    "distractor_speed",
    "motion_blur",
    "slider_friction",  # these two in test_stack_and_drawer.py
    "slider_damping",
    "drive_bandwidth",
    "drive_damping_ratio",
    "joint_friction",
    "joint_armature",
    "gravity_compensation",
)
OTHER_OBJECTS = {"other_hue": 150.0, "other_saturation": 0.4, "other_value": 0.3}  # of tasks with several objects
IN_TIME = ("camera_latency", "camera_jitter", "dropped_frames", "dropped_run", "command_latency")
ELSEWHERE = ("fill_azimuth", "arm_tint")


Value = float | tuple[float, ...]


def make_world(task: str = "reach", textures: str = "plain", /, **values: Value) -> PybulletWorld:
    """A world in which these parameters have these values and all others their nominal ones."""
    ranges = {name: Range(low=value, high=value, unit=PARAMETERS[name].unit) for name, value in values.items()}
    profile = Profile(name="given", textures=textures, ranges=ranges)
    return PybulletWorld(load_arm("panda"), load_task(task), profile, load_scene())


def first_image(seed: int, task: str = "reach", /, **values: float) -> np.ndarray:
    world = make_world(task, **values)
    world.reset(seed)
    image = world.image.astype(float)
    world.close()
    return image


@pytest.fixture(scope="module")
def nominal() -> np.ndarray:
    return first_image(5)


def test_every_parameter_is_tried_here() -> None:
    assert {*VISIBLE, *OTHER_OBJECTS, *IN_MOTION, *IN_TIME, *ELSEWHERE} == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(VISIBLE))
def test_each_visual_parameter_changes_the_image(name: str, nominal: np.ndarray) -> None:
    after = first_image(5, **{name: VISIBLE[name]})
    assert np.abs(after - nominal).mean() > 0.02
    if name in ("exposure", "gamma"):  # automatic exposure makes up for the others
        assert after.mean() > nominal.mean()


@pytest.mark.parametrize("name", sorted(OTHER_OBJECTS))
def test_the_colours_of_other_objects_change_the_image_of_a_task_that_has_some(name: str, nominal: np.ndarray) -> None:
    changed = {name: OTHER_OBJECTS[name]}
    assert np.abs(first_image(5, "stack", **changed) - first_image(5, "stack")).mean() > 0.02
    np.testing.assert_array_equal(first_image(5, **changed), nominal)


def test_the_second_light_comes_from_its_azimuth() -> None:
    one, other = (first_image(5, fill_light=0.6, fill_azimuth=angle) for angle in (0.0, 120.0))
    assert np.abs(one - other).mean() > 0.02


def test_arms_are_tinted() -> None:
    def colourfulness(tint: float) -> float:
        world = make_world("reach", "train", arm_tint=tint)
        world.reset(5)
        colours = [colour for (body, _), colour in world.renderer.colours.items() if body == world.arm_body and colour]
        world.close()
        return max(max(colour) - min(colour) for colour in colours)

    assert colourfulness(0.0) == 0
    assert colourfulness(0.4) > 0.2


def test_photographs_and_objects_of_validation_are_not_those_of_training() -> None:
    def pools(textures: str) -> tuple[set[bytes], list[str]]:
        world = make_world("reach", textures, photographs=1.0, household=1)
        shapes = [world.client.getVisualShapeData(body)[0][4].decode() for body in world.dressing.household]
        photographs = {image.tobytes() for image in world.dressing.photographs}
        world.close()
        return photographs, shapes

    train, held_out = pools("train"), pools("validation")
    assert train[0].isdisjoint(held_out[0])
    assert set(train[1]).isdisjoint(held_out[1])


def test_a_photograph_leaves_with_its_episode() -> None:
    sometimes = Range(low=0.5, high=0.5, unit="probability")
    profile = Profile(name="sometimes", textures="plain", ranges={"photographs": sometimes})
    world, plain = PybulletWorld(load_arm("panda"), load_task("reach"), profile, load_scene()), make_world()
    same = []
    for seed in range(8):
        world.reset(seed)
        plain.reset(seed)
        same.append(np.array_equal(world.image, plain.image))
    assert any(same)
    assert not all(same)


def test_distractors_swing_at_their_speed() -> None:
    def change(speed: float) -> float:
        world = make_world(distractors=5, distractor_speed=speed)
        world.reset(3)
        before = world.image.astype(float)
        for _ in range(64):
            world.step(None)
        return float(np.abs(world.image - before).mean())

    assert change(0.15) > 5 * change(0.0)


def test_a_long_exposure_blurs_only_moving_objects() -> None:
    def swinging(**values: float) -> np.ndarray:
        world = make_world(distractors=5, distractor_speed=0.15, **values)
        world.reset(3)
        for _ in range(16):
            world.step(None)
        return world.image.astype(float)

    still = make_world(motion_blur=0.0125)
    still.reset(5)
    for _ in range(16):
        still.step(None)
    assert np.abs(still.image - first_image(5)).mean() < 0.05
    assert np.abs(swinging(motion_blur=0.0125) - swinging()).mean() > 0.05


# --- motion ----------------------------------------------------------------------------------------------------------


def test_momentum_is_force_times_time_over_mass() -> None:
    """A block in the air that is pushed sideways. Bullet's own damping takes a little."""
    for ratio in (0.6, 1.6):
        world = make_world("push", object_mass=ratio)
        world.reset(0)
        block = world.task.block
        world.place(block, (0.5, 0.0, 0.6))
        for _ in range(12):
            position, _ = world.client.getBasePositionAndOrientation(block)
            world.client.applyExternalForce(block, -1, (0, 0.3, 0), position, world.client.WORLD_FRAME)
            world.step(None)
        velocity, _ = world.client.getBaseVelocity(block)
        assert velocity[1] == pytest.approx(0.3 * 12 * DT / (NOMINAL_MASS * ratio), rel=0.01)
        assert velocity[2] == pytest.approx(-9.81 * 12 * DT, rel=0.01)
        world.close()


@pytest.mark.parametrize("surface", ["object_friction", "table_friction"])
def test_a_sliding_block_stops_after_the_distance_that_friction_predicts(surface: str) -> None:
    other = {"object_friction": "table_friction", "table_friction": "object_friction"}[surface]
    for friction in (0.4, 0.8):
        world = make_world("push", **{surface: friction, other: 1.0})
        world.reset(0)
        world.place(world.task.block, (0.4, 0.0, 0.017))
        world.client.resetBaseVelocity(world.task.block, (0.0, 0.5, 0.0))
        for _ in range(120):
            world.step(None)
        slid = world.task.object_pose(world)[0][1]
        assert slid == pytest.approx(0.5**2 / (2 * friction * 9.81), rel=0.15)
        world.close()


def test_slippery_fingers_drop_the_object() -> None:
    def fall(friction: float) -> float:
        world = make_world("lift", finger_friction=friction)
        world.reset(0)
        world.move_arm(np.array(world.arm.home), 0.036)
        start = world.tool_position()
        for tick in range(60):
            if tick < 25:  # held there until the fingers have closed
                world.place(world.task.block, tuple(start))
            world.step(None, 0.0)
        dropped = float(start[2] - world.task.object_pose(world)[0][2])
        world.close()
        return dropped

    assert fall(1.0) < 0.01
    assert fall(0.02) > 0.05


def response(ticks: int, step: float = 0.1, **values: Value) -> float:
    """Return the share of a setpoint step (rad) that the joints have moved some ticks after it."""
    world = make_world(**values)
    world.reset(0)
    start = world.joint_state().positions
    world.step(Trajectory.to_rest(world.stamp_ns, 2 * DT, start + step))
    for _ in range(ticks):
        world.step(None)
    way = float((world.joint_state().positions - start).mean())
    world.close()
    return way / step


def test_weak_gains_strong_damping_and_weak_motors_slow_the_arm_down() -> None:
    assert response(6, 0.005, motor_gain=0.5) < 0.9 * response(6, 0.005)
    usual = response(12)
    assert response(12, motor_strength=0.2) < 0.5 * usual
    assert response(12, joint_damping=5.0) < 0.95 * usual


@pytest.mark.parametrize(
    "changed",
    [
        {"drive_bandwidth": 6.0},
        {"drive_damping_ratio": 0.2},
        {"joint_friction": 5.0},
        {"joint_damping": 20.0},
        {"joint_armature": 5.0},
        {"motor_gain": 0.3},
        {"motor_strength": 0.1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_parameter_of_the_drives_changes_the_motion(changed: dict[str, float]) -> None:
    assert abs(response(20, drive_bandwidth=1.5) - response(20, **{"drive_bandwidth": 1.5, **changed})) > 0.02


def test_each_joint_can_have_its_own_drive() -> None:
    world = make_world(drive_bandwidth=(0.5, 0.5, 0.5, 6.0, 6.0, 6.0, 6.0))
    world.reset(0)
    start = world.joint_state().positions
    world.step(Trajectory.to_rest(world.stamp_ns, 0.1, start + 0.05))
    for _ in range(30):
        world.step(None)
    way = (world.joint_state().positions - start) / 0.05
    world.close()
    assert way[:3].mean() + 0.2 < way[3:].mean()


def test_drives_that_do_not_carry_the_weight_sag_and_report_the_torque_that_they_give() -> None:
    sag = {}
    for compensation in (1.0, 0.9):
        world = make_world(drive_bandwidth=3.0, gravity_compensation=compensation)
        world.reset(0)
        start = world.joint_state().positions
        for _ in range(240):
            world.step(None)
        state = world.joint_state()
        sag[compensation] = np.abs(state.positions - start).max()
        assert abs(state.efforts[1]) > 10  # N m, which carry the arm
        world.close()
    assert sag[1.0] < 1e-3 < 2e-3 < sag[0.9]


def test_joint_readings_are_as_noisy_as_drawn() -> None:
    world, quiet = make_world(joint_noise=0.002), make_world()
    difference = []
    for each in (world, quiet):
        each.reset(0)
    for _ in range(60):
        difference.append(world.joint_state().positions - quiet.joint_state().positions)
        world.step(None)
        quiet.step(None)
    assert np.std(difference) == pytest.approx(0.002, rel=0.15)


# --- time ------------------------------------------------------------------------------------------------------------


def deliveries(ticks: int, **values: float) -> tuple[list[int], np.ndarray]:
    """Ticks at which images were taken, and how long each took to be delivered, in ticks."""
    world = make_world(**values)
    world.reset(0)
    taken, delays, start = [world.tick], [], world.tick
    for _ in range(ticks):
        delays += [round((world.stamp_ns - frame.stamp_ns) * 1e-9 / DT) for frame in world.delivered_frames()]
        world.step(None)
        if world.captured:
            taken.append(world.tick)
    world.close()
    return [tick - start for tick in taken], np.array(delays)


def test_images_come_late_by_latency_and_jitter() -> None:
    for latency in (0.02, 0.05):
        _, delays = deliveries(64, camera_latency=latency)
        assert set(delays.tolist()) == {round(latency / DT)}
    _, jittered = deliveries(160, camera_latency=0.02, camera_jitter=0.01)
    assert jittered.min() >= round(0.02 / DT)
    assert len(set(jittered.tolist())) > 2


def test_commands_act_after_their_latency() -> None:
    fast, slow = response(8, command_latency=0.0), response(8, command_latency=6 * DT)
    assert response(14, command_latency=6 * DT) == pytest.approx(fast, abs=0.02)
    assert slow < 0.5 * fast


def test_frames_are_lost_as_often_as_drawn_and_in_runs() -> None:
    taken, _ = deliveries(8 * 200, dropped_frames=0.3)
    assert len(taken) == pytest.approx(0.7 * 200, rel=0.15)
    taken, _ = deliveries(8 * 200, dropped_frames=0.1, dropped_run=3)
    gaps = np.diff(taken) // 8 - 1  # frames missing in a row
    assert (gaps[gaps > 0] >= 3).all()
    assert (gaps >= 3).any()


def test_parameters_that_a_profile_omits_keep_their_random_numbers() -> None:
    """Recorded seeds mean something: these are of the first release of the profile."""
    drawn = sample(load_profile("train"), 7)
    assert drawn["camera_latency"] == 0.03770027798567588
    for name in ("lamps", "household", "photographs"):
        assert drawn[name] == 0
    assert drawn["dropped_run"] == 1


def test_a_folder_called_train_does_not_stand_for_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_profile("train").name == "train"
    with pytest.raises(ConfigurationError, match="mine: is a folder, and sim/randomization/ has no 'mine'; it has: "):
        load_profile("mine")
