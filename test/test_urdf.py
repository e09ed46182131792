"""Tests of URDF files as vendors ship them: mesh names of every kind, prefixes, continuous joints, pointers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import load_or_skip

from rlfp_ros import paths
from rlfp_ros.control.arm import Arm, load_arm
from rlfp_ros.control.arm_parts import Pointer
from rlfp_ros.control.kinematics import Kinematics
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.arm_renderer import ArmRenderer
from rlfp_ros.simulation.bullet import connect
from rlfp_ros.simulation.mujoco_arm import arm_spec
from rlfp_ros.simulation.urdf import load_arm_body, read_urdf

FR3 = load_arm("fr3")
TEXT = FR3.urdf_path.read_text()
MESHES = "package://pybullet_data/franka_panda/meshes/collision/"
FILES = load_arm("panda").urdf_path.parent / "meshes" / "collision"


def arm_with(urdf: str, folder: Path, **changes: object) -> Arm:
    """The FR3 with another URDF, from a file of its own."""
    (folder / "mine.urdf").write_text(urdf)
    document = FR3.model_dump(mode="json", exclude_defaults=True) | {"name": "mine", "urdf": "mine.urdf"} | changes
    (folder / "mine.yaml").write_text(yaml.safe_dump(document))
    return load_arm(folder / "mine.yaml")


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        (f"file://{FILES}/", ""),
        (f"{FILES}/", ""),
        ("meshes/", ""),
        ("package://my_description/meshes/", ""),
        ("package://elsewhere/meshes/", "ROS_PACKAGE_PATH"),
        ("model://elsewhere/meshes/", "GAZEBO_MODEL_PATH"),
        ("package://ament/meshes/", "AMENT_PREFIX_PATH"),
    ],
)
def test_meshes_are_found_by_every_kind_of_name(
    name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my_description"
    for place in (folder, tmp_path / "ws" / "elsewhere", tmp_path / "ws" / "share" / "ament"):
        place.mkdir(parents=True)
        (place / "meshes").symlink_to(FILES)
    if variable:
        monkeypatch.setenv(variable, f"/nowhere:{tmp_path / 'ws'}")
    arm = arm_with(TEXT.replace(MESHES, name), folder)
    found = {Path(mesh.attrib["filename"]).resolve() for mesh in read_urdf(arm).iter("mesh")}
    assert found
    assert all(path.is_file() and path.parent == FILES.resolve() for path in found)
    ArmRenderer(arm, "collision").close()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (MESHES, "file:///nowhere/", r"mesh 'file:///nowhere/link0.obj' of link 'fr3_link0' is not a file"),
        (MESHES, "package://no_such.package/", r"link 'fr3_link0' is in a package 'no_such.package' that is not"),
        (MESHES, "model://arm/", r"mesh 'model://arm/link0.obj' of link 'fr3_link0' is in a package 'arm'"),
        (MESHES, "package://pybullet_data/nothing/", r"link 'fr3_link0' is not a file \(.*pybullet_data"),
        (MESHES, "https://example.com/", r"link 'fr3_link0' has the scheme https://, expected a path, file://"),
        (f'<mesh filename="{MESHES}link0.obj"', "<mesh", r"a mesh of link 'fr3_link0' has no filename; add it"),
        (f'filename="{MESHES}link0.obj"', 'filename=""', r"a mesh of link 'fr3_link0' has no filename; add it"),
        ('<link name="fr3_link0">', "<link>", r"a link has no name; add it"),
        ("<robot", "<sdf", r"mine.urdf: not XML"),
        (f"{MESHES}link0.obj", "mine.urdf", r"of link 'fr3_link0' is a .urdf file, expected .stl, .obj, .dae; convert"),
    ],
)
def test_a_mesh_that_is_missing_is_one_sentence_in_align_and_in_both_simulators(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in TEXT
    arm = arm_with(TEXT.replace(old, new), tmp_path)
    uses: tuple[Callable[[], object], ...] = (
        lambda: ArmRenderer(arm),
        lambda: ArmRenderer(arm, "collision"),
        lambda: arm_spec(arm),
    )
    for use in uses:
        with pytest.raises(ConfigurationError, match=message) as refused:
            use()
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith(str(tmp_path / "mine.urdf"))


def test_a_urdf_that_pybullet_refuses_is_one_sentence(tmp_path: Path) -> None:
    loose = TEXT.replace('<child link="fr3_link4"/>', '<child link="fr3_link44"/>')
    assert loose != TEXT
    with pytest.raises(ConfigurationError, match=r"mine.urdf: PyBullet cannot load it .* parent and child are links"):
        ArmRenderer(arm_with(loose, tmp_path), "collision")


@pytest.mark.parametrize("given", ["", "left_"])
def test_prefixed_names_are_found_by_themselves_or_by_the_arm_file(given: str, tmp_path: Path) -> None:
    prefixed = TEXT.replace('"fr3_', '"left_fr3_')
    arm = arm_with(prefixed, tmp_path, urdf_prefix=given)
    joints = np.array(arm.home) + 0.1
    assert Kinematics(arm).forward(joints) == pytest.approx(Kinematics(FR3).forward(joints))
    ArmRenderer(arm, "collision").close()
    arm_spec(arm)


def test_a_prefix_that_is_not_certain_is_asked_for(tmp_path: Path) -> None:
    body = TEXT[TEXT.index("<link") : TEXT.rindex("</robot>")]
    both = "".join(body.replace('"fr3_', f'"{side}_fr3_') for side in ("left", "right"))
    text = f'<robot name="two"><link name="root"/>{both}'
    for side in ("left", "right"):
        text += f'<joint name="{side}" type="fixed"><parent link="root"/><child link="{side}_fr3_link0"/></joint>'
    with pytest.raises(ConfigurationError, match=r"have the prefixes left_, right_; say which arm .* urdf_prefix"):
        Kinematics(arm_with(text + "</robot>", tmp_path))
    arm = arm_with(text + "</robot>", tmp_path, urdf_prefix="right_")
    assert Kinematics(arm).forward(np.array(arm.home)) == pytest.approx(Kinematics(FR3).forward(np.array(FR3.home)))
    with pytest.raises(ConfigurationError, match=r"mine.yaml: urdf_prefix is 'top_', but mine.urdf has no 'top_fr3"):
        Kinematics(arm_with(text + "</robot>", tmp_path, urdf_prefix="top_"))


def test_a_joint_that_turns_without_end_takes_the_limits_of_the_arm_file(tmp_path: Path) -> None:
    start = TEXT.index('<joint name="fr3_joint7"')
    text = TEXT[:start] + TEXT[start:].replace('type="revolute"', 'type="continuous"', 1)
    arm = arm_with(text, tmp_path)
    kinematics = Kinematics(arm)
    assert kinematics.model.nq == 7
    assert kinematics.model.upperPositionLimit[6] == pytest.approx(FR3.limits.upper[6])


@pytest.mark.parametrize("direction", [(0, 0, 1), (0, 0, -2), (1, 0, 0), (0, -1, 0), (0.3, -0.5, 0.8)])
def test_a_pointer_may_have_any_direction(direction: tuple[float, float, float]) -> None:
    """The tool frame's z axis is the rod, for kinematics and for the URDF that both simulators read."""
    xarm = load_or_skip("xarm6")
    assert xarm.pointer is not None
    arm = xarm.model_copy(
        update={"pointer": Pointer(link="link6", direction=direction, length=0.1, radius=0.01, mass=0.1)}
    )
    flange = xarm.model_copy(update={"pointer": None, "tool_frame": "link6"})
    joints = np.array(xarm.home) + np.linspace(-0.3, 0.4, 6)
    end, mount = Kinematics(arm).forward(joints), Kinematics(flange).forward(joints)
    along = mount[:3, :3] @ np.array(direction) / np.linalg.norm(direction)
    assert end[:3, 2] == pytest.approx(along)
    assert end[:3, 3] == pytest.approx(mount[:3, 3] + 0.1 * along)
    assert np.linalg.det(end[:3, :3]) == pytest.approx(1.0)
    client = connect()
    loaded = load_arm_body(client, arm)
    for name, angle in zip(arm.joint_names, joints, strict=True):
        client.resetJointState(loaded.body, loaded.joints[name], angle)
    last = client.getNumJoints(loaded.body) - 1
    state = client.getLinkState(loaded.body, last, computeForwardKinematics=True)
    client.disconnect()
    assert state[4] == pytest.approx(end[:3, 3], abs=1e-5)
    x, y, z, w = state[5]
    assert [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)] == pytest.approx(end[:3, 2], abs=1e-5)


def test_a_pointer_without_a_direction_is_refused(tmp_path: Path) -> None:
    text = Path(paths.share_directory() / "config/arms/xarm6.yaml").read_text()
    own = tmp_path / "mine.yaml"
    own.write_text(
        text.replace("name: xarm6", "name: mine").replace("{link: link6,", "{link: link6, direction: [0, 0, 0],")
    )
    with pytest.raises(
        ConfigurationError, match=r"mine.yaml: pointer: direction is \[0.0, 0.0, 0.0\], expected a vector"
    ):
        load_arm(own)
