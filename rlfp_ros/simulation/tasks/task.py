"""The base class and the registry of tasks. Each task has a file; its settings are in `sim/tasks/` or beside a plugin.

A new task is one class with a reward and a success criterion:

    from rlfp_ros.simulation.tasks.task import TASKS, Task

    @TASKS.register("hover")
    class Hover(Task):
        def distance(self, scene):
            return abs(scene.tool_position()[2] - 0.2)

        def reward(self, scene, success):
            return -self.distance(scene) + 5 * success

Everything else has a default: one block in `settings.region`, a policy that moves the tool, no base motion, no goal.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rlfp_ros import paths, schema
from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation import gymnasium_ids
from rlfp_ros.simulation.arm_settings import fit_settings
from rlfp_ros.simulation.tasks.task_scene import Body, SceneBuilder, TaskScene, TeacherScene
from rlfp_ros.simulation.tasks.task_settings import TaskSettings

if TYPE_CHECKING:
    from rlfp_ros.control.arm import Arm

# m, base frame. This keypoint, a point on the arm that never moves, shows the camera's pose. It is visible in most
# images of every arm.
ARM_FOOT = (0.0, 0.0, 0.1)
KEYPOINTS = ("object", "tool", "hand", "base")
HOLD = BaseControllerContract(name="hold")
TOOL_ACTION = ActionContract(
    components=("vx", "vy", "vz"), scale=(0.25, 0.25, 0.25), units=("m/s", "m/s", "m/s"), rate_hz=30.0
)
GRIPPING_ACTION = ActionContract(
    components=("vx", "vy", "vz", "gripper"),
    scale=(0.25, 0.25, 0.25, 0.04),
    units=("m/s", "m/s", "m/s", "m"),
    rate_hz=30.0,
)


class Task(ABC):
    """Objects, reward and success of one task, and the action and base controller that its policies use.

    A subclass defines `reward`, and `distance` or `success`. A world calls the methods. A task uses only random numbers
    of the generator that it is given. Everything that changes with an episode is kept in `state`, a dataclass that a
    world copies to save and restore an episode.

    Parameters
    ----------
    settings
        The task's settings, of the class's `settings_schema`.
    source
        Names the settings in messages; by default the file in `sim/tasks`.
    """

    settings_schema: ClassVar[type[TaskSettings]] = TaskSettings
    action: ClassVar[ActionContract] = TOOL_ACTION
    base_controller: ClassVar[BaseControllerContract] = HOLD
    # Training sizes that differ from the defaults of a recipe: part of the recipe -> changed fields.
    training: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    keypoints: tuple[str, ...] = KEYPOINTS  # the encoder's first feature points are supervised with these
    # The keypoints that lie on the task's objects, the one that the policy moves first; images for training show them.
    objects: tuple[str, ...] = ("object",)
    starts_closed: ClassVar[bool] = False  # whether the gripper is closed at the start of an episode
    grips: ClassVar[bool] = False  # whether the object is gripped; then the fingers are coupled, as in a real gripper
    pushes: ClassVar[bool] = False  # whether the tool pushes the object

    def __init__(self, settings: TaskSettings, source: str = "") -> None:
        kind = type(self)
        if kind.success is Task.success and kind.distance is Task.distance:
            raise ConfigurationError(
                f"task {settings.task}: class {kind.__name__} defines neither `distance` nor `success`, so nothing "
                "wins it; add one of them"
            )
        if kind.reached_goal is not Task.reached_goal and kind.pursue is Task.pursue:
            raise ConfigurationError(
                f"task {settings.task}: class {kind.__name__} defines `reached_goal` without `pursue`, so the goal "
                "cannot be used; add `pursue`"
            )
        unknown = [name for name in kind.objects if name not in self.keypoints]
        if unknown:
            raise ConfigurationError(
                f"task {settings.task}: class {kind.__name__} has {unknown[0]!r} in `objects`, but not in `keypoints`; "
                "add it there"
            )
        self.settings = settings
        self.source = source or f"sim/tasks/{settings.task}.yaml"
        self.block: Body = -1  # the object's body, from `build` on
        self.state: Any = None

    def fit_to(self, arm: Arm) -> None:
        """Use the settings for this arm. Raises ConfigurationError if a region is out of the tool's reach."""
        self.settings = fit_settings(self.settings, arm, self.source)
        lower, upper = arm.tool_limits.lower, arm.tool_limits.upper
        if lower[2] > self.object_height:
            raise ConfigurationError(
                f"{arm.origin}: tool_limits.lower keeps the tool {lower[2]} m above the table, but the "
                f"block of {self.source} is {self.object_height} m high; give the arm "
                "a gripper or a pointer, or choose another arm"
            )
        for name, region in self.settings.regions().items():
            for axis in range(2):
                if region.lower[axis] < lower[axis] or region.upper[axis] > upper[axis]:
                    raise ConfigurationError(
                        f"{self.source}: {name} reaches from {region.lower[axis]} to "
                        f"{region.upper[axis]} m in {'xy'[axis]}, but tool_limits of {arm.origin} "
                        f"allow {lower[axis]} to {upper[axis]}; make the region smaller or choose another arm"
                    )

    # --- to be defined by a task -----------------------------------------------------------------------------------

    @abstractmethod
    def reward(self, scene: TaskScene, success: bool) -> float:
        """Return the dense reward of one camera frame; `success` is true on the last frame of a won episode."""

    def distance(self, scene: TaskScene) -> float:
        """Return the distance from success, m; by default from the tool to the object."""
        return float(np.linalg.norm(scene.tool_position() - self.object_pose(scene)[0]))

    def success(self, scene: TaskScene) -> bool:
        """Return whether the task is done at this frame; an episode is won once this lasts for `settings.hold`."""
        return self.distance(scene) < self.settings.success_distance

    # --- with a default --------------------------------------------------------------------------------------------

    def build(self, builder: SceneBuilder) -> None:
        """Create the task's bodies, once; by default one block."""
        self.block = builder.add_block(self.settings.block_size)

    def reset(self, builder: SceneBuilder, rng: np.random.Generator) -> None:
        """Place the bodies for a new episode; by default the block anywhere in `settings.region`, at any yaw."""
        x, y = rng.uniform(self.settings.region.lower, self.settings.region.upper)
        builder.place(self.block, (x, y, self.settings.block_size[2] / 2), yaw=rng.uniform(-np.pi, np.pi))

    def scatter(self, builder: SceneBuilder, scene: TaskScene, rng: np.random.Generator) -> None:
        """Move bodies to where they may be in the middle of an episode, for images to learn from; default: nothing."""
        return

    def object_pose(self, scene: TeacherScene) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3] m and quaternion xyzw [4] of the object that matters, base frame; default: the block."""
        return scene.body_pose(self.block)

    def keypoint(self, name: str, scene: TaskScene) -> np.ndarray:
        """Return the position [3] m, base frame, of one of `keypoints`; a task with points of its own adds them."""
        if name == "object":
            return self.object_pose(scene)[0]
        if name == "tool":
            return scene.tool_position()
        if name == "hand":
            return scene.hand_position()
        if name == "base":
            return np.array(ARM_FOOT)
        raise ConfigurationError(
            f"task {self.settings.task}: keypoints has {name!r}, expected {', '.join(KEYPOINTS)} or a name that the "
            "method `keypoint` knows"
        )

    def keypoint_positions(self, scene: TaskScene) -> np.ndarray:
        """Return the positions of `keypoints`, [len(keypoints), 3] m, base frame."""
        return np.stack([self.keypoint(name, scene) for name in self.keypoints])

    def object_points(self, scene: TaskScene) -> np.ndarray:
        """Return the positions of `objects`, [len(objects), 3] m, base frame."""
        return np.stack([self.keypoint(name, scene) for name in self.objects])

    def privileged_state(self, scene: TaskScene) -> np.ndarray:
        """Return the privileged state, [P] float32, for critics and teachers but never for a deployed policy.

        By default the object's pose, the tool, the vectors between them and to the goal if there is one, the tool's
        velocity and the gripper's opening.
        """
        block, turned = self.object_pose(scene)
        tool, goal = scene.tool_position(), self.goal_point()
        to_goal = [] if goal is None else [goal - block]
        parts = [block, turned, tool, block - tool, *to_goal, scene.tool_velocity(), [scene.gripper_width()]]
        return np.concatenate(parts).astype(np.float32)

    def goal_point(self) -> np.ndarray | None:
        """Return the goal of this episode, [3] m in the base frame, or None for a task without one."""
        return None

    def goal(self, scene: TaskScene) -> np.ndarray | None:
        """Return the goal for the policy's input, [3] m in the base frame, or None."""
        return self.goal_point()

    def reached_goal(self, scene: TaskScene) -> np.ndarray | None:
        """Return the goal [3] m that this scene reaches, for hindsight, or None if there is none."""
        return None

    def pursue(self, goal: np.ndarray) -> None:
        """Use another goal, [3] m; a task that defines `reached_goal` defines this too."""
        raise ConfigurationError(f"task {self.settings.task}: has no goal that could be exchanged; define `pursue`")

    def teacher(self, scene: TeacherScene, action: ActionContract) -> np.ndarray:
        """Return a good action [A] in [-1, 1] for imitation learning. Optional."""
        raise ConfigurationError(self._no_teacher("its teacher was asked for an action"))

    @property
    def object_height(self) -> float:
        """Height of the object's top above the table, m, to which the tool has to come down."""
        return self.settings.block_size[2]

    # --- for callers ------------------------------------------------------------------------------------------------

    @property
    def has_teacher(self) -> bool:
        """Whether the task defines `teacher`."""
        return type(self).teacher is not Task.teacher

    def require_teacher(self, reason: str) -> None:
        """Raise ConfigurationError that gives `reason` if the task has no teacher."""
        if not self.has_teacher:
            raise ConfigurationError(self._no_teacher(reason))

    def _no_teacher(self, reason: str) -> str:
        return (
            f"task {self.settings.task}: has no teacher, but {reason}; add a method `teacher` to class "
            f"{type(self).__name__}, or train without one (--recipe reinforcement, or --algorithm sac)"
        )


