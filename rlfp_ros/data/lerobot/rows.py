"""The features of our exports: rows of a LeRobotDataset from an episode's arrays, and back.

| feature | meaning |
|---|---|
| `observation.images.policy` | the image as the policy saw it |
| `observation.state` | joint positions, and the gripper's width |
| `observation.velocity` | joint velocities |
| `action` | the command in force when the next image was taken |
| `residual.asked`, `residual.applied` | the policy's action in SI units, and the part that was admitted |
| `residual.asked_known`, `residual.applied_known` | whether the bag holds them; their value is 0 if not |
| `policy.proprioception` | what the policy observed of the joints |
| `recorded.is_new` | false if the image was lost and the one before stands for it (`--gaps repeat`) |
| `recorded.decided_by` | who decided on the admitted action: the policy (0), a person (1), or neither (2) |
| `recorded.time` | the image's real time, s after the first of the episode |
| `next.done`, `next.success` | true in the last row of an episode, and if it was won |
"""

from __future__ import annotations

import numpy as np

from rlfp_ros.contract import Contract
from rlfp_ros.control.arm import Arm
from rlfp_ros.data.dataset import EpisodeArrays
from rlfp_ros.data.lerobot.layout import Feature

IMAGES = "observation.images.policy"
STATE, VELOCITY, ACTION = "observation.state", "observation.velocity", "action"
ASKED, APPLIED, KNOWN = "residual.asked", "residual.applied", "_known"
PROPRIOCEPTION, TIME, IS_NEW = "policy.proprioception", "recorded.time", "recorded.is_new"
DONE, SUCCESS = "next.done", "next.success"
DECIDED_BY, DECIDERS = "recorded.decided_by", ("policy_0_person_1_neither_2",)
GRIPPER = "gripper.width_m"
# Columns of an episode.
BAG, OUTCOME, LABEL, NOTE, OPERATOR = "rlfp/bag", "rlfp/outcome", "rlfp/label", "rlfp/note", "rlfp/operator"
START, BUNDLE, CONTINUES = "rlfp/start_ns", "rlfp/bundle", "rlfp/continues"
EPISODE_COLUMNS = (BAG, OUTCOME, LABEL, NOTE, OPERATOR, START, BUNDLE, CONTINUES)
LABEL_COLUMNS = {"label": LABEL, "note": NOTE, "operator": OPERATOR}
UNITS = {"m/s": "m_s", "rad/s": "rad_s", "m": "m"}


def position_names(arm: Arm) -> tuple[str, ...]:
    """Return the names of the joint positions, with their unit."""
    return tuple(f"{name}.pos_rad" for name in arm.joint_names)


def velocity_names(arm: Arm) -> tuple[str, ...]:
    """Return the names of the joint velocities, with their unit."""
    return tuple(f"{name}.vel_rad_s" for name in arm.joint_names)


def residual_names(contract: Contract) -> tuple[str, ...]:
    """Return the names of a residual's values, with their units."""
    action = contract.action
    return tuple(
        GRIPPER if name == "gripper" else f"{name}.{UNITS[unit]}"
        for name, unit in zip(action.components, action.units, strict=True)
    )


def has_gripper(contract: Contract) -> bool:
    """Whether the policy commands the gripper."""
    return "gripper" in contract.action.components


def features_of(contract: Contract, arm: Arm) -> dict[str, Feature]:
    """Return the features of a bundle's rows, without the images."""
    residual = residual_names(contract)
    seen: list[str] = []
    for quantity in contract.proprioception:
        seen += {
            "joint_positions": position_names(arm),
            "joint_velocities": velocity_names(arm),
            "gripper_width": (GRIPPER,),
            "tool_position": ("tool.x_m", "tool.y_m", "tool.z_m"),
            "tool_direction": ("tool.direction_x", "tool.direction_y", "tool.direction_z"),
        }[quantity]
    command = (*position_names(arm), *((GRIPPER,) if has_gripper(contract) else ()))
    names = {
        STATE: (*position_names(arm), GRIPPER),
        VELOCITY: velocity_names(arm),
        ACTION: command,
        ASKED: residual,
        APPLIED: residual,
        PROPRIOCEPTION: tuple(seen),
    }
    found = {key: Feature("float32", (len(each),), each) for key, each in names.items()}
    found |= {key + KNOWN: Feature("bool", (len(residual),), residual) for key in (ASKED, APPLIED)}
    found[TIME] = Feature("float64", (1,), ("time_s",))
    found[DECIDED_BY] = Feature("int64", (1,), DECIDERS)
    return found | {key: Feature("bool", (1,), (key,)) for key in (DONE, SUCCESS, IS_NEW)}


def columns_of(
    arrays: EpisodeArrays, contract: Contract, next_command: np.ndarray | None, ended: bool, success: bool
) -> dict[str, np.ndarray]:
    """Return rows of an episode.

    Parameters
    ----------
    arrays
        The rows. There is a command before each image but the first.
    contract
        The contract of their bundle.
    next_command
        [J] rad, at the image after these rows; None if the rows end there, so that the last command stays in force.
    ended
        Whether the recorded episode ends with these rows.
    success
        Whether it ends and was won.

    Returns
    -------
    dict
        [N] or [N, n] by feature, without those that begin with `recorded.`.
    """
    asked, asked_known = _in_si_units(arrays.asked, contract)
    applied, applied_known = _in_si_units(arrays.applied, contract)
    after = arrays.commands[-1] if next_command is None else next_command
    commands = np.concatenate([arrays.commands[1:], after[None]])
    if has_gripper(contract):
        commands = np.column_stack([commands, _gripper_commands(arrays, contract)])
    last = np.arange(len(arrays.stamps_ns)) == len(arrays.stamps_ns) - 1
    return {
        STATE: np.column_stack([arrays.positions, arrays.gripper_widths]),
        VELOCITY: arrays.velocities,
        ACTION: commands,
        ASKED: asked,
        APPLIED: applied,
        PROPRIOCEPTION: arrays.proprioception,
        ASKED + KNOWN: asked_known,
        APPLIED + KNOWN: applied_known,
        DONE: last & ended,
        SUCCESS: last & success,
    }


def actions_from(values: np.ndarray, known: np.ndarray, contract: Contract) -> np.ndarray:
    """Return [N, A] in action units, NaN if it is not known: the inverse of what `columns_of` writes."""
    scale, offset = _scales(contract)
    return np.where(known, values / scale - offset, np.nan).astype(np.float32)


def _in_si_units(actions: np.ndarray, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    scale, offset = _scales(contract)
    known = np.isfinite(actions)
    return np.where(known, (np.nan_to_num(actions) + offset) * scale, 0.0), known


def _scales(contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset [A] by which an action in [-1, 1] becomes a value in SI units, as in `residual_of`."""
    return np.array(contract.action.scale), np.array([float(name == "gripper") for name in contract.action.components])


def _gripper_commands(arrays: EpisodeArrays, contract: Contract) -> np.ndarray:
    """Return the gripper's commanded width [N] in m: the admitted one, or the one that the policy asked for.

    A command stays in force until the next one; before the first one, the width is the measured one.
    """
    place = contract.action.components.index("gripper")
    scale, offset = _scales(contract)
    wanted = np.where(np.isfinite(arrays.applied[:, place]), arrays.applied[:, place], arrays.asked[:, place])
    widths = (wanted + offset[place]) * scale[place]
    newest = np.maximum.accumulate(np.where(np.isfinite(widths), np.arange(len(widths)), -1))
    return np.where(newest >= 0, widths[newest], arrays.gripper_widths)
