"""One step of an arm's position drives with dry friction: from a setpoint to joint accelerations.

All forces that depend on the new velocity are implicit, so that light joints with strong drives stay stable at any time
step. Dry friction holds a joint still if it can, and otherwise acts against its motion with its whole size
(projected Gauss-Seidel: Jourdan et al. 1998, https://doi.org/10.1016/S0045-7825(98)80008-X).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SWEEPS = 20  # most of the friction of all joints
CONVERGED = 1e-6  # change of a friction, as a share of its largest size


@dataclass(frozen=True)
class Drives:
    """The drives of an arm, each [J].

    Attributes
    ----------
    stiffness
        N m/rad.
    damping
        N m s/rad, of the error of the speed.
    drag
        N m s/rad, of the joint's own speed.
    friction
        N m, dry.
    rotor
        kg m^2, inertia that turns with the joint alone.
    forces
        N m, largest torque of the drive.
    """

    stiffness: np.ndarray
    damping: np.ndarray
    drag: np.ndarray
    friction: np.ndarray
    rotor: np.ndarray
    forces: np.ndarray


class DriveStep:
    """Solves one step after the other; it begins each with the friction of the last one.

    Parameters
    ----------
    drives
        The drives.
    dt
        s per step.
    """

    def __init__(self, drives: Drives, dt: float) -> None:
        self._drives, self._dt = drives, dt
        self._per_velocity = drives.rotor / dt + drives.drag + drives.damping + dt * drives.stiffness
        self._friction = np.zeros(len(drives.stiffness))
        self._limits = drives.friction.tolist()
        self._has_friction = bool(drives.friction.any())

    def solve(
        self,
        mass: np.ndarray,
        position: np.ndarray,
        velocity: np.ndarray,
        load: np.ndarray,
        wanted: np.ndarray,
        wanted_velocity: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the joints' accelerations [J] rad/s^2 and the drives' torques [J] N m.

        Parameters
        ----------
        mass
            [J, J] kg m^2, of the links alone.
        position, velocity
            [J] rad and rad/s.
        load
            [J] N m, needed to resist gravity and the motion's own forces.
        wanted, wanted_velocity
            The setpoint, [J] rad and rad/s.
        """
        drives, dt = self._drives, self._dt
        pull = drives.stiffness * (wanted - position) + drives.damping * wanted_velocity
        momentum = (mass @ velocity + drives.rotor * velocity) / dt - load
        per_velocity, right = self._per_velocity, pull + momentum
        after = self._velocity_after(mass, per_velocity, right)
        resist = drives.damping + dt * drives.stiffness
        torque: np.ndarray = pull - resist * after
        over = np.abs(torque) > drives.forces
        if over.any():  # these drives give what they can, whatever the speed
            held = np.clip(torque, -drives.forces, drives.forces)
            after = self._velocity_after(
                mass, np.where(over, per_velocity - resist, per_velocity), np.where(over, held, pull) + momentum
            )
            torque = np.where(over, held, np.clip(pull - resist * after, -drives.forces, drives.forces))
        return (after - velocity) / dt, torque

    def _velocity_after(self, mass: np.ndarray, per_velocity: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the joints' velocities [J] rad/s after the step."""
        matrix = mass / self._dt
        matrix.flat[:: len(mass) + 1] += per_velocity
        inverse = np.linalg.inv(matrix)
        after: np.ndarray = inverse @ (right + self._friction)
        if not self._has_friction:
            return after
        friction, limits, diagonal = self._friction, self._limits, inverse.diagonal().tolist()
        for _ in range(SWEEPS):
            changed = False
            for joint, most in enumerate(limits):
                now = float(friction[joint])
                new = min(max(now - float(after[joint]) / diagonal[joint], -most), most)
                if abs(new - now) > CONVERGED * most:
                    friction[joint] = new
                    after += inverse[joint] * (new - now)
                    changed = True
            if not changed:
                break
        return after
