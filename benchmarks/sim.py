"""Measures steps per second from pixels, for panda-gym's PandaPush in the same run too, and the time of each stage.

A step is one camera image and everything until the next one, episodes' resets included: here 1/30 s with the residual
controller at 240 Hz inside, there 1/25 s. Rates are per second of processor time, which is what one core gives and
which other programs on the machine disturb least; rounds of all of them alternate, and all their steps count: an
episode with shadows costs twice as much as one without, so a median would leave the shadows out.

    ./rlfp bench sim [--seconds S] [--rounds N] [--peer-python FILE] [--memory EPISODES] [--json FILE]

Rates come from uninstrumented runs; the stages' times from a run of their own, whose clock calls cost a few percent.
"""

# Runs under the peer's own Python too (`--as-peer`), so nothing of rlfp_ros is imported up here.
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IMAGE_SIZE = 64  # px
TASK = "push"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PEER_MISSING = (
    "panda-gym is not there, so nothing is compared. To get it: python3 -m venv ~/panda_gym && "
    "~/panda_gym/bin/pip install panda-gym, then ./rlfp bench sim --peer-python ~/panda_gym/bin/python"
)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--as"]:  # a process of the benchmark's own, in a Python that may lack this package
        serve(argv[1], int(argv[2]))
        return 0
    from rlfp_ros.cli.parsing import add_result, duration, natural, parse_benchmark, positive

    parser = argparse.ArgumentParser(prog="rlfp bench sim", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=duration, default=16.0, help="of processor time for each measurement")
    parser.add_argument("--rounds", type=positive, default=3, help="of all measurements; means count")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has panda-gym")
    parser.add_argument("--image-size", type=positive, default=IMAGE_SIZE, help="px")
    parser.add_argument("--memory", type=natural, default=0, help="also reset this many episodes and watch the memory")
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    peer_there = subprocess.run([options.peer_python, "-c", "import panda_gym"], capture_output=True).returncode == 0
    pythons = {"train": sys.executable, "none": sys.executable}
    if peer_there:
        pythons["panda_gym"] = options.peer_python
    else:
        print(PEER_MISSING)
    load = os.getloadavg()[0]
    rates: dict[str, list[float]] = {role: [] for role in pythons}
    workers = {role: Worker(python, role, options.image_size) for role, python in pythons.items()}
    second = Worker(sys.executable, "train", options.image_size)
    try:
        for _ in range(options.rounds):
            for role, worker in workers.items():
                rates[role].append(worker.measure(options.seconds)["steps_per_cpu_s"])
        alone = workers["train"].measure(options.seconds)["steps_per_wall_s"]
        for worker in (workers["train"], second):
            worker.ask(options.seconds)
        both = sum(worker.answer()["steps_per_wall_s"] for worker in (workers["train"], second))
        train = workers["train"].measure(options.seconds, "stages")
        none = workers["none"].measure(options.seconds, "stages")
        growth = workers["train"].measure(options.memory, "memory")["rss_mib_series"] if options.memory else []
    finally:
        for worker in (*workers.values(), second):
            worker.close()
    mean = {role: statistics.fmean(values) for role, values in rates.items()}
    peer = mean.get("panda_gym")
    result = {
        "image_size": options.image_size,
        "steps_per_s_core": round(mean["train"], 1),
        "steps_per_s_core_none": round(mean["none"], 1),
        "panda_gym_steps_per_s": round(peer, 1) if peer else None,
        "ratio": round(mean["train"] / peer, 2) if peer else None,
        "ratio_none": round(mean["none"] / peer, 2) if peer else None,
        "scaling_two_processes": round(both / alone, 2),
        "rss_mib": train["rss_mib"],
        "rss_mib_over_episodes": growth,
        "stages_ms": train["stages_ms"],
        "stages_ms_none": none["stages_ms"],
        "transfer_ms": transfer_ms(options.image_size),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "rounds": {role: [round(rate, 1) for rate in values] for role, values in rates.items()},
    }
    result["stages_ms"]["transfer"] = result.pop("transfer_ms")
    for name, value in result.items():
        print(f"{name:24} {value}")
    if load > 0.5:
        print(
            f"the machine was busy (load {load:.1f}): scaling_two_processes says little, the rates are still per core"
        )
    if options.json:
        from rlfp_ros.evaluation.results import write_json

        write_json(options.json, result)
    return 0


