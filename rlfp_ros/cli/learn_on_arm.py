"""The command `learn-on-arm`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rlfp_ros.cli.parsing import ARMS, PROFILES, ROOMS, Commands, add_command, add_result, amount, natural, positive

if TYPE_CHECKING:
    from rlfp_ros.dynamics.learning_loop import LearningIteration


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's command."""
    command = add_command(
        commands, "learn-on-arm", _learn, "learn to reach a goal from the arm's own motion, with local linear models"
    )
    command.add_argument("task", choices=("reach",), metavar="TASK", help="`reach`: bring the tool to a point")
    command.add_argument(
        "--goal",
        type=float,
        nargs=3,
        required=True,
        metavar=("X", "Y", "Z"),
        help="goal of the tool centre point in the base frame, m; the orientation stays that of home",
    )
    command.add_argument(
        "--iterations", type=positive, default=8, metavar="N", help="at most this many (default: %(default)s)"
    )
    command.add_argument(
        "--rollouts", type=positive, default=5, metavar="N", help="trajectories per iteration (default: %(default)s)"
    )
    command.add_argument(
        "--within",
        type=amount,
        default=0.01,
        metavar="M",
        help="end as soon as all trajectories of an iteration end this close to the goal, m (default: %(default)s)",
    )
    command.add_argument("--seed", type=natural, default=0, metavar="S", help="of the learning (default: %(default)s)")
    command.add_argument("--arm", default="panda", metavar="NAME", help=f"{ARMS} (default: %(default)s)")
    command.add_argument(
        "--world", default="pybullet", choices=("pybullet", "mujoco"), help="the simulator (default: %(default)s)"
    )
    command.add_argument(
        "--profile",
        metavar="NAME",
        help=f"with pybullet {PROFILES} (default: none); with mujoco {ROOMS} (default: twin_near)",
    )
    add_result(
        command,
        "--out",
        folder=True,
        default=Path("runs/learn_on_arm"),
        metavar="DIR",
        help="folder of result.json and controller.npz (default: %(default)s)",
    )


def _learn(options: argparse.Namespace) -> int:
    import numpy as np

    from rlfp_ros.cli.arm_warnings import named_arm
    from rlfp_ros.dynamics.learning_loop import LocalLearning
    from rlfp_ros.dynamics.reach_learning import DECISIONS, final_distances, learn_reach, write_result
    from rlfp_ros.dynamics.simulated_arm import SimulatedArm
    from rlfp_ros.schema import validate
    from rlfp_ros.seeds import check_training_seed
    from rlfp_ros.simulation.worlds import load_conditions

    check_training_seed(options.seed)
    given = {"iterations": options.iterations, "rollouts": options.rollouts}
    settings = validate(given, LocalLearning, "learn-on-arm")
    profile = options.profile or ("none" if options.world == "pybullet" else None)
    arm = SimulatedArm(named_arm(options.arm), options.task, load_conditions(options.world, profile), DECISIONS)
    goal = np.array(options.goal)

    def report(iteration: LearningIteration) -> None:
        distances = 1e3 * np.sort(final_distances(arm, iteration.played, goal))
        line = (
            f"iteration {iteration.number} of {settings.iterations}: cost {iteration.cost:.1f}, final distance "
            f"{np.median(distances):.1f} mm ({distances[0]:.1f} to {distances[-1]:.1f})"
        )
        if not iteration.kept:
            line += ", taken back"
        if iteration.step is not None:
            line += f", KL {iteration.step.kl:.0f} of {iteration.kl_bound:.0f} nats, eta {iteration.step.eta:.2g}"
        print(line, flush=True)

    try:
        learned = learn_reach(arm, goal, settings, options.seed, options.within, report)
    finally:
        arm.close()
    write_result(options.out, learned, goal, settings, options.seed)
    print(f"after {learned.rollouts} trajectories, without noise: {1e3 * learned.distance_m:.1f} mm from the goal")
    print(options.out / "result.json")
    return 0
