"""The arm's joint motors in PyBullet: its own position motors, or drives with stiffness, friction and inertia.

PyBullet's own position motor removes a share of the error in every step, whatever the load: it is stiff, has no
friction and no inertia, and the arm's weight does not matter. A `TorqueDrive` is a servo in the sense of a data sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rlfp_ros.simulation.drive_physics import Drives, DriveStep
from rlfp_ros.simulation.randomization import Sample, per_joint

POSITION_GAIN, VELOCITY_GAIN = 0.35, 1.0  # PyBullet's position control: fraction of the error removed per step
FIRST_DEGREE = 6  # PyBullet counts the velocities of a base, which is fixed here, before those of the joints


class JointMotors(Protocol):
    """Moves the joints of an arm in an episode."""

    def drive(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Give the motors a setpoint, [J] rad and rad/s."""

    def before_step(self) -> None:
        """Act for the coming step of the physics; the last setpoint stays in force."""

    def efforts(self, motors: Sequence[float]) -> Sequence[float]:
        """Return the motors' torques [J] N m of the last step; `motors` are those that PyBullet reports."""


class PositionMotors:
    """PyBullet's own motors.

    Parameters
    ----------
    client, body, joints
        The arm in the physics server; its joints in the arm's order.
    gain
        Factor of the position gain.
    forces
        [J] N m, the largest torques.
    """

    def __init__(self, client: Any, body: int, joints: list[int], gain: Sequence[float], forces: list[float]) -> None:
        self._client, self._body, self._joints, self._forces = client, body, joints, forces
        self._position_gains = [POSITION_GAIN * factor for factor in gain]
        self._velocity_gains = [VELOCITY_GAIN] * len(joints)

    def drive(self, position: np.ndarray, velocity: np.ndarray) -> None:
        self._client.setJointMotorControlArray(
            self._body,
            self._joints,
            self._client.POSITION_CONTROL,
            targetPositions=position.tolist(),
            targetVelocities=velocity.tolist(),
            forces=self._forces,
            positionGains=self._position_gains,
            velocityGains=self._velocity_gains,
        )

    def before_step(self) -> None:
        pass

    def efforts(self, motors: Sequence[float]) -> Sequence[float]:
        return motors


@dataclass(frozen=True)
class DriveParameters:
    """Parameters of an arm's drives, each [J] in the arm's order.

    Attributes
    ----------
    bandwidth
        Hz, undamped natural frequency of the position loop, with the inertia of each joint at home.
    damping_ratio
        Damping of that loop, which acts on the error of the speed.
    joint_damping
        N m s/rad, damping of the joint's own speed.
    friction
        N m, dry.
    armature
        kg m^2, inertia of the rotor, as it acts on the joint.
    forces
        N m, largest torque of the drive.
    gravity_compensation
        Fraction of the arm's weight that the drives carry without an error.
    """

    bandwidth: np.ndarray
    damping_ratio: np.ndarray
    joint_damping: np.ndarray
    friction: np.ndarray
    armature: np.ndarray
    forces: np.ndarray
    gravity_compensation: float = 1.0


