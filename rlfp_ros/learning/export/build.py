"""Builds every contract (`bundle.yaml` as a type) from the parts of a finished training."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import JsonValue, ValidationError
from torch import nn

from rlfp_ros.contract import (
    CONTRACT_VERSION,
    ActionContract,
    ArmContract,
    BaseControllerContract,
    CameraContract,
    Contract,
    EncoderContract,
    FeatureStatistics,
    Goal,
    ImageContract,
    Latency,
    Normalisation,
    PolicyContract,
)
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.schema import refusal
from rlfp_ros.simulation.tasks.task import Task

ENCODER_OUTPUTS = ("features", "object_pose", "pose_cov", "embedding")
PIXEL_OUTPUTS = ("features", "embedding")  # of an encoder that does not find the object
POLICY_INPUTS = ("features", "proprioception", "goal", "goal_mask", "state")  # without past actions
POLICY_OUTPUTS = ("action", "next_state")


def policy_inputs(past_actions: int) -> tuple[str, ...]:
    """Return the names of a policy's inputs, in order."""
    return (*POLICY_INPUTS[:-1], *(["past_actions"] if past_actions else []), POLICY_INPUTS[-1])


def outputs_of(encoder: EncoderContract) -> tuple[str, ...]:
    """Return the names of an encoder's outputs, in the order of ENCODER_OUTPUTS."""
    return tuple(name for name in ENCODER_OUTPUTS if name in encoder.outputs)


def build_contract(
    *,
    name: str,
    task: Task,
    arm: Arm,
    camera: CameraContract,
    encoder: EncoderContract,
    observed: ObservationContract,
    state_size: int,
    action: ActionContract,
    base_controller: BaseControllerContract,
    latency: Latency,
    feature_statistics: FeatureStatistics,
    provenance: dict[str, JsonValue],
) -> Contract:
    """Build the contract of a policy that was trained for `task` on `arm`.

    The goal is the task's, so that a policy for a task with a goal cannot ship without it.

    Parameters
    ----------
    name
        Name of the bundle.
    task, arm
        The task and arm that were trained.
    camera
        The camera whose images the encoder was trained with.
    encoder
        Names and shapes of the encoder's input and outputs, from `encoder_contract` or another bundle.
    observed
        The policy's inputs besides the features.
    state_size
        Number of values in the policy's memory; 1 for a policy without one.
    action, base_controller
        Meaning of the policy's output, and the controller that it is added to.
    latency
        Delays modelled in training.
    feature_statistics
        Reference of the domain-shift score.
    provenance
        How the bundle was made, as JSON.

    Raises
    ------
    ConfigurationError
        If the parts contradict each other.
    """
    try:
        policy = PolicyContract(
            inputs=policy_inputs(observed.past_actions),
            outputs=POLICY_OUTPUTS,
            feature_stack=observed.feature_stack,
            state_size=state_size,
            past_actions=observed.past_actions,
        )
        return Contract(
            schema=CONTRACT_VERSION,
            name=name,
            task=task.settings.task,
            arm=arm_contract(arm),
            camera=camera,
            image=ImageContract(),
            encoder=encoder,
            policy=policy,
            proprioception=observed.proprioception,
            goal=goal_of(task),
            normalisation=Normalisation(),
            action=action,
            base_controller=base_controller,
            latency=latency,
            feature_statistics=feature_statistics,
            provenance=provenance,
        )
    except ValidationError as error:
        raise refusal(error, f"contract of {name}") from None


def arm_contract(arm: Arm) -> ArmContract:
    """Return the part of a contract that names the arm, its joints and its frames."""
    return ArmContract(name=arm.name, joint_names=arm.joint_names, base_frame=arm.base_frame, tool_frame=arm.tool_frame)


def goal_of(task: Task) -> Goal:
    """Return the kind of goal for a task's policies; a task without this setting has a point or none."""
    declared: Goal | None = getattr(task.settings, "goal", None)
    if declared is not None:
        return declared
    kind = type(task)
    return "none" if kind.goal is Task.goal and kind.goal_point is Task.goal_point else "point"


def encoder_contract(encoder: nn.Module, image: np.ndarray) -> EncoderContract:
    """Return names and shapes of a `deployed_encoder` or `PixelEncoder`, measured on an example `image` [H, W, 3]."""
    with torch.no_grad():
        outputs = encoder(torch.from_numpy(image[None].copy()))
    names = ENCODER_OUTPUTS if len(outputs) == len(ENCODER_OUTPUTS) else PIXEL_OUTPUTS
    shapes = {name: tuple(output.shape) for name, output in zip(names, outputs, strict=True)}
    height, width, channels = image.shape
    return EncoderContract(inputs={"image": (1, height, width, channels)}, outputs=shapes)
