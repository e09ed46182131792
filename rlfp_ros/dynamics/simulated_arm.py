"""Plays linear-Gaussian controllers on a simulated arm, through the safety controller, in PyBullet or in a room."""

from __future__ import annotations

import numpy as np

from rlfp_ros.control.actions import residual_of
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.dynamics.arm_state import ArmState
from rlfp_ros.dynamics.linear_gaussian import LinearGaussianController
from rlfp_ros.dynamics.played_trajectory import PlayedTrajectory
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS, Deployment, Moment
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import stream
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.worlds import Conditions, make_world

IMAGES_PER_DECISION = 2  # 15 decisions/s with a camera of 30 images/s, slower than the delay from image to motion


class SimulatedArm:
    """Plays controllers as an arm would: actions pass the safety controller, and states come from measured joints.

    Parameters
    ----------
    arm
        The arm.
    task
        Name of a task. Its action and base controller are used; its success ends nothing.
    conditions
        A randomisation profile, which is played in PyBullet, or a room, which is played in MuJoCo.
    decisions
        Number of decisions of a trajectory.
    """

    def __init__(self, arm: Arm, task: str, conditions: Conditions, decisions: int) -> None:
        self.world = make_world(arm, load_task(task), conditions)
        self.world.judged = False
        if isinstance(self.world, PybulletWorld):
            self.world.blind = True  # draws no images
        self.decisions = decisions
        self.state_of = ArmState(arm, len(self.world.task.action.components))
        self._deployment = Deployment(self.world, self.world.task, SIMULATION_SETTINGS)

    def play(self, controller: LinearGaussianController, seed: int, noise: bool = True) -> PlayedTrajectory:
        """Play a controller in the episode of a seed.

        Parameters
        ----------
        controller
            For `decisions` steps. Its actions are in the units of a policy, and are clipped to [-1, 1].
        seed
            Of the episode and of the noise.
        noise
            Whether actions are drawn; if not, their mean is played.

        Raises
        ------
        ConfigurationError
            If the controller has another number of steps, or if the safety controller stopped the arm.
        """
        if controller.steps != self.decisions:
            raise ConfigurationError(
                f"controller: it has {controller.steps} steps, expected {self.decisions}, one for each decision"
            )
        rng = stream(seed, "exploration")
        self._deployment.reset(seed)
        states, actions = [self._state(np.zeros(self.state_of.actions))], []
        for step in range(self.decisions):
            state = states[-1]
            action = np.clip(controller.draw(step, state, rng) if noise else controller.mean(step, state), -1.0, 1.0)
            for _ in range(IMAGES_PER_DECISION):
                self._answer(action)
            actions.append(action)
            states.append(self._state(action))
        safety = self._deployment.controller
        if safety.state is State.STOPPED:
            raise ConfigurationError(
                f"the safety controller stopped the arm in the episode of seed {seed} "
                f"({', '.join(reason.value for reason in safety.reasons)}); choose another goal or smaller actions"
            )
        return PlayedTrajectory(np.array(states), np.array(actions))

    def true_tool_position(self) -> np.ndarray:
        """Return the tool centre point [3] m that the simulator knows, after the last trajectory; only for judging."""
        return self.world.tool_position()

    def close(self) -> None:
        """Free the simulator's memory."""
        self.world.close()

    def _state(self, last_action: np.ndarray) -> np.ndarray:
        return self.state_of(self._deployment.frame_joint_state, last_action)

    def _answer(self, action: np.ndarray) -> None:
        """Answer the newest image with an action, and run to the next image."""
        task, world = self.world.task, self.world
        residual = residual_of(action, task.action, world.image_stamp_ns, world.arm.joint_names)
        self._deployment.answer(residual)
        while self._deployment.next_moment() is not Moment.CAPTURED:
            pass
