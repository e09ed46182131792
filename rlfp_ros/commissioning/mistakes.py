"""Known deployment mistakes, each as a change of the encoder's or the policy's inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rlfp_ros.commissioning.recorded_run import PastActions, RecordedJoints
from rlfp_ros.contract import Contract
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.policy import Observation, PolicyStep, residual_of

PAST_ACTIONS, DECISION_RATE = "past actions", "decision rate"  # stages of bundles that have them

ImageChange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ImageMistake:
    """A wrong input of the encoder.

    Attributes
    ----------
    stage
        The stage that the mistake belongs to.
    words
        Description of the mistake.
    change
        Computes the encoder's input from the live image uint8 [H, W, 3] and the correct input uint8 [h, w, 3].
    """

    stage: str
    words: str
    change: Callable[[np.ndarray, np.ndarray], np.ndarray]


def image_mistakes(size: tuple[int, int]) -> tuple[ImageMistake, ...]:
    """Return the known mistakes for an encoder whose images have `size` (width, height)."""

    def resized(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))

    def stretched(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX))

    return (
        ImageMistake("colour order", "red and blue are swapped", lambda _, own: own[..., ::-1]),
        ImageMistake(
            "size", "resized without regard to the camera's intrinsics and lens", lambda live, _: resized(live)
        ),
        ImageMistake("crop", "cut square in the middle, then resized", lambda live, _: resized(_centre_crop(live))),
        ImageMistake(
            "normalisation", "scaled to 0..1 before the network, which does that itself", lambda _, own: own // 255
        ),
        ImageMistake("normalisation", "contrast stretched", lambda _, own: stretched(own)),
        ImageMistake("crop", "upside down", lambda _, own: own[::-1, ::-1]),
        ImageMistake("crop", "mirrored", lambda _, own: own[:, ::-1]),
    )


def _centre_crop(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


@dataclass(frozen=True)
class PolicyMistake:
    """A wrong input or output of the policy. The defaults change nothing.

    Attributes
    ----------
    stage, words
        The stage that the mistake belongs to, and its description.
    joints
        Changes the joints.
    newest_joints
        Whether the newest joints are used instead of those at the image's exposure.
    features
        Changes the features.
    observation
        Changes the network's input.
    past_actions
        Chooses at most N rows of past actions, oldest first.
    holds
        Whether the action is held between decisions.
    twist
        Computes the published residual; None for the correct computation.
    """

    stage: str = ""
    words: str = ""
    joints: Callable[[RecordedJoints], JointState] = lambda recorded: recorded.state
    newest_joints: bool = False
    features: Callable[[np.ndarray], np.ndarray] = lambda features: features
    observation: Callable[[Observation], Observation] | None = None
    past_actions: Callable[[PastActions, int], list[np.ndarray]] = lambda past, count: past.admitted[-count:]
    holds: bool = True
    twist: Callable[[PolicyStep], np.ndarray] = lambda step: step.residual.twist


def policy_mistakes(contract: Contract) -> tuple[PolicyMistake, ...]:
    """Return the known mistakes for a bundle."""
    k = contract.camera.intrinsics
    unscaled = contract.action.model_copy(update={"scale": (1.0,) * len(contract.action.scale)})

    def in_pixels(features: np.ndarray) -> np.ndarray:
        if features.ndim != 2:
            return features  # a latent vector has no place in the image
        scaled = features * np.array([k.fx, k.fy, 1.0]) + np.array([k.cx, k.cy, 0.0])
        return scaled.astype(np.float32)

    def newest_first(observation: Observation) -> Observation:
        return observation | {"features": observation["features"][::-1].copy()}

    def action_itself(step: PolicyStep) -> np.ndarray:
        return residual_of(step.action, unscaled, step.residual.stamp_ns, contract.arm.joint_names).twist

    return (
        PolicyMistake("stack order", "the newest frame comes first", observation=newest_first),
        PolicyMistake(
            "joint order",
            "taken as the driver orders them, not by name",
            joints=lambda recorded: replace(recorded.state, positions=recorded.in_message_order),
        ),
        PolicyMistake(
            "joint order",
            "reversed",
            joints=lambda recorded: replace(recorded.state, positions=recorded.state.positions[::-1].copy()),
        ),
        PolicyMistake(
            "units",
            "joints in degrees, expected radians",
            joints=lambda recorded: replace(recorded.state, positions=np.degrees(recorded.state.positions)),
        ),
        PolicyMistake("units", "the action was not multiplied by the bundle's scale", twist=action_itself),
        PolicyMistake("latency", "the newest joints were used, not those at the image's exposure", newest_joints=True),
        PolicyMistake("normalisation", "features in pixels, expected on the plane z = 1", features=in_pixels),
        *(past_action_mistakes(contract) if contract.policy.past_actions else ()),
        *(
            [PolicyMistake(DECISION_RATE, "the policy decided on every image", holds=False)]
            if contract.action.images_per_decision > 1
            else []
        ),
    )


def past_action_mistakes(contract: Contract) -> tuple[PolicyMistake, ...]:
    """Return the known mistakes for a bundle that observes past actions."""
    scale = np.array(contract.action.scale, np.float32)
    nothing = np.zeros_like(scale)

    def newest_first(past: PastActions, count: int) -> list[np.ndarray]:
        rows = past.admitted[-count:][::-1]
        return rows + [nothing] * (count - len(rows))

    def shifted(past: PastActions, count: int) -> list[np.ndarray]:
        return past.admitted[:-1][-count:]

    def in_si_units(past: PastActions, count: int) -> list[np.ndarray]:
        return [scale * row for row in past.admitted[-count:]]

    def kept(past: PastActions, count: int) -> list[np.ndarray]:
        return [*past.earlier, *past.admitted][-count:]

    return (
        PolicyMistake(PAST_ACTIONS, "the newest one comes first", past_actions=newest_first),
        PolicyMistake(PAST_ACTIONS, "the newest one is missing", past_actions=shifted),
        PolicyMistake(
            PAST_ACTIONS,
            "the commanded actions, expected what the controller admitted of them",
            past_actions=lambda past, count: past.commanded[-count:],
        ),
        PolicyMistake(PAST_ACTIONS, "in m/s and m, expected in action units", past_actions=in_si_units),
        PolicyMistake(PAST_ACTIONS, "not cleared at the start of an episode", past_actions=kept),
        PolicyMistake(PAST_ACTIONS, "none was received", past_actions=lambda past, count: []),
    )
