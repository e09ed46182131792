"""What a policy's network is given: the scene in the base frame, as the feature points and the joints show it.

The camera stands a little elsewhere than the bundle says, differently in every episode and on every tripod. The arm
tells where: its tool, its hand and its foot are known from the joints and seen as feature points. An extended Kalman
filter over the episode (Kalman 1960) keeps an estimate of the camera's small turn, shift and zoom; the object's point
then becomes a place on the table. Nothing here is learnt, and all of it is part of `policy.onnx`, with the filter as
the policy's `state`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.algorithms.networks import RunningNormaliser, TensorObservation, layers
from rlfp_ros.learning.export.networks import onnx_of
from rlfp_ros.simulation.tasks.task import ARM_FOOT, Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL, TeacherScene

# Standard deviations before the first picture: turn [3] rad, shift [3] m, zoom [1] ratio.
PRIOR = (0.029, 0.029, 0.029, 0.017, 0.017, 0.017, 0.023)
SIGHT = 0.012  # standard deviation of a point on the plane z = 1; well above one picture's, errors last for a while
FORGETTING = 0.01  # of what is known about the camera, a picture
FARTHEST = 0.15  # rad, m or ratio, that a camera may be off
LARGEST = 0.03  # change of the covariance's root: the prior's own largest entry
NEAREST, WIDEST = 0.1, 1.0  # m before the camera, and on the plane z = 1: no point of the arm is beyond
GATE = 2.0  # standard deviations at which a point's error counts a quarter
SMOOTHING = 30.0  # pictures that the object's place is averaged over; it lies still, or goes with what pushes it
CONFIDENT = 0.5  # confidence from which a point counts fully; hidden and lost ones have half of it and less
JUMP = 0.03  # m, a change of the object's place that starts the average anew
PUSHED = (0.011, 0.045)  # m, from the object's side to the middle of a tool that pushes it; below this height it can
HELD_WIDTH = (0.6, 0.014)  # least opening of fingers that hold the object, of its width; m that they may be wider
HELD_NEAR = 0.03  # m between the tool and where the object is seen, for it to be held
HELD_SHARE = 0.3  # of that distance that is believed then: what is between the fingers cannot be far off
CLOSE = (0.05, 0.015)  # m, scales on which small distances are also given
REACH = 1.2  # m, estimates farther than this from the base are cut off there


class Belief(TeacherScene):
    """A world as the estimator sees it, for a task's teacher to look at; from the actor's inputs [I] of one picture."""

    def __init__(self, inputs: np.ndarray, proprioception: np.ndarray) -> None:
        self._object = inputs[-3:].astype(float)
        joints = (len(proprioception) - 7) // 2
        self._width = float(proprioception[2 * joints])
        self._tool = proprioception[2 * joints + 1 : 2 * joints + 4].astype(float)

    def body_pose(self, body: int) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and quaternion [4] of the object; no task has another."""
        return self._object, np.array([0.0, 0.0, 0.0, 1.0])

    def tool_position(self) -> np.ndarray:
        """[3] m."""
        return self._tool

    def gripper_width(self) -> float:
        """Opening, m."""
        return self._width