class TorqueDrive:
    """Drives that act with a torque: stiffness and damping towards the setpoint, against friction and inertia.

    Parameters
    ----------
    client, body, joints
        The arm in the physics server; its joints in the arm's order.
    home
        [J] rad, where the inertias are taken that turn a bandwidth into a stiffness.

    Attributes
    ----------
    inertia_at_home
        [J] kg m^2, of the links about each joint.
    """

    def __init__(self, client: Any, body: int, joints: list[int], home: Sequence[float]) -> None:
        self._client, self._body, self._joints = client, body, joints
        movable = [joint for joint in range(client.getNumJoints(body)) if client.getJointInfo(body, joint)[4] >= 0]
        self._movable = movable
        self._degrees = np.array([client.getJointInfo(body, joint)[4] - FIRST_DEGREE for joint in joints])
        self._block = np.ix_(self._degrees, self._degrees)
        count, self._none = len(joints), [0.0] * len(movable)
        posture = np.zeros(len(movable))
        posture[self._degrees] = home
        self.inertia_at_home = np.diag(self._mass(posture.tolist())).copy()
        self._setpoint = np.array(home, dtype=float), np.zeros(count)
        self._efforts = np.zeros(count)
        self._dt = float(client.getPhysicsEngineParameters()["fixedTimeStep"])

    def begin(self, parameters: DriveParameters) -> None:
        """Take the place of PyBullet's own motors, with the parameters of an episode."""
        client, count = self._client, len(self._joints)
        inertia, rate = self.inertia_at_home + parameters.armature, 2 * np.pi * parameters.bandwidth
        drives = Drives(
            stiffness=inertia * rate**2,
            damping=2 * parameters.damping_ratio * inertia * rate,
            drag=parameters.joint_damping,
            friction=parameters.friction,
            rotor=parameters.armature,
            forces=parameters.forces,
        )
        self._step = DriveStep(drives, self._dt)
        self._gravity_compensation = parameters.gravity_compensation
        client.setJointMotorControlArray(self._body, self._joints, client.VELOCITY_CONTROL, forces=[0.0] * count)
        for joint in self._joints:
            client.changeDynamics(self._body, joint, jointDamping=0.0)  # the drives' own drag stays stable

    def drive(self, position: np.ndarray, velocity: np.ndarray) -> None:
        self._setpoint = position, velocity

    def before_step(self) -> None:
        client, degrees = self._client, self._degrees
        found = client.getJointStates(self._body, self._movable)
        positions, velocities = [joint[0] for joint in found], [joint[1] for joint in found]
        mass, needed, weight = self._dynamics(positions, velocities)
        carried = self._gravity_compensation * weight
        acceleration, torque = self._step.solve(
            mass, np.array(positions)[degrees], np.array(velocities)[degrees], needed - carried, *self._setpoint
        )
        client.setJointMotorControlArray(
            self._body, self._joints, client.TORQUE_CONTROL, forces=(mass @ acceleration + needed).tolist()
        )
        self._efforts = torque + carried

    def efforts(self, motors: Sequence[float]) -> Sequence[float]:
        return self._efforts.tolist()

    def dynamics(self, positions: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the arm's mass matrix [J, J] kg m^2, and the torques [J] N m that it needs in a state.

        Parameters
        ----------
        positions, velocities
            [J] rad and rad/s; the fingers rest at 0.

        Returns
        -------
        tuple of np.ndarray
            Mass matrix, torques that keep these velocities, and torques that hold the weight alone.
        """
        whole = np.zeros((2, len(self._movable)))
        whole[0, self._degrees], whole[1, self._degrees] = positions, velocities
        return self._dynamics(whole[0].tolist(), whole[1].tolist())

    def _dynamics(self, positions: list[float], velocities: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        client, body = self._client, self._body
        needed = np.array(client.calculateInverseDynamics(body, positions, velocities, self._none))
        weight = np.array(client.calculateInverseDynamics(body, positions, self._none, self._none))
        return self._mass(positions), needed[self._degrees], weight[self._degrees]

    def _mass(self, positions: list[float]) -> np.ndarray:
        whole = np.array(self._client.calculateMassMatrix(self._body, positions))
        block: np.ndarray = whole[self._block]
        return block


def drive_parameters(drawn: Sample, efforts: Sequence[float]) -> DriveParameters | None:
    """Return the drives of an episode, or None if PyBullet's own motors move the arm.

    Parameters
    ----------
    drawn
        The episode.
    efforts
        [J] N m, the arm's largest torques.
    """
    count = len(efforts)

    def of(name: str) -> np.ndarray:
        return np.array(per_joint(drawn[name], count))

    bandwidth = of("drive_bandwidth")
    if not bandwidth.all():
        return None
    return DriveParameters(
        bandwidth=bandwidth * np.sqrt(of("motor_gain")),
        damping_ratio=of("drive_damping_ratio"),
        joint_damping=of("joint_damping"),
        friction=of("joint_friction"),
        armature=of("joint_armature"),
        forces=np.array(efforts) * of("motor_strength"),
        gravity_compensation=drawn["gravity_compensation"],
    )
