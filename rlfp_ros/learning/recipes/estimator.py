"""The hand-written estimator in front of an imitating actor: computes the scene in the base frame.

The camera is slightly displaced from its pose in the bundle, differently in every episode and on every tripod. The arm
shows the displacement: tool, hand and foot are known from the joints and visible as feature points. An extended Kalman
filter over the episode (Kalman 1960) estimates the camera's rotation, translation and zoom. The object's feature point
is then projected onto the table. Nothing is learnt, and all of it is part of `policy.onnx`; the filter is the policy's
`state`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from rlfp_ros.contract import CameraContract
from rlfp_ros.learning.algorithms.networks import RunningNormaliser, TensorObservation, layers
from rlfp_ros.learning.export.networks import onnx_of
from rlfp_ros.learning.recipes.layout import Layout
from rlfp_ros.simulation.tasks.task import ARM_FOOT, Task
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL, TeacherScene

# Standard deviations before the first image: rotation [3] rad, translation [3] m, zoom [1] ratio.
PRIOR = (0.029, 0.029, 0.029, 0.017, 0.017, 0.017, 0.023)
SIGHT = 0.012  # standard deviation of a point on the plane z = 1; larger than for one image, because errors persist
FORGETTING = 0.01  # fraction of camera certainty lost per image
MAX_DISPLACEMENT = 0.15  # rad, m or ratio, largest displacement of the camera
LARGEST = 0.03  # largest change of the covariance's root: the largest entry of the prior
MIN_DEPTH, MAX_TANGENT = 0.1, 1.0  # m from the camera, and on the plane z = 1: bounds of all points on the arm
GATE = 2.0  # standard deviations at which the weight of a point's error is a quarter
SMOOTHING = 30.0  # images over which the object's position is averaged; it is still, or moves with the pushing tool
CONFIDENT = 0.5  # confidence of a point with full weight; hidden and lost points have at most half of it
JUMP = 0.03  # m, change of the object's place that restarts the average
PUSHED = (0.011, 0.045)  # m, distance from the object's side to the middle of a pushing tool, and its largest height
HELD_WIDTH = (0.6, 0.014)  # smallest opening of fingers that hold the object, as a share of its width; m above it
HELD_NEAR = 0.03  # m, largest distance between the tool and the seen object if it is held
HELD_SHARE = 0.3  # weight of the seen position of a held object, because an object between the fingers is at the tool
CLOSE = (0.05, 0.015)  # m, additional scales for small distances
MAX_DISTANCE = 1.2  # m, estimates are clipped to this distance from the base


def proprioception_layout(joints: int) -> Layout:
    """Return the parts of proprioception for `joints` joints, in the default order of `ObservationContract`."""
    return Layout(positions=joints, velocities=joints, gripper_width=1, tool_position=3, tool_direction=3)


class Belief(TeacherScene):
    """The estimated scene for a task's teacher, from the actor's inputs [I] of one image."""

    def __init__(self, estimator: SceneEstimator, inputs: np.ndarray) -> None:
        joints = inputs[estimator.inputs["proprioception"]]
        self._object = inputs[estimator.inputs["object"]].astype(float)
        self._width = float(joints[estimator.joints["gripper_width"]][0])
        self._tool = joints[estimator.joints["tool_position"]].astype(float)

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
    """A filter from observations to the actor's inputs.

    Parameters
    ----------
    camera
        The nominal camera.
    keypoints
        Names of the first feature points.
    joints
        The arm's number of joints.
    stack
        Frames of features in an observation.
    block_size
        Of the object, m.
    grips
        Whether the task grips the object. If the fingers are closed to about its width and near its seen position,
        they hold it: then it is at the tool, and not at the intersection of its ray with the table.
    pushes
        Whether the task pushes the object. A low tool that moves against the object then moves the estimate too, so
        that it stays valid while the hand hides the object.

    Attributes
    ----------
    joints, state, inputs
        Layouts of proprioception, of the filter's state and of the actor's inputs.
    """

    camera_rotation: Tensor
    camera_position: Tensor
    prior: Tensor
    foot: Tensor

    def __init__(
        self,
        camera: CameraContract,
        keypoints: tuple[str, ...],
        joints: int,
        stack: int,
        block_size: tuple[float, float, float],
        grips: bool = False,
        pushes: bool = False,
    ) -> None:
        super().__init__()
        self.keypoints, self.stack, self.grips, self.pushes = keypoints, stack, grips, pushes
        self.plane, self.width = block_size[2] / 2, block_size[0]
        T = torch.tensor(camera.T_base_camera.matrix()).double()
        self.register_buffer("camera_rotation", T[:3, :3].clone())  # camera to base
        self.register_buffer("camera_position", T[:3, 3].clone())
        self.register_buffer("prior", torch.diag(torch.tensor(PRIOR)).double())  # square root of the covariance
        self.register_buffer("foot", torch.tensor(ARM_FOOT).double())
        self.seen = [name for name in ("tool", "hand", "base") if name in keypoints]
        self.joints = proprioception_layout(joints)
        # `root` is the root of the camera's covariance less that of the prior, so that zeros begin an episode.
        self.state = Layout(camera=7, root=49, object=2, weight=1, tool=2)
        self.inputs = Layout(
            points=3 * len(keypoints) * stack,
            proprioception=self.joints.size,
            goal=3,
            goal_mask=1,
            camera=7,  # displacement: rotation rad, translation m, zoom
            tool_from_object=2,  # m, as all of the following are; the object smoothed
            tool_from_seen=2,  # the object as seen in this image, on the table
            tool_from_ray=2,  # the object as seen in this image, at the tool's height
            object_to_goal=2,
            goal_distance=1,
            goal_direction=2,
            tool_along=1,  # from the object, in the direction of the goal
            tool_beside=1,  # from the object, across that direction
            tool_to_goal=2,
            close=8 * len(CLOSE),  # small distances once more, on scales of centimetres
            object=3,
        )
        self.state_size, self.input_size = self.state.size, self.inputs.size

    def forward(
        self, features: Tensor, proprioception: Tensor, goal: Tensor, goal_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute inputs [B, I] and next state [B, S] of features [B, stack, K, 3], proprioception [B, P], goal [B, 3]
        m in the base frame, its mask [B, 1] and the state [B, S].

        In double precision inside: the filter carries rounding from image to image, and the network resolves its
        results on a scale of centimetres.
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
        tool = proprioception[:, self.joints["tool_position"]]
        direction = proprioception[:, self.joints["tool_direction"]]
        known = {"tool": tool, "hand": tool - HAND_BEHIND_TOOL * direction, "base": self.foot.expand_as(tool)}
        estimate, root = self._filter(
            torch.stack([known[name] for name in self.seen], dim=1),
            newest[:, [self.keypoints.index(name) for name in self.seen]],
            state[:, self.state["camera"]].clamp(-MAX_DISPLACEMENT, MAX_DISPLACEMENT),
            self.prior + state[:, self.state["root"]].reshape(-1, 7, 7).clamp(-LARGEST, LARGEST),
        )
        object_point = newest[:, self.keypoints.index("object")]
        image_point, confidence = object_point[:, :2], self._confidence(object_point)
        place = self.on_plane(image_point, estimate, torch.full_like(tool[:, :1], self.plane))
        at_tool = self.on_plane(image_point, estimate, tool[:, 2:].clamp(min=self.plane))
        before = state[:, self.state["object"]].clamp(-MAX_DISTANCE, MAX_DISTANCE)
        weight = state[:, self.state["weight"]].clamp(0.0, SMOOTHING)
        if self.pushes:
            before = self._taken_along(before, tool, state[:, self.state["tool"]])
        jumps = ((place - before).norm(dim=1, keepdim=True) > JUMP).double()
        weight = (1 - jumps * confidence) * weight
        smooth = (weight * before + confidence * place) / (weight + confidence)
        next_state = self.state.join(
            camera=estimate,
            root=(root - self.prior).flatten(1),
            object=smooth,
            weight=(weight + confidence).clamp(max=SMOOTHING),
            tool=tool[:, :2],
        )
        on_table = torch.cat([smooth, torch.full_like(tool[:, :1], self.plane)], dim=1)
        object_position = on_table
        if self.grips:
            opening = proprioception[:, self.joints["gripper_width"]]
            beside_tool = (at_tool - tool[:, :2]).norm(dim=1, keepdim=True)
            closed = (opening > HELD_WIDTH[0] * self.width) & (opening < self.width + HELD_WIDTH[1])
            between = torch.cat([tool[:, :2] + HELD_SHARE * (at_tool - tool[:, :2]), tool[:, 2:]], dim=1)
            object_position = torch.where(closed & (beside_tool < HELD_NEAR), between, on_table)
        if "goal" in self.keypoints:
            marker = newest[:, self.keypoints.index("goal"), :2]
            target = self.on_plane(marker, estimate, torch.zeros_like(tool[:, :1]))
            present = torch.ones_like(goal_mask)
        else:
            target, present = goal[:, :2], goal_mask
        goal_offset = present * (target - object_position[:, :2])
        distance = goal_offset.norm(dim=1, keepdim=True)
        forward = goal_offset / (distance + 1e-4)
        offset = tool[:, :2] - object_position[:, :2]
        along = (offset * forward).sum(dim=1, keepdim=True)
        beside = offset[:, 1:] * forward[:, :1] - offset[:, :1] * forward[:, 1:]
        # The last centimetres are decisive, and a network hardly resolves them in inputs of metres.
        near = torch.cat(
            [
                tool - object_position,
                offset.norm(dim=1, keepdim=True),
                distance,
                present * along,
                present * beside,
                tool[:, 2:],
            ],
            dim=1,
        )
        close = torch.cat([torch.tanh(near / scale) for scale in CLOSE], dim=1)
        inputs = self.inputs.join(
            points=points.flatten(1),
            proprioception=proprioception,
            goal=goal,
            goal_mask=goal_mask,
            camera=estimate,
            tool_from_object=offset,
            tool_from_seen=tool[:, :2] - place,
            tool_from_ray=tool[:, :2] - at_tool,
            object_to_goal=goal_offset,
            goal_distance=distance,
            goal_direction=forward,
            tool_along=along,
            tool_beside=beside,
            tool_to_goal=present * (target - tool[:, :2]),
            close=close,
            object=object_position,
        )
        return inputs, next_state

    def _filter(self, known: Tensor, seen_points: Tensor, estimate: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Update the camera's displacement [B, 7] and the square root [B, 7, 7] of its covariance by one image: from
        points [B, N, 3] of the base frame and their feature points [B, N, 3].

        Potter's form (Battin 1964), one coordinate at a time: no matrix is inverted, and rounding cannot make a
        covariance negative.
        """
        root = root + FORGETTING * (self.prior - root)
        optical = (known - self.camera_position) @ self.camera_rotation
        x, y, z = optical[..., 0], optical[..., 1], optical[..., 2].clamp(min=MIN_DEPTH)
        u, v = (x / z).clamp(-MAX_TANGENT, MAX_TANGENT), (y / z).clamp(-MAX_TANGENT, MAX_TANGENT)
        zero = torch.zeros_like(u)
        rows_u = torch.stack([-u * v, 1 + u * u, -v, 1 / z, zero, -u / z, u], dim=-1)
        rows_v = torch.stack([-1 - v * v, u * v, u, zero, 1 / z, -v / z, v], dim=-1)
        for index in range(known.shape[1]):
            for row, expected, axis in ((rows_u[:, index], u[:, index], 0), (rows_v[:, index], v[:, index], 1)):
                seen_root = (root.transpose(1, 2) @ row[:, :, None]).squeeze(-1)
                gain = (root @ seen_root[:, :, None]).squeeze(-1)
                spread = seen_root.square().sum(dim=1, keepdim=True)
                variance = spread + SIGHT**2 / self._confidence(seen_points[:, index])
                innovation = (seen_points[:, index, axis] - expected)[:, None] - (row * estimate).sum(
                    dim=1, keepdim=True
                )
                # A point that is far off belongs to something else and gets little weight (Geman and McClure 1987).
                trust = (1 + innovation.square() / (GATE**2 * variance)).pow(-2)
                weight = trust / variance
                estimate = estimate + weight * gain * innovation
                shrink = weight / (1 + (1 - weight * spread).clamp(min=0.0).sqrt())
                root = root - shrink[:, :, None] * gain[:, :, None] * seen_root[:, None, :]
        return estimate.clamp(-MAX_DISPLACEMENT, MAX_DISPLACEMENT), root

    def _taken_along(self, place: Tensor, tool: Tensor, tool_before: Tensor) -> Tensor:
        """Compute where an object at `place` [B, 2] m is after the tool moved from [B, 2] m to [B, 3] m.

        If the tool would otherwise be inside the object, the object was pushed along the tool's path.
        """
        reach = self.width / 2 + PUSHED[0]
        motion = tool[:, :2] - tool_before
        length = motion.norm(dim=1, keepdim=True)
        direction = motion / (length + 1e-6)
        away = place - tool[:, :2]
        ahead = (away * direction).sum(dim=1, keepdim=True)
        apart = away.square().sum(dim=1, keepdim=True)
        touches = (apart < reach**2).double() * (ahead > 0).double() * (tool[:, 2:] < PUSHED[1]).double()
        inside = (reach**2 - (apart - ahead.square())).clamp(min=0.0).sqrt() - ahead
        return place + touches * inside.clamp(min=0.0).minimum(length) * direction

    @staticmethod
    def _confidence(point: Tensor) -> Tensor:
        """Return the weight [B, 1] in (0, 1] of a feature point [B, 3], from its confidence."""
        return (point[:, 2:] / CONFIDENT).clamp(0.1, 1.0).pow(4)

    def on_plane(self, sight: Tensor, estimate: Tensor, height: Tensor) -> Tensor:
        """Intersect the ray through a point [B, 2] with a horizontal plane at [B, 1] m: [B, 2] m in the base frame."""
        turn, shift, zoom = estimate[:, :3], estimate[:, 3:6], estimate[:, 6:]
        ray = torch.cat([sight / (1 + zoom), torch.ones_like(zoom)], dim=1)
        ray = (ray - torch.linalg.cross(turn, ray)) @ self.camera_rotation.T
        origin = -(shift - torch.linalg.cross(turn, shift)) @ self.camera_rotation.T + self.camera_position
        scale = (height - origin[:, 2:]) / ray[:, 2:].clamp(max=-0.1)
        return (origin + scale * ray)[:, :2].clamp(-MAX_DISTANCE, MAX_DISTANCE)


def export_estimator(estimator: SceneEstimator, proprioception_size: int, points: int) -> bytes:
    """Export only a policy's estimator to ONNX, as training runs it: inputs, next_state."""
    inputs = {
        "features": torch.zeros(1, estimator.stack, points, 3),
        "proprioception": torch.zeros(1, proprioception_size),
        "goal": torch.zeros(1, 3),
        "goal_mask": torch.zeros(1, 1),
        "state": torch.zeros(1, estimator.state_size),
    }
    return onnx_of(estimator, inputs, ("inputs", "next_state"))


def estimator_for(task: Task, camera: CameraContract, joints: int, stack: int) -> SceneEstimator:
    """Make the estimator of a task's policies for `joints` joints and `stack` frames of features."""
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
