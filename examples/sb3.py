"""Train a stock agent of Stable-Baselines3 on a task of this package.

python examples/sb3.py --steps 20000
"""

from __future__ import annotations

import argparse

import gymnasium
from stable_baselines3 import SAC

import rlfp_ros  # makes rlfp_ros/Reach-v0 and the others known to Gymnasium


def main(steps: int) -> None:
    """Train SAC from the privileged state, then play ten episodes."""
    print(f"rlfp_ros {rlfp_ros.__version__}")
    env = gymnasium.make("rlfp_ros/Reach-v0", observation="state", profile="none")
    agent = SAC("MultiInputPolicy", env, learning_starts=min(1000, steps // 2), verbose=0)
    agent.learn(total_timesteps=steps)
    won = 0
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        won += bool(info["success"])
    print(f"{won} of 10 episodes succeeded after {steps} steps")
    env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps (default: %(default)s)")
    main(parser.parse_args().steps)
