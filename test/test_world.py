"""Tests of the simulated world: physics, determinism, timing and camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pybullet
import pytest
from pybullet_utils import bullet_client

from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import PARAMETERS, Profile, Range, load_profile, sample
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.ticked_world import TICKS_PER_SECOND
from rlfp_ros.simulation.urdf import simulation_urdf

HOME = np.array(load_arm("panda").home)
CAMERA = np.array([[0.0, 0.6, -0.8, 1.4], [1.0, 0.0, 0.0, 0.0], [0.0, -0.8, -0.6, 0.9], [0.0, 0.0, 0.0, 1.0]])  # T_base


def make_world(profile: str | Profile = "none", arm: str = "panda") -> PybulletWorld:
    profile = load_profile(profile) if isinstance(profile, str) else profile
    return PybulletWorld(load_arm(arm), load_task("reach"), profile, load_scene())


@pytest.fixture(scope="module")
def nominal() -> PybulletWorld:
    return make_world("none")


@pytest.fixture(scope="module")
def randomised() -> PybulletWorld:
    return make_world("train")


def play(world: PybulletWorld, seed: int, ticks: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and joint positions of an episode in which nothing is commanded."""
    world.reset(seed)
    images, joints = [world.image], []
    for _ in range(ticks):
        joints.append(world.joint_state().positions)
        world.step(None)
        if world.captured:
            images.append(world.image)
    return images, joints


def test_a_block_on_the_table_stays_where_it_is(nominal: PybulletWorld) -> None:
    nominal.reset(3)
    before, _ = nominal.task.object_pose(nominal)
    for _ in range(TICKS_PER_SECOND):
        nominal.step(None)
    after, _ = nominal.task.object_pose(nominal)
    assert np.linalg.norm(after - before) < 1e-3


def test_an_uncommanded_arm_holds_its_posture(nominal: PybulletWorld) -> None:
    nominal.reset(0)
    start = nominal.joint_state().positions
    for _ in range(TICKS_PER_SECOND):
        nominal.step(None)
    assert np.abs(nominal.joint_state().positions - start).max() < 2e-3


def test_the_arm_follows_a_trajectory_to_its_end(nominal: PybulletWorld) -> None:
    nominal.reset(0)
    start = nominal.joint_state().positions
    goal = start + 0.1
    nominal.step(Trajectory.to_rest(nominal.stamp_ns, 0.5, goal))
    for _ in range(TICKS_PER_SECOND):
        nominal.step(None)
    assert np.abs(nominal.joint_state().positions - goal).max() < 3e-3


def test_simulated_and_pinocchio_kinematics_agree(nominal: PybulletWorld) -> None:
    kinematics = Kinematics(nominal.arm)
    rng = np.random.default_rng(1)
    limits = nominal.arm.limits
    for _ in range(20):
        q = rng.uniform(limits.lower, limits.upper)
        nominal.reset(0)
        nominal.move_arm(q, 0.08)
        np.testing.assert_allclose(nominal.tool_position(), kinematics.tool_position(q), atol=1e-6)


def test_the_same_seed_gives_the_same_pixels_and_joints(randomised: PybulletWorld) -> None:
    first = play(randomised, 11, 40)
    other = play(make_world("train"), 11, 40)
    for one, two in zip(first[0] + first[1], other[0] + other[1], strict=True):
        np.testing.assert_array_equal(one, two)


def test_another_seed_gives_another_image(randomised: PybulletWorld) -> None:
    assert not np.array_equal(play(randomised, 1, 1)[0][0], play(randomised, 2, 1)[0][0])


def test_stamps_increase_over_episodes_and_frames_come_in_order(randomised: PybulletWorld) -> None:
    last = 0
    for seed in range(3):
        randomised.reset(seed)
        for _ in range(60):
            for frame in randomised.delivered_frames():
                assert last < frame.stamp_ns < randomised.stamp_ns
                last = frame.stamp_ns
            randomised.step(None)


def test_a_profile_can_drop_all_frames() -> None:
    always = Range(low=1.0, high=1.0, unit="probability")
    world = make_world(Profile(name="blind", textures="plain", ranges={"dropped_frames": always}))
    images, _ = play(world, 0, 80)
    assert len(images) == 1  # the first one starts the episode and is never dropped


def test_keypoints_lie_on_the_block_in_the_image() -> None:
    """The label that the encoder is trained with, against the image: red is the block alone under `none`."""
    world = make_world("none")
    intrinsics = world.camera.contract.intrinsics
    for seed in range(8):
        world.reset(seed)
        image = world.image.astype(int)
        red = (image[..., 0] - image[..., 1:].max(axis=-1)) > 60
        rows, columns = np.nonzero(red)
        centre = np.array([columns.mean(), rows.mean()])
        keypoint = world.keypoints()[0] * (intrinsics.fx, intrinsics.fy) + (intrinsics.cx, intrinsics.cy)
        assert np.linalg.norm(centre - keypoint) < 1.0, seed


def test_switching_one_parameter_off_leaves_the_others_as_they_were() -> None:
    profile = load_profile("train")
    whole, without = sample(profile, 9), sample(profile.without("noise"), 9)
    assert without["noise"] == PARAMETERS["noise"].nominal
    assert {k: v for k, v in whole.values.items() if k != "noise"} == {
        k: v for k, v in without.values.items() if k != "noise"
    }