class SceneEstimator(nn.Module):
    """Observation and filter state to the actor's inputs and the next state.

    `keypoints` names the first feature points; `joints` is the arm's number of joints; `block_size` [3] m is the
    object's. With `grips`, fingers that are closed to about its width, where it is seen, hold it: it is then at the
    tool, and not where the ray to it meets the table. With `pushes`, a low tool that moves against it takes it along,
    so that what was seen before the hand came in front of it keeps its worth. Proprioception is [joint positions, joint
    velocities, gripper width, tool position, tool direction], as `ObservationContract` has it.
    """

    camera_rotation: Tensor
    camera_position: Tensor
    prior: Tensor
    foot: Tensor

    def __init__(
        self, camera: CameraContract, keypoints: tuple[str, ...], joints: int, stack: int,
        block_size: tuple[float, float, float], grips: bool = False, pushes: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.keypoints, self.joints, self.stack, self.grips, self.pushes = keypoints, joints, stack, grips, pushes
        self.plane, self.width = block_size[2] / 2, block_size[0]
        T = torch.tensor(camera.T_base_camera.matrix()).double()
        self.register_buffer("camera_rotation", T[:3, :3].clone())  # camera to base
        self.register_buffer("camera_position", T[:3, 3].clone())
        self.register_buffer("prior", torch.diag(torch.tensor(PRIOR)).double())  # square root of the covariance
        self.register_buffer("foot", torch.tensor(ARM_FOOT).double())
        self.seen = [name for name in ("tool", "hand", "base") if name in keypoints]
        # Filter: estimate, root of its covariance less the prior's, so that zeros are the start of an episode; then the
        # object's place, its weight, and the tool's place.
        self.state_size = 7 + 49 + 3 + 2
        first = 3 * len(keypoints) * stack
        self.proprioception = slice(first, first + 2 * joints + 7)  # its place in the inputs
        self.input_size = self.proprioception.stop + 4 + 7 + 6 + 9 + 8 * len(CLOSE) + 3

    def forward(
        self, features: Tensor, proprioception: Tensor, goal: Tensor, goal_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs [B, I] and next state [B, S] of features [B, stack, K, 3], proprioception [B, P], goal [B, 3] m in
        the base frame, its mask [B, 1] and the state [B, S].

        In double precision inside: the filter carries rounding from picture to picture, and what it gives is looked at
        on a scale of centimetres.
        """
        inputs, next_state = self._estimate(
            features.double(), proprioception.double(), goal.double(), goal_mask.double(), state.double()
        )
        return inputs.float(), next_state.float()

    def _estimate(
        self, features: Tensor, proprioception: Tensor, goal: Tensor, goal_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        points = features[:, :, : len(self.keypoints)]
        newest = points[:, -1]
        tool = proprioception[:, 2 * self.joints + 1 : 2 * self.joints + 4]
        direction = proprioception[:, 2 * self.joints + 4 : 2 * self.joints + 7]
        known = {"tool": tool, "hand": tool - HAND_BEHIND_TOOL * direction, "base": self.foot.expand_as(tool)}
        estimate, root = self._filter(
            torch.stack([known[name] for name in self.seen], dim=1),
            newest[:, [self.keypoints.index(name) for name in self.seen]],
            state[:, :7].clamp(-FARTHEST, FARTHEST),
            self.prior + state[:, 7:56].reshape(-1, 7, 7).clamp(-LARGEST, LARGEST),
        )  # fmt: skip
        seen = newest[:, self.keypoints.index("object")]
        sight, sure = seen[:, :2], self._sure(seen)
        place = self._on_plane(sight, estimate, torch.full_like(tool[:, :1], self.plane))
        at_tool = self._on_plane(sight, estimate, tool[:, 2:].clamp(min=self.plane))
        before, weight = state[:, 56:58].clamp(-REACH, REACH), state[:, 58:59].clamp(0.0, SMOOTHING)
        if self.pushes:
            before = self._taken_along(before, tool, state[:, 59:61])
        jumps = ((place - before).norm(dim=1, keepdim=True) > JUMP).double()
        weight = (1 - jumps * sure) * weight
        smooth = (weight * before + sure * place) / (weight + sure)
        next_state = torch.cat(
            [estimate, (root - self.prior).flatten(1), smooth, (weight + sure).clamp(max=SMOOTHING), tool[:, :2]], dim=1
        )
        on_table = torch.cat([smooth, torch.full_like(tool[:, :1], self.plane)], dim=1)
        thing = on_table
        if self.grips:
            opening = proprioception[:, 2 * self.joints : 2 * self.joints + 1]
            beside_tool = (at_tool - tool[:, :2]).norm(dim=1, keepdim=True)
            closed = (opening > HELD_WIDTH[0] * self.width) & (opening < self.width + HELD_WIDTH[1])
            between = torch.cat([tool[:, :2] + HELD_SHARE * (at_tool - tool[:, :2]), tool[:, 2:]], dim=1)
            thing = torch.where(closed & (beside_tool < HELD_NEAR), between, on_table)
        if "goal" in self.keypoints:
            marker = newest[:, self.keypoints.index("goal"), :2]
            target = self._on_plane(marker, estimate, torch.zeros_like(tool[:, :1]))
            present = torch.ones_like(goal_mask)
        else:
            target, present = goal[:, :2], goal_mask
        way = present * (target - thing[:, :2])
        distance = way.norm(dim=1, keepdim=True)
        forward = way / (distance + 1e-4)
        offset = tool[:, :2] - thing[:, :2]
        along = (offset * forward).sum(dim=1, keepdim=True)
        beside = offset[:, 1:] * forward[:, :1] - offset[:, :1] * forward[:, 1:]
        # The last centimetres decide: a network that sees metres hardly resolves them.
        near = torch.cat(
            [tool - thing, offset.norm(dim=1, keepdim=True), distance, present * along, present * beside, tool[:, 2:]],
            dim=1,
        )
        close = torch.cat([torch.tanh(near / scale) for scale in CLOSE], dim=1)
        inputs = [
            points.flatten(1), proprioception, goal, goal_mask, estimate,
            offset, tool[:, :2] - place, tool[:, :2] - at_tool,
            way, distance, forward, along, beside, present * (target - tool[:, :2]), close, thing,
        ]  # fmt: skip
        return torch.cat(inputs, dim=1), next_state

    def _filter(self, known: Tensor, seen: Tensor, estimate: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """One picture's update of the camera's displacement [B, 7] and of its covariance's square root [B, 7, 7], from
        points [B, N, 3] of the base frame and the feature points [B, N, 3] of them. Potter's form (Battin 1964), one
        coordinate at a time: no matrix is inverted, and no rounding makes a covariance negative."""
        root = root + FORGETTING * (self.prior - root)
        optical = (known - self.camera_position) @ self.camera_rotation
        x, y, z = optical[..., 0], optical[..., 1], optical[..., 2].clamp(min=NEAREST)
        u, v = (x / z).clamp(-WIDEST, WIDEST), (y / z).clamp(-WIDEST, WIDEST)
        zero = torch.zeros_like(u)
        rows_u = torch.stack([-u * v, 1 + u * u, -v, 1 / z, zero, -u / z, u], dim=-1)
        rows_v = torch.stack([-1 - v * v, u * v, u, zero, 1 / z, -v / z, v], dim=-1)
        for index in range(known.shape[1]):
            for row, expected, axis in ((rows_u[:, index], u[:, index], 0), (rows_v[:, index], v[:, index], 1)):
                seen_root = (root.transpose(1, 2) @ row[:, :, None]).squeeze(-1)
                gain = (root @ seen_root[:, :, None]).squeeze(-1)
                spread = seen_root.square().sum(dim=1, keepdim=True)
                variance = spread + SIGHT**2 / self._sure(seen[:, index])
                innovation = (seen[:, index, axis] - expected)[:, None] - (row * estimate).sum(dim=1, keepdim=True)
                # A point that is far off is on something else: it counts next to nothing (Geman and McClure 1987).
                trust = (1 + innovation.square() / (GATE**2 * variance)).pow(-2)
                weight = trust / variance
                estimate = estimate + weight * gain * innovation
                shrink = weight / (1 + (1 - weight * spread).clamp(min=0.0).sqrt())
                root = root - shrink[:, :, None] * gain[:, :, None] * seen_root[:, None, :]
        return estimate.clamp(-FARTHEST, FARTHEST), root

    def _taken_along(self, place: Tensor, tool: Tensor, tool_before: Tensor) -> Tensor:
        """Where an object at `place` [B, 2] m is now that the tool has come from [B, 2] m to [B, 3] m: in front of it,
        as far along its way as it would else be inside it."""
        reach = self.width / 2 + PUSHED[0]
        motion = tool[:, :2] - tool_before
        length = motion.norm(dim=1, keepdim=True)
        way = motion / (length + 1e-6)
        away = place - tool[:, :2]
        ahead = (away * way).sum(dim=1, keepdim=True)
        apart = away.square().sum(dim=1, keepdim=True)
        touches = (apart < reach**2).double() * (ahead > 0).double() * (tool[:, 2:] < PUSHED[1]).double()
        inside = (reach**2 - (apart - ahead.square())).clamp(min=0.0).sqrt() - ahead
        return place + touches * inside.clamp(min=0.0).minimum(length) * way

    @staticmethod
    def _sure(point: Tensor) -> Tensor:
        """How much a feature point [B, 3] counts, [B, 1] in (0, 1], by its confidence."""
        return (point[:, 2:] / CONFIDENT).clamp(0.1, 1.0).pow(4)

    def _on_plane(self, sight: Tensor, estimate: Tensor, height: Tensor) -> Tensor:
        """Where the ray through a point [B, 2] meets a horizontal plane [B, 1] m, [B, 2] m in the base frame."""
        turn, shift, zoom = estimate[:, :3], estimate[:, 3:6], estimate[:, 6:]
        ray = torch.cat([sight / (1 + zoom), torch.ones_like(zoom)], dim=1)
        ray = (ray - torch.linalg.cross(turn, ray)) @ self.camera_rotation.T
        origin = -(shift - torch.linalg.cross(turn, shift)) @ self.camera_rotation.T + self.camera_position
        scale = (height - origin[:, 2:]) / ray[:, 2:].clamp(max=-0.1)
        return (origin + scale * ray)[:, :2].clamp(-REACH, REACH)


def export_estimator(estimator: SceneEstimator, proprioception_size: int, points: int) -> bytes:
    """Export a policy's estimator alone to ONNX, as training runs it: inputs, next_state."""
    inputs = {
        "features": torch.zeros(1, estimator.stack, points, 3),
        "proprioception": torch.zeros(1, proprioception_size),
        "goal": torch.zeros(1, 3),
        "goal_mask": torch.zeros(1, 1),
        "state": torch.zeros(1, estimator.state_size),
    }
    return onnx_of(estimator, inputs, ("inputs", "next_state"))


def estimator_for(task: Task, camera: CameraContract, joints: int, stack: int) -> SceneEstimator:
    """The estimator of a task's policies, for an arm with so many joints and so many frames of features."""
    return SceneEstimator(camera, task.keypoints, joints, stack, task.settings.block_size, task.grips, task.pushes)


class SeeingActor(nn.Module):
    """Estimator and actor in one: a policy with memory."""

    def __init__(self, estimator: SceneEstimator, points: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.estimator, self.points = estimator, points
        self.state_size = estimator.state_size
        self.normaliser = RunningNormaliser(estimator.input_size, clip=5.0)
        self.layers = layers(estimator.input_size, hidden, action_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Mean action before tanh [B, A], of the estimator's inputs [B, I]."""
        mean: Tensor = self.layers(self.normaliser(inputs))
        return mean

    def step(self, observation: TensorObservation, state: Tensor) -> tuple[Tensor, Tensor]:
        """The action to deploy [B, A] in [-1, 1] and the next state [B, S].

        The observation's vector is features [stack, K, 3], proprioception, goal and goal mask in a row.
        """
        vector, shape = observation["vector"], (self.estimator.stack, self.points, 3)
        first = math.prod(shape)
        features = vector[:, :first].reshape(-1, *shape)
        proprioception, goal, mask = vector[:, first:].split([vector.shape[1] - first - 4, 3, 1], dim=1)
        inputs, next_state = self.estimator(features, proprioception, goal, mask, state)
        return torch.tanh(self(inputs)), next_state
