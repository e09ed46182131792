"""The arm that a bundle runs on: the copy in the bundle, or a given arm whose limits are not wider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import LIMITS, Arm, differences, load_arm, read_arm
from rlfp_ros.control.workspace import DEFAULT_BLOCK, CellObject, departures, region_departures
from rlfp_ros.schema import ConfigurationError

TOLERANCE = 1e-9  # relative; allows for rounding when a limit is written to a text file
SAME = ("joint_names", "base_frame", "tool_frame")  # fields that must be as in training
MAX_NAMED = 4  # fields that one message lists


def trained_arm(bundle: Bundle) -> Arm:
    """Load the arm that a bundle's policy was trained with.

    A bundle that was written before release 0.2 carries no arm; its contract names one in config/arms/.

    Raises
    ------
    ConfigurationError
        If the bundle's file is wrong, or if there is no arm of that name.
    """
    if bundle.arm_file is not None:
        return read_arm(bundle.arm_file)
    try:
        return load_arm(bundle.contract.arm.name)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{bundle.directory}: carries no arm.yaml and was trained with arm {bundle.contract.arm.name!r}; give the "
            f"arm's file (--arm or arm:=), or export the bundle again ({error})"
        ) from None


def choose_arm(
    bundle: Bundle, name_or_path: str | Path | None = None, report: Callable[[str], None] = lambda remark: None
) -> Arm:
    """Load the arm that a bundle is to run on.

    Parameters
    ----------
    bundle
        The bundle.
    name_or_path
        Name or file of the arm, or None (or an empty text) for the one that the bundle carries.
    report
        Called with a sentence for each group of fields that differ from the arm in training.

    Raises
    ------
    ConfigurationError
        If the arm has other joints or frames than in training, any limit that is wider, or stands in another cell.
    """
    if not name_or_path:
        return trained_arm(bundle)
    arm = load_arm(name_or_path)
    if bundle.arm_file is None and arm.name == bundle.contract.arm.name:  # an older bundle has only its arm's name
        if arm.workspace is not None:
            check_cell(bundle, arm, arm.model_copy(update={"workspace": None}))
        return arm
    try:
        trained = trained_arm(bundle)
    except ConfigurationError:
        if bundle.arm_file is not None:
            raise
        return _of_the_contract(bundle, arm)
    for name in SAME:
        found, expected = getattr(arm, name), getattr(trained, name)
        if found != expected:
            raise ConfigurationError(
                f"arm is {arm.name!r} ({arm.origin}), but {bundle.directory / 'bundle.yaml'} was trained for arm "
                f"{trained.name!r}: {name} is {_text(found)}, expected {_text(expected)}; leave the arm out, or "
                "choose another bundle"
            )
    wider = list(wider_limits(arm, trained))
    if wider:
        raise ConfigurationError(
            f"{arm.origin}: wider than in the training of {bundle.directory.name}: {_list(wider)}; use limits that "
            "are at most training's, or train for this arm"
        )
    narrower = list(wider_limits(trained, arm))
    if narrower:
        report(f"{arm.origin}: narrower than in training: {_list(narrower)}")
    limits = {"limits", "tool_limits", "gripper", "name"}
    others = [name for name in differences(arm, trained) if name.partition(".")[0] not in (*limits, "workspace")]
    if others:
        report(f"{arm.origin}: not as in training: {', '.join(others)}")
    if arm.workspace is None:  # then it plays in the cell that the bundle was trained for
        return _with_cell_of(arm, trained)
    check_cell(bundle, arm, trained)
    return arm


def _with_cell_of(arm: Arm, trained: Arm) -> Arm:
    """Return an arm in the cell of training; without one the arm stays as it is."""
    if trained.workspace is None:
        return arm
    mesh = trained.object_mesh
    cell_object = trained.workspace.object.model_copy(update={"mesh": "" if mesh is None else str(mesh.resolve())})
    workspace = trained.workspace.model_copy(update={"objects": (cell_object,)})
    return arm.model_copy(update={"workspace": workspace, "tasks": trained.tasks | arm.tasks})


def check_cell(bundle: Bundle, arm: Arm, trained: Arm) -> None:
    """Check that a bundle's policy was trained for the cell that an arm stands in.

    Parameters
    ----------
    bundle
        The bundle.
    arm
        The arm in its cell.
    trained
        The arm that the policy was trained with.

    Raises
    ------
    ConfigurationError
        If the camera's place, the object or the task's regions differ by more than the policy tolerates. The message
        lists all of them.
    """
    assert arm.workspace is not None
    contract = bundle.contract
    settings = contract.provenance.get("task_settings")
    settings = settings if isinstance(settings, dict) else {}
    if trained.workspace is not None:
        known = trained.workspace.object
    else:
        known = CellObject.model_validate({"size": settings.get("block_size", DEFAULT_BLOCK)})
    meshes = [None if path is None else path.read_bytes() for path in (arm.object_mesh, trained.object_mesh)]
    found = [
        *departures(arm.workspace, contract.camera, known, meshes[0] == meshes[1]),
        *region_departures(arm.tasks.get(contract.task, {}), settings),
    ]
    if found:
        raise ConfigurationError(
            f"{arm.cell_origin}: {bundle.directory.name} was trained for another cell: {'; '.join(found)}; train for "
            f"this one (./rlfp train {contract.task} --cell {arm.cell_origin}), or correct the cell's file"
        )


def wider_limits(arm: Arm, other: Arm) -> Iterator[str]:
    """Describe each limit of `arm` that allows more than that of `other`, for arms with the same joints.

    Yields
    ------
    str
        Such as "limits.velocity of joint1 is 2.0, in training 1.0".
    """

    def describe(field: str, found: float, expected: float, upward: bool) -> Iterator[str]:
        slack = TOLERANCE * max(1.0, abs(expected))
        if (found > expected + slack) if upward else (found < expected - slack):
            yield f"{field} is {found:g} instead of {expected:g}"

    for name in LIMITS:
        pairs = zip(arm.joint_names, getattr(arm.limits, name), getattr(other.limits, name), strict=True)
        for joint, found, expected in pairs:
            yield from describe(f"limits.{name} of {joint}", found, expected, upward=name != "lower")
    near, others_near = arm.limits.velocity_near_ends, other.limits.velocity_near_ends
    if others_near is not None and near is None:
        yield "limits.velocity_near_ends is missing"
    if others_near is not None and near is not None:
        for name, upward in (("lower", False), ("upper", True), ("deceleration", True), ("offset", False)):
            pairs = zip(arm.joint_names, getattr(near, name), getattr(others_near, name), strict=True)
            for joint, found, expected in pairs:
                yield from describe(f"limits.velocity_near_ends.{name} of {joint}", found, expected, upward)
    tool, others_tool = arm.tool_limits, other.tool_limits
    for name, upward in (("lower", False), ("upper", True)):
        for axis, found, expected in zip("xyz", getattr(tool, name), getattr(others_tool, name), strict=True):
            yield from describe(f"tool_limits.{name} in {axis}", found, expected, upward)
    for name in ("speed", "angular_speed"):
        yield from describe(f"tool_limits.{name}", getattr(tool, name), getattr(others_tool, name), upward=True)
    if arm.gripper is not None and other.gripper is not None:
        for name, upward in (("open_width", True), ("closed_width", False), ("velocity", True), ("effort", True)):
            yield from describe(f"gripper.{name}", getattr(arm.gripper, name), getattr(other.gripper, name), upward)


def _of_the_contract(bundle: Bundle, arm: Arm) -> Arm:
    """Accept an arm for a bundle that carries none, if joints and frames match the contract."""
    for name in SAME:
        found, expected = getattr(arm, name), getattr(bundle.contract.arm, name)
        if found != expected:
            raise ConfigurationError(
                f"{bundle.directory / 'bundle.yaml'}: arm.{name} is {_text(expected)}, but {arm.origin} has "
                f"{_text(found)}; give the arm that the bundle was trained with"
            )
    return arm


def _text(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _list(found: list[str]) -> str:
    more = len(found) - MAX_NAMED
    return "; ".join(found[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