class _TaskRegistry(Registry[type[Task]]):
    def add(self, name: str, entry: type[Task]) -> None:
        super().add(name, entry)
        gymnasium_ids.register([name])


TASKS = _TaskRegistry("task", builtin="rlfp_ros.simulation.tasks", entry_type=Task)


def load_task(name: str) -> Task:
    """Return the task `name` with its settings.

    They come from `<name>.yaml` or `<file>.yaml` beside the file of a plugin's class, else from
    `sim/tasks/<name>.yaml`, else from the defaults of the class's `settings_schema`.

    Raises
    ------
    ConfigurationError
        If there is no such task or its settings do not fit.
    """
    task = TASKS[name]
    path = _settings_file(name, task)
    if path is None:
        source = f"the default settings of task {name}"
        return task(schema.validate({"task": name}, task.settings_schema, source), source)
    # Messages name a shipped file as in the repository, also if it is installed elsewhere.
    source = f"sim/tasks/{name}.yaml" if path.is_relative_to(_shipped_settings()) else str(path)
    document = schema.read_yaml(path)
    if isinstance(document, dict):
        document = {"task": name} | document
    settings = schema.validate(document, task.settings_schema, str(path))
    if settings.task != name:
        raise ConfigurationError(f"{path}: task is {settings.task!r}, expected {name!r}, the task it belongs to")
    for arm in settings.arms:
        settings.for_arm(arm, source)  # find errors now, and not only when the arm is used
    return task(settings, source)


def parameters(task: Task) -> dict[str, Any]:
    """Return the task's settings as plain data, for provenance."""
    return task.settings.model_dump(mode="json")


def _shipped_settings() -> Path:
    return paths.share_directory() / "sim" / "tasks"


def _settings_file(name: str, task: type[Task]) -> Path | None:
    places = [_shipped_settings() / f"{name}.yaml"]
    if not task.__module__.startswith("rlfp_ros.") and getattr(sys.modules.get(task.__module__), "__file__", None):
        plugin = Path(inspect.getfile(task))
        places[:0] = [plugin.with_name(f"{name}.yaml"), *_settings_of_the_whole_file(plugin, name)]
    return next((place for place in places if place.is_file()), None)


def _settings_of_the_whole_file(plugin: Path, name: str) -> list[Path]:
    """Return `<plugin>.yaml` if it belongs to task `name`; a plugin may define several tasks."""
    beside = plugin.with_suffix(".yaml")
    document = schema.read_yaml(beside) if beside.is_file() else None
    return [beside] if isinstance(document, dict) and document.get("task") == name else []
