"""The cell that a policy is trained for: task, arm, randomisation and scene, each loaded once."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from rlfp_ros.contract import ActionContract, BaseControllerContract, Bundle, CameraContract
from rlfp_ros.control.arm import Arm, flat_fields, load_arm
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.cell_camera import check_seen
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.randomization import Profile, load_profile
from rlfp_ros.simulation.scene import Scene, load_scene
from rlfp_ros.simulation.tasks.task import TASKS, Task, load_task, parameters


@dataclass(frozen=True)
class Cell:
    """One task for one arm in one scene. Frames, environments and the contract use this object."""

    task: str  # a task holds the bodies of one world, so each world makes its own with `make_task`
    arm: Arm
    profile: Profile
    scene: Scene

    @property
    def camera(self) -> CameraContract:
        """The scene's nominal camera."""
        return self.scene.camera.contract()

    @property
    def image_size(self) -> int:
        """Height of the camera's image, px."""
        return self.scene.camera.height

    @property
    def action(self) -> ActionContract:
        """The action of the task's policies."""
        return TASKS[self.task].action

    @property
    def base_controller(self) -> BaseControllerContract:
        """The base controller that the task's policies add to."""
        return TASKS[self.task].base_controller

    def make_task(self) -> Task:
        """Make the task with its settings for this arm. Raises ConfigurationError if they do not fit the arm."""
        task = load_task(self.task)
        task.fit_to(self.arm)
        return task

    def contents(self) -> dict[str, dict[str, JsonValue]]:
        """Return the contents of all files that determine a training, by dotted names, to detect changes."""
        return {
            # Without `arm` if it is empty, as in runs from before profiles could name one.
            "profile_file": flat_fields(
                self.profile.model_dump(mode="json", exclude=None if self.profile.arm else {"arm"})
            ),
            "task_file": flat_fields(parameters(self.make_task())),
            "scene_file": flat_fields(self.scene.document()),
            "arm_file": flat_fields({"name": self.arm.name, "urdf": self.arm.urdf} | self.arm.document())
            | {"urdf_digest": self.arm.digest},
        }


def load_cell(task: str, arm: str, profile: str, image_size: int | None = None) -> Cell:
    """Load a cell by the names, or paths of files, that a user gives.

    Raises
    ------
    ConfigurationError
        If one of them does not exist or is wrong, the task does not fit the arm, or the camera of the arm's cell does
        not suit the task.
    """
    loaded = load_arm(arm)
    cell = Cell(task, loaded, load_profile(profile), load_scene(image_size=image_size, arm=loaded))
    task_of_cell = cell.make_task()
    if loaded.workspace is not None:
        check_seen(loaded, task_of_cell, cell.camera)
        if cell.camera.rate_hz != cell.action.rate_hz:
            raise ConfigurationError(
                f"{loaded.cell_origin}: camera.rate_hz is {cell.camera.rate_hz:g}, but the policies of {task} act "
                f"{cell.action.rate_hz:g} times per second, once per image; set the camera and rate_hz to that rate"
            )
    return cell


def check_encoder_bundle(bundle: Bundle, cell: Cell, option: str = "--encoder-from") -> None:
    """Check that a bundle's encoder was trained for this cell's arm and camera.

    Raises
    ------
    ConfigurationError
        If it was trained with another arm, or with a camera at another place.
    """
    trained, arm = bundle.contract.arm, cell.arm
    if (trained.name, trained.joint_names) != (arm.name, arm.joint_names):
        raise ConfigurationError(
            f"{option} is {bundle.directory}: its encoder was trained with the arm {trained.name}, but this training's "
            f"arm is {arm.name}; choose a bundle of {arm.name}, or train an encoder for it with the recipe"
        )
    wanted = flat_fields(cell.camera.model_dump(mode="json", exclude={"tolerance", "width", "height", "intrinsics"}))
    found = flat_fields(bundle.contract.camera.model_dump(mode="json"))
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        name = different[0]
        raise ConfigurationError(
            f"{option} is {bundle.directory}: its encoder was trained with camera.{name} {found[name]}, but the scene "
            f"of this training has {wanted[name]}; restore the scene, or train an encoder for it with the recipe"
        )


def check_learnable(cell: Cell) -> None:
    """Raise ConfigurationError if the cell's task has no privileged state."""
    env = ManipulationEnv(cell.task, cell.arm, load_profile("none"), "state", image_size=cell.image_size)
    env.reset(seed=0)
    size = env.world.task.privileged_state(env.world).size
    env.close()
    if size == 0:
        raise ConfigurationError(
            f"task {cell.task}: has no privileged state, which critics learn from; return one from "
            "privileged_state() of the task's class"
        )
