"""Success rates of the tasks' scripted teachers, with true state, the deployed controller and limits, randomisation.

./rlfp bench teachers [--tasks push lift place] [--arms panda ur5e] [--profile train] [--episodes 50] [--json FILE]
./rlfp bench teachers --through push_panda --world mujoco --profile twin_dim [--episodes 50]

With `--through` the teacher gets the estimator's result from the bundle's encoder instead of the true state. This is an
upper bound for a policy that imitates it. Also in MuJoCo's rooms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import numpy as np

from rlfp_ros.cli.parsing import add_result, natural, parse_benchmark, positive
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState
from rlfp_ros.control.policy import ObservationContract, Observer, residual_of
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.evaluation.episodes import play_episodes
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.tasks.task import TASKS
from rlfp_ros.simulation.worlds import SIMULATORS, load_conditions

IMAGE_SIZE = 16  # px; small, because nothing reads the image


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench teachers", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS.names(), choices=TASKS.names())
    parser.add_argument("--arms", nargs="+", default=["panda"], help="names in config/arms/ (default: panda)")
    parser.add_argument("--through", metavar="BUNDLE", help="the teacher sees through this bundle's encoder")
    parser.add_argument("--world", default="pybullet", choices=list(SIMULATORS), help="with --through: the simulator")
    parser.add_argument("--profile", default="train", help="with --world mujoco a room (default: %(default)s)")
    parser.add_argument("--episodes", type=positive, default=50)
    parser.add_argument("--seed", type=natural, default=0, help="of the first episode (default: %(default)s)")
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    seeds = range(options.seed, options.seed + options.episodes)
    if options.through:
        result = {options.through: play_through(options.through, options.world, options.profile, seeds)}
    else:
        result = {
            f"{task} {arm}": play(task, arm, options.profile, seeds) for task in options.tasks for arm in options.arms
        }
    for name, found in result.items():
        print(f"{name:14} " + "  ".join(f"{key} {value}" for key, value in found.items()))
    if options.json:
        write_json(options.json, result)
    return 0


def play(task: str, arm: str, profile: str, seeds: range) -> dict[str, Any]:
    """The teacher on the true state."""
    env = ManipulationEnv(task, arm, profile, observation="state", image_size=IMAGE_SIZE)
    env.world.task.require_teacher("this measures it")
    act = lambda observation: env.world.task.teacher(env.world, env.behaviour.action)  # noqa: E731
    played = list(play_episodes(env, act, seeds))
    env.close()
    failed = [episode.seed for episode in played if not episode.success]
    return _summary(seeds, failed, [episode.steps for episode in played])


def play_through(bundle: str, world: str, profile: str, seeds: range) -> dict[str, Any]:
    """The teacher on what the bundle's encoder and this code's estimator see, under a profile or in a room."""
    loaded = load_bundle(bundle)
    rollout = Rollout(loaded, load_conditions(world, profile))
    teacher = SeeingTeacher(rollout)
    rollout.policy = teacher  # type: ignore[assignment]
    failed, steps, errors = [], [], []
    for seed in seeds:
        episode = rollout.play(seed)
        steps.append(len(episode.residuals))
        errors += teacher.errors_m
        if not episode.outcome.success:
            failed.append(seed)
    rollout.close()
    return _summary(seeds, failed, steps) | {"median_error_mm": round(1000 * statistics.median(errors), 1)}


class SeeingTeacher:
    """Stands in for a rollout's policy."""

    def __init__(self, rollout: Rollout) -> None:
        from rlfp_ros.learning.recipes.estimator import estimator_for  # loads torch

        self._world: Any = rollout.world
        self._contract = contract = rollout.policy.contract
        arm, shape = self._world.arm, contract.encoder.outputs["features"]
        if len(shape) != 3:
            raise ConfigurationError(
                f"bundle {contract.name}: features have shape {list(shape)}, but the estimator takes points "
                "[1, K, 3]; give --through a bundle that was trained with --encoder spatial"
            )
        self._observer = Observer(arm, ObservationContract.of(contract))
        joints, stack = len(arm.joint_names), contract.policy.feature_stack
        self._estimator = estimator_for(self._world.task, contract.camera, joints, stack)
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        import torch

        self._observer.reset()
        self._state = torch.zeros(1, self._estimator.state_size)
        self.errors_m: list[float] = []  # of the object's place on the table, per image

    def act(
        self, features: np.ndarray, joint_state: JointState, stamp_ns: int, goal: np.ndarray | None = None
    ) -> Residual:
        """As `Policy.act`."""
        import torch

        from rlfp_ros.learning.recipes.estimator import Belief

        observation = self._observer.observe(features, joint_state, goal)
        given = [
            torch.from_numpy(observation[name])[None] for name in ("features", "proprioception", "goal", "goal_mask")
        ]
        with torch.no_grad():
            inputs, self._state = self._estimator(*given, self._state)
        seen = inputs[0].numpy()
        task, action = self._world.task, self._contract.action
        true = task.object_pose(self._world)[0]
        self.errors_m.append(float(np.linalg.norm((seen[-3:] - true)[:2])))
        given = task.teacher(Belief(self._estimator, seen), action)
        return residual_of(np.asarray(given, float), action, stamp_ns, self._contract.arm.joint_names)


def _summary(seeds: range, failed: list[int], steps: list[int]) -> dict[str, Any]:
    return {
        "successes": len(seeds) - len(failed),
        "episodes": len(seeds),
        "median_frames": statistics.median(steps),
        "failed_seeds": failed,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
