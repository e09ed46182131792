"""From a wanted motion to a command that is inside every limit and carries its own stop.

Each tick makes one step and a complete stop after it, checks both as a whole, and sends them as one short trajectory.
If a check fails, the stop that was sent before goes on: it was checked when it was sent, so limits stay feasible
forever. Limits run from the last command, never from the measurement.

Everything is piecewise constant in jerk with changes only on ticks, and every such change is a point of the
trajectory. A quintic through position, velocity and acceleration of a piece with constant jerk *is* that piece, so
what joint_trajectory_controller interpolates is exactly what was checked, and two trajectories that share a piece
agree on it to rounding whenever they arrive. (Ruckig's stops switch at times of their own for every joint: 21 points
for seven joints, or an interpolation that overshoots the jerk. Its time-optimal stop is the yardstick in the tests.)

Layout of a command with tick time t: points at t + dt and t + 2 dt were promised by the two commands before, the
point at t + 3 dt is new, then three points of the stop. A command that comes up to two ticks late changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import daqp
import eigenpy
import numpy as np

from rlfp_ros.control.arm import Arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.kinematics import Distances, Kinematics
from rlfp_ros.control.trajectory import Trajectory

# In what runs every tick, products are written .dot(): on arrays this small it takes half the time of @.

AHEAD = 3  # ticks from the command's stamp to the end of its new step
DAQP_OPTIMAL = 1  # exit flag of a solved programme
CLOSEST_PAIRS = 4  # whose distances enter the quadratic programme; the check takes all of them
SETTLED_RAD_S = 2e-3  # below this and wanting to stand, the sent stop brings it to exact rest
LONGEST_STOP_S = 10.0  # a start above every speed limit, or not a number, has no plan
# The wanted motion keeps this much farther from walls and from the arm's own links than the checks demand. Without it
# the tool would come to the very edge, where each step's curvature dips beyond it, and no step would ever pass again.
SLIDING_ROOM_M = 0.003
SPEED_MARGIN = 0.97  # of the published tool speeds, held at the samples that are checked
BETWEEN_TICKS_RAD_S = 2e-3  # how far a speed that falls towards a joint's end may be overrun between two ticks
RAMP_SAMPLES = 4  # of the tool's speed while a stop sets in
LOOK_EVERY = 4  # ticks of a stop on whose way the Jacobian turns so much that its ends do not tell the tool's speed
ROUNDING = 1e-9  # of the comparisons below: rad, m and their rates


def largest(vector: np.ndarray) -> float:
    """The largest magnitude in a short vector of finite numbers. Plain floats: for seven, numpy takes longer."""
    values = vector.tolist()
    return max(max(values), -min(values))


def everywhere(condition: np.ndarray) -> bool:
    """condition.all(), in a tenth of its time on small arrays."""
    return 0 not in condition.tobytes()


class Motion(NamedTuple):
    """Commanded motion of J joints at one time."""

    rows: np.ndarray  # [3, J]: rad, rad/s, rad/s^2
    at_rest: bool  # exactly: stops end on stored zeros

    @property
    def position(self) -> np.ndarray:
        """[J] rad."""
        return self.rows[0]

    @property
    def velocity(self) -> np.ndarray:
        """[J] rad/s."""
        return self.rows[1]


@dataclass
class FilterCounts:
    """What the filter did since it was made."""

    steps: int = 0
    braked: int = 0  # the wanted step failed its check, a braking one passed
    stop_followed: int = 0  # no step passed, the stop sent before went on
    limited: int = 0  # the quadratic programme had to change the wanted motion
    unsolved: int = 0  # and found no answer: the arm brakes
    refused: dict[str, int] = field(default_factory=dict)  # failed checks by name


class SafetyFilter:
    """Keeps the commanded motion of one arm. Deterministic; uses no clock. SI units, `arm.joint_names` order."""

    def __init__(self, arm: Arm, kinematics: Kinematics, settings: ControllerSettings) -> None:
        self.arm, self.kinematics, self.settings = arm, kinematics, settings
        self.dt = 1.0 / settings.control_rate_hz
        self.counts = FilterCounts()
        limits, tool = arm.limits, arm.tool_limits
        self.joint_count = joints = len(arm.joint_names)
        self.distances = Distances(
            kinematics,
            settings.collision_margin_m,
            settings.table_margin_m,
            settings.collision_influence_m,
            settings.obstacle_margin_m,
        )

        # What the checks hold: the arm's limits with the margins of the settings.
        self._lower = np.array(limits.lower) + settings.position_margin_rad
        self._upper = np.array(limits.upper) - settings.position_margin_rad
        self._velocity_published = np.array(limits.velocity)
        box_lower = np.array(tool.lower) + settings.workspace_margin_m
        box_upper = np.array(tool.upper) - settings.workspace_margin_m
        self._box = [*box_lower.tolist(), *box_upper.tolist()]
        # The Jacobian turns a little on the way; SPEED_MARGIN is several times what that was seen to add.
        self._speed_squared = (SPEED_MARGIN * tool.speed) ** 2
        self._angular_squared = (SPEED_MARGIN * tool.angular_speed) ** 2
        self._fastest = self._fastest_turn = 0.0  # of the ramp that was checked last
        self._linear_and_angular = np.kron(np.eye(2), np.ones((3, 1)))  # [6, 2]

        # What a step may use.
        self._acceleration = settings.acceleration_scale * np.array(limits.acceleration)
        self._jerk_dt = settings.jerk_scale * np.array(limits.jerk) * self.dt
        self._jerk_dt_squared = self._jerk_dt**2
        self._jerk_twice = 2.0 * self._jerk_dt / self.dt
        self._to_step = self._propagation(1)
        self._missing = np.array((0.0, -1.0, -0.5 * self.dt))  # of (position, velocity, acceleration), to a velocity

        # Stops: one ramp length for all joints, in ticks, from full acceleration of a step to full deceleration.
        self._stop_per_acceleration = 1.0 / (settings.stop_acceleration_scale * np.array(limits.acceleration))
        stop_jerk_dt = settings.stop_jerk_scale * np.array(limits.jerk) * self.dt
        ramp = np.max((self._acceleration + 1.0 / self._stop_per_acceleration) / stop_jerk_dt)
        self._ramp = max(2, math.ceil(ramp - ROUNDING))
        self._ramp_time = self._ramp * self.dt
        self._impulse = np.array((0.0, 2.0, self._ramp_time))
        share = np.linspace(0.0, 1.0, RAMP_SAMPLES)[:, None]  # of the ramp: v + a t + (a_end - a) t^2 / (2 T)
        time = share * self._ramp_time
        self._ramp_samples = np.hstack((np.ones_like(share), time * (1.0 - 0.5 * share), 0.5 * time * share))
        self._constant_samples = self._ramp_samples.dot(((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 1.0)))
        self._growth = np.array((0.0, 1.0, 0.5 * self._ramp_time))
        self._stop_positions = np.zeros((3, joints))  # of the stop in hand
        self._ends = np.zeros((4, joints))
        # Kinematics at the end of the last step that passed: the next one begins there.
        self._located: tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
        self._stops: dict[int, tuple[np.ndarray, tuple[int, ...], np.ndarray]] = {}
        self._slow_near_ends = limits.velocity_near_ends is not None
        self._samples: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._plateau = 0  # of the stop planned last
        self._ramp_velocities = self._stop_matrix(0)[2]

        # What the wanted motion may use: joints first, then the tool's three axes; upwards and downwards, [2, J + 3].
        upper = np.concatenate((self._upper, box_upper - SLIDING_ROOM_M))
        lower = np.concatenate((self._lower, box_lower + SLIDING_ROOM_M))
        self._ways = np.array(((1.0,), (-1.0,)))
        self._rate_ways = settings.barrier_rate_hz * self._ways
        self._rate_at_zero = settings.barrier_rate_hz * np.array((upper, -lower))
        self._velocity = settings.velocity_scale * self._velocity_published
        self._rate_most = np.concatenate((self._velocity, np.full(3, np.inf)))
        self._room = [*lower[joints:].tolist(), *upper[joints:].tolist()]
        self._tool_speed = settings.tool_speed_scale * tool.speed
        self._tool_angular_speed = settings.tool_speed_scale * tool.angular_speed
        lever = settings.rotation_length_m
        self._task_weight = np.array([1.0, 1.0, 1.0, lever, lever, lever])[:, None] ** 2
        self._spare = max(joints - 6, 0)  # joints beyond what a tool pose needs
        self._regular = 1e-4 * np.eye(joints)
        self._eigen = eigenpy.SelfAdjointEigenSolver(joints)
        self._zeros = np.zeros(joints)
        self._zeros.setflags(write=False)
        self._free = np.zeros(joints + 3 + CLOSEST_PAIRS, dtype=np.intc)  # DAQP's `sense`: all plain inequalities
        self._unbounded = np.full(CLOSEST_PAIRS, np.inf)
        self.smallest_singular_value = 1.0
        self.start(np.array(arm.home))

    def _propagation(self, ticks: int) -> np.ndarray:
        """[3, 4]: from (position, velocity, acceleration, acceleration at the end) over `ticks` of constant jerk."""
        time = ticks * self.dt
        return np.array(
            (
                (1.0, time, time * time / 3.0, time * time / 6.0),
                (0.0, 1.0, 0.5 * time, 0.5 * time),
                (0.0, 0.0, 0.0, 1.0),
            )
        )

    # --- the sent motion ---------------------------------------------------------------------------------------

    def start(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Begin at measured joints [J]; moving ones (velocities given) are brought to rest along a stop."""
        velocity = self._zeros
        if velocities is not None:
            velocity = np.clip(velocities, -self._velocity, self._velocity)
        rows = np.array((positions, velocity, self._zeros), dtype=float)
        now = Motion(rows, not velocity.any())
        self.now = now  # commanded for the last tick's stamp
        # What follows the last of `ahead`: (ticks left of the phase, motion at its end).
        self._stop = [] if now.at_rest else self._plan_stop(rows)
        self.ahead = [now]
        self._follow_stop()
        self._follow_stop()
        self.ahead = self.ahead[1:]  # promised for one and two ticks from now
        # The arm's controller holds what it was told last, not what is measured: time to go over to that gently.
        self._settling = round(self.settings.settle_s / self.dt) if now.at_rest else 0

    def advance(self, ticks: int = 1) -> None:
        """Time goes on by whole ticks along what was sent: a tick that did not happen lets the sent stop run."""
        for _ in range(ticks):
            while len(self.ahead) < AHEAD:
                self._follow_stop()
            self.now = self.ahead.pop(0)
        self._settling = max(0, self._settling - ticks)

    @property
    def end(self) -> Motion:
        """The last promised motion: where the next step begins."""
        return self.ahead[-1]

    @property
    def resting(self) -> bool:
        """Nothing that was sent still moves."""
        return self.now.at_rest and self.ahead[0].at_rest and self.ahead[-1].at_rest and not self._stop

    def _follow_stop(self) -> None:
        """Promise one more tick along the stop."""
        here = self.ahead[-1]
        if not self._stop:
            self.ahead.append(here)  # a stop ends at rest, and so does a start
            return
        left, target = self._stop[0]
        if left == 1:
            self._stop.pop(0)
            self.ahead.append(target)
            return
        self._stop[0] = (left - 1, target)
        rows = here.rows
        acceleration = rows[2] + (target.rows[2] - rows[2]) / left
        self.ahead.append(Motion(self._to_step @ np.vstack((rows, acceleration)), False))

    def _stop_matrix(self, plateau: int) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
        """[3 n, 3]: from a motion's rows to those of its stop's n points; the points' distances in ticks; and from the
        motion to `RAMP_SAMPLES` velocities of its first ramp.

        All joints ramp to a deceleration, keep it, and ramp it out together. With both ramps T_r and the plateau
        T_p long, -(2 v + a T_r) / (2 (T_r + T_p)) is the deceleration that ends at rest.
        """
        found = self._stops.get(plateau)
        if found is None:
            deceleration = -self._impulse / (2.0 * (self._ramp_time + plateau * self.dt))
            ramp, keep = self._propagation(self._ramp), self._propagation(max(plateau, 1))
            first = ramp @ np.vstack((np.eye(3), deceleration))
            second = keep @ np.vstack((first, deceleration)) if plateau else first
            last = ramp @ np.vstack((second, np.zeros(3)))
            last[1:] = 0.0  # rest exactly, not to rounding
            points = (first, second, last) if plateau else (first, last)
            ticks = (self._ramp, plateau, self._ramp) if plateau else (self._ramp, self._ramp)
            ramp_velocities = self._ramp_samples.dot(np.vstack(((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), deceleration)))
            found = self._stops[plateau] = (np.vstack(points), ticks, ramp_velocities)
        return found

    def _stop_samples(self, plateau: int) -> tuple[np.ndarray, np.ndarray]:
        """[n, 3] each: from a motion's rows to its position and velocity after every tick of its stop."""
        found = self._samples.get(plateau)
        if found is None:
            matrix, ticks, _ = self._stop_matrix(plateau)
            here, positions, velocities = np.eye(3), [], []
            for length, target in zip(ticks, matrix.reshape(-1, 3, 3), strict=True):
                time = self.dt * np.arange(1, length + 1)[:, None]
                jerk = (target[2] - here[2]) / (length * self.dt)
                positions.append(here[0] + time * here[1] + 0.5 * time**2 * here[2] + time**3 / 6.0 * jerk)
                velocities.append(here[1] + time * here[2] + 0.5 * time**2 * jerk)
                here = target
            found = self._samples[plateau] = (np.vstack(positions), np.vstack(velocities))
        return found

    def _plan_stop(self, rows: np.ndarray) -> list[tuple[int, Motion]]:
        """The shortest stop from `rows` inside the stop's acceleration; jerk is inside by the ramps' length.

        Empty where `rows` are not finite.
        """
        durations = (self._impulse.dot(rows) * self._stop_per_acceleration).tolist()
        hardest = max(max(durations), -min(durations))
        if not math.isfinite(sum(durations)) or hardest >= LONGEST_STOP_S:  # max and min may overlook a NaN
            return []
        needed = 0.5 * hardest - self._ramp_time
        plateau = math.ceil(needed / self.dt - ROUNDING) if needed > 0.0 else 0
        self._plateau = plateau
        matrix, ticks, self._ramp_velocities = self._stop_matrix(plateau)
        points = matrix.dot(rows).reshape(len(ticks), 3, self.joint_count)
        self._stop_positions = points[:, 0]
        stop = [(time, Motion(point, False)) for time, point in zip(ticks[:-1], points, strict=False)]
        stop.append((ticks[-1], Motion(points[-1], True)))
        return stop

    # --- one tick ----------------------------------------------------------------------------------------------

    def extend(self, wanted: np.ndarray | None) -> bool:
        """Promise one more step towards joint velocities `wanted` [J] rad/s, or (None) let the sent stop run.

        Call `locate` first. False where no step passed its checks and the sent stop went on instead.
        """
        end = self.ahead[-1]
        self.counts.steps += 1
        if wanted is None or self._settling:
            self._follow_stop()
            return True
        if wanted.any():  # NaN counts as any; its step fails every comparison
            if self._try_step(end, wanted):
                return True
            if not self._settled(end) and self._try_step(end, self._zeros):
                self.counts.braked += 1
                return True
        elif self._settled(end):
            self._follow_stop()
            return True
        elif self._try_step(end, wanted):
            return True
        self.counts.stop_followed += 1
        self._follow_stop()
        return False

    def _settled(self, end: Motion) -> bool:
        """So slow that the sent stop may bring it to exact rest; braking would only come near to it."""
        return end.at_rest or largest(end.velocity) < SETTLED_RAD_S

    def _try_step(self, end: Motion, wanted: np.ndarray) -> bool:
        # The largest acceleration from which a jerk-limited ramp to zero does not pass `wanted`, in whole ticks.
        rows, ends = end.rows, self._ends
        missing = wanted + self._missing.dot(rows)
        size = np.sqrt(self._jerk_dt_squared + self._jerk_twice * np.abs(missing)) - self._jerk_dt
        acceleration = np.copysign(np.minimum(size, self._acceleration), missing)
        ends[:3] = rows
        ends[3] = np.minimum(np.maximum(acceleration, rows[2] - self._jerk_dt), rows[2] + self._jerk_dt)
        step = self._to_step.dot(ends)
        stop = self._plan_stop(step)
        # While the first ramp turns an acceleration round, velocity still grows by at most half of it.
        fastest = self._growth.dot(np.abs(step))
        refusal = self._check_joints(rows, step, stop, fastest) or self._check_tool(rows, step, stop, fastest)
        if refusal:
            self.counts.refused[refusal] = self.counts.refused.get(refusal, 0) + 1
            return False
        self.ahead.append(Motion(step, False))
        self._stop = stop
        return True

    # Comparisons below are written so that NaN fails them. Where the arm is already outside (guided there by hand), a
    # step may stay or go inwards, never further out.

    def _check_joints(
        self, end: np.ndarray, step: np.ndarray, stop: list[tuple[int, Motion]], fastest: np.ndarray
    ) -> str:
        """Why the joints may not make this step and its stop; empty where they may.

        The points of the stop stand for the path between: it overruns them by less than a thousandth of a radian,
        where a joint turns round within a ramp, and position_margin_rad is larger.
        """
        if not stop:
            return "not_finite"
        positions = self._stop_positions
        if not (everywhere(positions >= self._lower) and everywhere(positions <= self._upper)):
            lower = np.minimum(self._lower, end[0]) - ROUNDING
            upper = np.maximum(self._upper, end[0]) + ROUNDING
            if not ((positions >= lower).all() and (positions <= upper).all()):
                return "position"
        if not everywhere(fastest <= self._velocity_published):
            return "velocity"
        return "velocity" if self._slow_near_ends and not self._slow_enough(step) else ""

    def _slow_enough(self, step: np.ndarray) -> bool:
        """Is every tick of the step and of its stop below the speed that the place allows?"""
        to_position, to_velocity = self._stop_samples(self._plateau)
        position = np.vstack((step[:1], to_position @ step))
        velocity = np.vstack((step[1:2], to_velocity @ step))
        least, most = self.arm.limits.velocity_bounds(position)
        room = BETWEEN_TICKS_RAD_S
        return bool(
            (velocity <= np.maximum(most - room, ROUNDING)).all()
            and (velocity >= np.minimum(least + room, -ROUNDING)).all()
        )

    def _check_tool(self, end: np.ndarray, step: np.ndarray, stop: list[tuple[int, Motion]], speeds: np.ndarray) -> str:
        """Why the tool and the links may not make this step and its stop; empty where they may."""
        reach = self.distances.reach
        ramped, last = stop[0][1].rows, stop[-1][1].rows
        located = place, _, jacobian = self.kinematics.evaluate(step[0])
        self._located = step, located
        # Speed can still grow while the first ramp turns the acceleration round; after it all joints slow down alike.
        refusal = self._check_place(end, step, place) or self._check_speed(jacobian, self._ramp_velocities.dot(step))
        if refusal:
            return refusal
        # How far any point of the arm can get from here, and how much the Jacobian's turning on the way can add to the
        # tool's speed: mostly that settles the rest.
        way = np.abs(last[0] - end[0])
        fastest, turn = float(speeds.dot(reach)), sum(way.tolist())
        far = float(way.dot(reach)) + self._ramp_time * fastest
        tool = self.arm.tool_limits
        fast = self._fastest + turn * fastest > tool.speed
        fast = fast or self._fastest_turn + turn * sum(speeds.tolist()) > tool.angular_speed
        x0, y0, z0, x1, y1, z1 = self._box
        x, y, z = self._tool_at_end.tolist()
        near_wall = min(x - x0, y - y0, z - z0, x1 - x, y1 - y, z1 - z) <= far
        if near_wall or fast or not self.distances.clear(last[0]):
            for rows in (ramped, last):
                place, _, jacobian = self.kinematics.evaluate(rows[0])
                velocities = self._constant_samples.dot(rows)
                refusal = self._check_place(end, rows, place) or self._check_speed(jacobian, velocities)
                if refusal:
                    return refusal
            if fast or self._ramp > LOOK_EVERY:
                return self._check_way(end, step, last)
        return ""

    def _check_way(self, end: np.ndarray, step: np.ndarray, last: np.ndarray) -> str:
        """Why the tool may not go along the stop of `step`, looked at on its way until it is slow for good.

        Joints that turn fast against one another leave the tool slow only as long as the Jacobian stays as it is.
        """
        to_position, to_velocity = self._stop_samples(self._plateau)
        reach, tool = self.distances.reach, self.arm.tool_limits
        for tick in range(LOOK_EVERY, len(to_position), LOOK_EVERY):
            position, velocity = to_position[tick - 1].dot(step), to_velocity[tick - 1].dot(step)
            place, _, jacobian = self.kinematics.evaluate(position)
            vx, vy, vz, wx, wy, wz = jacobian.dot(velocity).tolist()
            linear, angular = vx * vx + vy * vy + vz * vz, wx * wx + wy * wy + wz * wz
            if not linear <= self._speed_squared:
                return "tool_speed"
            if not angular <= self._angular_squared:
                return "tool_angular_speed"
            refusal = self._check_place(end, position[None], place)
            if refusal:
                return refusal
            speeds, left = np.abs(velocity), float(np.abs(last[0] - position).sum())
            if (
                tick >= self._ramp
                and math.sqrt(linear) + left * float(speeds.dot(reach)) <= tool.speed
                and math.sqrt(angular) + left * float(speeds.sum()) <= tool.angular_speed
            ):
                break
        return ""

    def _check_speed(self, jacobian: np.ndarray, velocities: np.ndarray) -> str:
        """Why the tool may not move as fast as joint velocities [N, J] rad/s make it; empty where it may."""
        along = velocities.dot(jacobian.T)
        linear, angular = np.maximum.reduce((along * along).dot(self._linear_and_angular)).tolist()
        if not linear <= self._speed_squared:
            return "tool_speed"
        if not angular <= self._angular_squared:
            return "tool_angular_speed"
        self._fastest, self._fastest_turn = math.sqrt(linear), math.sqrt(angular)
        return ""

    def _check_place(self, end: np.ndarray, rows: np.ndarray, place: np.ndarray) -> str:
        """Why the arm may not be at a point of the motion, where its tool is at `place`."""
        x0, y0, z0, x1, y1, z1 = self._box
        x, y, z = place.tolist()
        if not (x0 <= x <= x1 and y0 <= y <= y1 and z0 <= z <= z1):
            hx, hy, hz = self._tool_at_end.tolist()
            if not (
                min(x0, hx) - ROUNDING <= x <= max(x1, hx) + ROUNDING
                and min(y0, hy) - ROUNDING <= y <= max(y1, hy) + ROUNDING
                and min(z0, hz) - ROUNDING <= z <= max(z1, hz) + ROUNDING
            ):
                return "workspace"
        if not self.distances.clear(rows[0]):
            here = np.minimum(self.distances.spare(end[0]), 0.0)
            if not (self.distances.spare(rows[0]) >= here - ROUNDING).all():
                return "distance"
        return ""

    def trajectory(self, stamp_ns: int) -> Trajectory:
        """What to send at `stamp_ns`, the time of `now`."""
        ahead = self.ahead
        if self.resting:
            points, ticks = ahead[-1:], [self._settling or AHEAD]  # standing: one point
        else:
            points, ticks = list(ahead), list(range(1, len(ahead) + 1))
            for left, motion in self._stop:
                points.append(motion)
                ticks.append(ticks[-1] + left)
        states = np.concatenate([motion.rows for motion in points]).reshape(len(points), 3, self.joint_count)
        return Trajectory(stamp_ns, self.dt * np.array(ticks), states)

    # --- the wanted motion -------------------------------------------------------------------------------------

    def locate(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tool position [3], rotation [3, 3] and Jacobian [6, J] at `end`, from where the next step begins."""
        rows = self.end.rows
        if self._located is None or self._located[0] is not rows:
            self._located = rows, self.kinematics.evaluate(rows[0])
        located = self._tool_at_end, _, self._jacobian = self._located[1]
        return located

    def joint_velocity(self, twist: np.ndarray, posture: np.ndarray, joints: np.ndarray | None = None) -> np.ndarray:
        """Joint velocities [J] rad/s inside all limits, as near as they allow to a tool twist [6] in the base frame.

        `posture` [J] rad/s acts only where it does not move the tool; `joints` [J] rad/s are added as they are. Call
        `locate` first. Damped inverse kinematics (damping grows as the smallest singular value falls); where that
        breaks a limit, a quadratic programme on DAQP finds the nearest velocity that does not. Standing still is
        always among its answers.
        """
        jacobian, spare = self._jacobian, self._spare
        weighted = self._task_weight * jacobian
        gram = jacobian.T.dot(weighted)
        solver = self._eigen
        solver.compute(gram)
        values, vectors = solver.eigenvalues(), solver.eigenvectors()
        smallest = math.sqrt(max(float(values[spare]), 0.0))
        self.smallest_singular_value = smallest
        threshold = self.settings.singularity_threshold
        damping = 1e-9
        if smallest < threshold:
            damping += (self.settings.singularity_damping * (1.0 - (smallest / threshold) ** 2)) ** 2
        # Sliding along a wall dips towards it a little with every step: drift back by the speed that keeps the room.
        x0, y0, z0, x1, y1, z1 = self._room
        x, y, z = self._tool_at_end.tolist()
        if not (x0 <= x <= x1 and y0 <= y <= y1 and z0 <= z <= z1):
            room_lower, room_upper, here = self._room[:3], self._room[3:], self._tool_at_end
            inwards = np.maximum(room_lower - here, 0.0) - np.maximum(here - room_upper, 0.0)
            twist = twist.copy()
            twist[:3] += self.settings.barrier_rate_hz * inwards
        along = twist.dot(weighted).dot(vectors) / (values + damping)
        if spare:
            along[:spare] = posture.dot(vectors[:, :spare])
        velocity = vectors.dot(along)
        return self._limit(velocity if joints is None else velocity + joints, gram, jacobian)

    def _limit(self, velocity: np.ndarray, gram: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        # Speed towards any limit at most barrier_rate_hz times the distance to it; back from beyond it is free.
        joints, here = self.joint_count, self.ahead[-1].rows[0]
        value = np.concatenate((here, self._tool_at_end))
        most = np.minimum(np.maximum(self._rate_at_zero - self._rate_ways * value, 0.0), self._rate_most)
        parting, left = self.distances.closing(here, CLOSEST_PAIRS)
        if self._slow_near_ends:
            slowest, fastest = self.arm.limits.velocity_bounds(here)
            near_ends = self.settings.velocity_scale * np.array((fastest, -slowest))
            most[:, :joints] = np.minimum(most[:, :joints], near_ends)
        least_parting = left
        if pairs := len(left):
            least_parting = np.minimum(-self.settings.barrier_rate_hz * (left - SLIDING_ROOM_M), 0.0)
        # Too fast is made slower in the same direction. Only walls and joints' ends turn a motion: the arm slides.
        velocity, moved = self._slowed(velocity, jacobian.dot(velocity))
        rates = np.concatenate((velocity, moved[:3]))
        inside = everywhere(self._ways * rates <= most)
        if not inside and (excess := float((np.abs(velocity) / self._velocity).max())) > 1.0:
            velocity, rates = (1.0 - ROUNDING) / excess * velocity, (1.0 - ROUNDING) / excess * rates
            inside = everywhere(self._ways * rates <= most)
        if inside and not (pairs and not everywhere(parting.dot(velocity) >= least_parting)):
            return velocity
        self.counts.limited += 1
        hessian = gram + self._regular
        solution, _, flag, _ = daqp.solve(
            hessian,
            -(hessian @ velocity),
            np.vstack((jacobian[:3], parting)),
            np.concatenate((most[0], self._unbounded[:pairs])),
            np.concatenate((-most[1], least_parting)),
            self._free[: joints + 3 + pairs],
        )
        if flag != DAQP_OPTIMAL:
            self.counts.unsolved += 1
            return self._zeros
        # Scaling towards standing still keeps every limit above, so the tool's speed may come last again.
        return self._slowed(solution, jacobian.dot(solution))[0]

    def _slowed(self, velocity: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joint velocities and the tool's twist, both scaled so that the tool is inside its speeds."""
        vx, vy, vz, wx, wy, wz = moved.tolist()
        speed, angular = math.sqrt(vx * vx + vy * vy + vz * vz), math.sqrt(wx * wx + wy * wy + wz * wz)
        if speed > self._tool_speed:
            slower = self._tool_speed / speed
            velocity, moved = velocity * slower, moved * slower
            angular *= slower
        if angular > self._tool_angular_speed:
            slower = self._tool_angular_speed / angular
            velocity, moved = velocity * slower, moved * slower
        return velocity, moved