class Worker:
    """A process that holds one environment and measures it when asked."""

    def __init__(self, python: str, role: str, size: int) -> None:
        root = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            [python, __file__, "--as", role, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(root)},
        )

    def ask(self, seconds: float, what: str = "rate") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {seconds}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # PyBullet prints its build time
                return dict(json.loads(line))
        raise RuntimeError(f"the benchmark's worker ended with {self._process.wait()}")

    def measure(self, seconds: float, what: str = "rate") -> dict[str, Any]:
        self.ask(seconds, what)
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def serve(role: str, size: int) -> None:
    """Measure what each line of standard input says, for so many seconds of processor time or episodes."""
    step, reset, instrument = peer_step(size) if role == "panda_gym" else own_step(role, size)
    for _ in range(20):
        step()
    for line in sys.stdin:
        what, amount = line.split()
        if what == "memory":
            print(json.dumps({"rss_mib_series": memory_over(round(float(amount)), reset)}), flush=True)
            continue
        limit, steps = float(amount), 0
        stages = instrument() if what == "stages" else {}
        cpu, wall = time.process_time(), time.perf_counter()
        while time.process_time() - cpu < limit:
            step()
            steps += 1
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        answer = {
            "steps_per_cpu_s": steps / cpu,
            "steps_per_wall_s": steps / wall,
            "rss_mib": round(resident_mib(), 1),
            "stages_ms": {name: round(1000 * seconds / steps, 3) for name, seconds in stages.items()},
        }
        print(json.dumps(answer), flush=True)


def memory_over(episodes: int, reset: Callable[[], Any]) -> list[float]:
    """Memory of this process (MiB) after each tenth of so many episodes, one image of each."""
    series = []
    for episode in range(1, episodes + 1):
        reset()
        if episode % max(episodes // 10, 1) == 0:
            series.append(round(resident_mib(), 1))
    return series


Step = tuple[Callable[[], None], Callable[[], Any], Callable[[], dict[str, float]]]


def own_step(profile: str, size: int) -> Step:
    """Ours: a step with a random action, a reset, and what puts clocks in (s of processor time by stage)."""
    import cv2
    import numpy as np

    from rlfp_ros.seeds import CountedSeeds
    from rlfp_ros.simulation.environment import ManipulationEnv

    cv2.setNumThreads(1)
    env = ManipulationEnv(TASK, profile=profile, observation="pixels", image_size=size, seeds=CountedSeeds())
    stages: dict[str, float] = {}
    inside = [0.0]  # time already counted for stages within the one that runs

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            outer, inside[0] = inside[0], 0.0
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                took = time.process_time() - start
                stages[stage] = stages.get(stage, 0.0) + took - inside[0]
                inside[0] = outer + took

        return call

    def instrument() -> dict[str, float]:
        world, controller = env.world, env.deployment.controller
        world.step = timed("physics", world.step)  # type: ignore[method-assign]
        world.dressing.move = timed("render", world.dressing.move)  # type: ignore[method-assign]
        world.renderer.render = timed("render", world.renderer.render)  # type: ignore[method-assign]
        world.camera.expose = timed("post_processing", world.camera.expose)  # type: ignore[method-assign]
        for name in ("tick", "on_residual", "on_joint_state"):
            setattr(controller, name, timed("control", getattr(controller, name)))
        env.reset, env.step = timed("reset", env.reset), timed("environment", env.step)  # type: ignore[method-assign]
        return stages

    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def once() -> None:
        _, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_size))
        if terminated or truncated:
            env.reset()

    return once, lambda: env.reset(), instrument


def peer_step(size: int) -> Step:
    """Random actions in panda-gym's PandaPush, its image rendered after every step."""
    import gymnasium
    import panda_gym  # type: ignore[import-not-found]  # noqa: F401 - registers its environments

    env = gymnasium.make(
        "PandaPush-v3", render_mode="rgb_array", renderer="Tiny", render_width=size, render_height=size
    )
    env.action_space.seed(0)
    env.reset(seed=0)

    def once() -> None:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        image = env.render()
        assert image.shape[:2] == (size, size)  # type: ignore[union-attr]
        if terminated or truncated:
            env.reset()

    return once, env.reset, dict


def transfer_ms(size: int, steps: int = 60) -> float:
    """What a step costs more when it comes from another process: a vector of one against the environment itself."""
    import numpy as np

    from rlfp_ros.simulation.environment import ManipulationEnv
    from rlfp_ros.simulation.vector import make_vector

    arguments: dict[str, Any] = {"task": TASK, "profile": "none", "observation": "pixels", "image_size": size}
    vector, single = make_vector(1, **arguments), ManipulationEnv(**arguments)
    try:
        vector.reset(seed=0)
        single.reset(seed=0)
        actions = np.zeros((1, single.action_size), np.float32)
        difference = list(_differences(lambda: vector.step(actions), lambda: single.step(actions[0]), steps))
        return round(1000 * statistics.median(difference), 3)
    finally:
        vector.close()
        single.close()


def _differences(one: Callable[[], Any], other: Callable[[], Any], count: int) -> Iterator[float]:
    for _ in range(count):
        start = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        yield (middle - start) - (time.perf_counter() - middle)


def resident_mib() -> float:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