def test_samples_stay_inside_their_ranges() -> None:
    for name in ("train", "validation"):
        profile = load_profile(name)
        for seed in range(50):
            for parameter, given in profile.ranges.items():
                values = np.atleast_1d(sample(profile, seed)[parameter])
                assert (values >= given.low).all()
                assert (values <= given.high).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ntextures: plain\nnoize: {low: 0, high: 1, unit: counts}", "noize is not a known parameter"),
        ("name: x\ntextures: plain\nnoise: {low: 2, high: 1, unit: counts}", "low 2.0 above high 1.0"),
        ("name: x\ntextures: plain\nnoise: {low: 0, high: 1}", "ranges.noise.unit is missing"),
        ("name: x\ntextures: plain\nnoise: {low: 0, high: 1, unit: px}", "noise.unit is 'px', expected 'counts'"),
        ("name: x\ntextures: marble", "textures is 'marble'"),
        ("name: x\ntextures: [", "not valid YAML"),
    ],
)
def test_a_bad_profile_is_refused_in_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load_profile(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_an_arm_whose_joint_is_not_in_its_urdf_is_refused() -> None:
    arm = load_arm("panda")
    wrong = arm.model_copy(update={"joint_names": ("panda_joint1", "elbow", *arm.joint_names[2:])})
    with pytest.raises(ConfigurationError, match="joint elbow is not in"):
        PybulletWorld(wrong, load_task("reach"), load_profile("none"), load_scene())


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"expected one of: .*lift, place, push, reach"):
        load_task("juggle")


def test_coarse_visuals_have_fewer_triangles_in_the_same_place() -> None:
    fine = make_world()
    arm = load_arm("panda").model_copy(update={"visuals": "low_polygon"})
    rough = PybulletWorld(arm, load_task("reach"), load_profile("none"), load_scene())
    triangles = []
    for world in (fine, rough):
        shapes = [shape[4].decode() for shape in world.client.getVisualShapeData(world.arm_body)]
        triangles.append(sum(Path(shape).read_text().count("\nf ") for shape in shapes if shape))
        world.reset(2)
    assert triangles[1] < 0.65 * triangles[0]
    assert np.abs(fine.image.astype(float) - rough.image).mean() < 3.0  # of 255


def test_low_polygon_visuals_are_the_collision_meshes() -> None:
    text = simulation_urdf(load_arm("panda")).read_text()
    assert "collision/link1.obj" in text
    assert "visual/link1.obj" not in text


def test_a_slow_renderer_costs_images_and_never_physics(randomised: PybulletWorld) -> None:
    images, joints = play(randomised, 4, 96)
    randomised.frame_stride = 3
    fewer, same_joints = play(randomised, 4, 96)
    randomised.frame_stride = 1
    assert len(fewer) <= -(-len(images) // 3) + 1
    for one, two in zip(joints, same_joints, strict=True):
        np.testing.assert_array_equal(one, two)


def test_images_are_the_same_if_pybullet_was_built_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.12 pip builds PyBullet in isolation, without NumPy, and every image comes as a tuple of numbers."""
    fresh = make_world("train")
    expected, _ = play(fresh, 3, 30)
    pinhole = CameraModel(84, 84, fresh.camera.contract.intrinsics.matrix())
    drawn = ArmRenderer(load_arm("panda"))(pinhole, CAMERA, HOME)
    attribute_of = bullet_client.BulletClient.__getattr__

    def without_arrays(client: Any, name: str) -> Any:
        attribute = attribute_of(client, name)
        if name != "getCameraImage":
            return attribute

        def flat(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            width, height, *arrays = attribute(*args, **kwargs)
            return width, height, *(tuple(array.ravel().tolist()) for array in arrays)

        return flat

    monkeypatch.setattr(bullet_client.BulletClient, "__getattr__", without_arrays)
    monkeypatch.setattr(pybullet, "isNumpyEnabled", lambda: 0)
    images, _ = play(make_world("train"), 3, 30)
    assert [image.tolist() for image in images] == [image.tolist() for image in expected]
    again = ArmRenderer(load_arm("panda"))(pinhole, CAMERA, HOME)
    np.testing.assert_array_equal(again.image, drawn.image)
    np.testing.assert_array_equal(again.depth, drawn.depth)
    np.testing.assert_array_equal(again.mask, drawn.mask)


def test_after_run_on_a_world_continues_and_no_episode_ends_until_the_next_one_is_judged() -> None:
    """The twin of a real arm continues to move between two episodes."""
    world = make_world("none")

    def frames_until_an_outcome(limit: int) -> int | None:
        for frame in range(limit):
            if world.outcome is not None:
                return frame
            for _ in range(world.ticks_per_frame):
                world.step(None)
        return None

    world.reset(0)
    limit = round(world.task.settings.time_limit * TICKS_PER_SECOND / world.ticks_per_frame)
    assert frames_until_an_outcome(limit + 2) == limit
    tick = world.tick
    world.run_on()
    assert world.outcome is None
    assert frames_until_an_outcome(limit + 2) is None
    assert world.tick > tick
    world.judged = True
    world.reset(0)
    assert frames_until_an_outcome(limit + 2) == limit
