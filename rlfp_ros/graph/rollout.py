"""Plays a bundle through the real ROS 2 graph and observes it from outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlfp_ros.evaluation.evaluate import Series
from rlfp_ros.graph.dds import environment
from rlfp_ros.graph.description import Graph
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.environment_check import check_environment
from rlfp_ros.graph.node_process import child_environment
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.graph.sim import SIM
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.ticked_world import Outcome

if TYPE_CHECKING:
    from rlfp_ros.nodes.graph_listener import ObservedEpisode

LISTEN_S = 0.2  # between two checks whether the graph still runs


def observe_graph(
    arguments: dict[str, Any],
    on_episode: Callable[[ObservedEpisode], None],
    log_file: Path | None = None,
    which: Graph = SIM,
    operates: bool | None = None,
    on_line: Callable[[str, str], None] | None = None,
) -> list[ObservedEpisode]:
    """Run a graph with launch `arguments` to its end, and return the observed messages of each episode.

    `REAL_ARM` needs `use_mock_hardware`; this process is then also its operator (enable, heartbeat), unless `operates`
    is false. `on_line` gets (node, line) for every line that a node prints. A graph without a number of episodes runs
    until it is interrupted. Raises ConfigurationError if the graph fails, with the reason that its runner gives.
    """
    operates = which is REAL_ARM if operates is None else operates
    with reserved_domain() as domain:  # keeps other graphs of this machine separate
        resolved = resolve(which, {**arguments, "observed": True, "domain_id": str(domain)})
        transport = resolved.arguments["transport"]
        variables = environment(transport, str(domain))
        check_environment(child_environment(variables), transport)
        os.environ.update(variables)  # before DDS starts here

        from rlfp_ros.nodes.graph_listener import GraphListener  # imports rclpy, which the environment may forbid

        with (
            GraphListener(on_episode, operates=operates) as observer,
            Runner(resolved, console="quiet", log_file=log_file, on_line=on_line) as runner,
        ):
            while runner.poll() is None:
                observer.spin(LISTEN_S)
            observer.spin(LISTEN_S)
            code = runner.wait()
    expected = int(resolved.arguments["episodes" if which is SIM else "mock_episodes"])
    if code >= 128 and runner.failure is None:
        if not expected and observer.episodes:
            return observer.episodes
        raise KeyboardInterrupt
    where = f"; the whole log is {log_file}" if log_file else ""
    if code != 0:
        raise ConfigurationError(f"the graph ended early: {runner.failure or f'exit code {code}'}{where}")
    if expected and len(observer.episodes) != expected:
        raise ConfigurationError(
            f"the graph ended with {len(observer.episodes)} of {expected} episodes heard: its simulator was "
            f"stopped, or its messages do not arrive here (`./rlfp doctor` checks that){where}"
        )
    return observer.episodes


def outcome_of(episode: ObservedEpisode) -> Outcome:
    """The outcome of an observed episode."""
    outcome = episode.outcome
    return Outcome(bool(outcome["success"]), int(outcome["steps"]), float(outcome["distance_m"]))


def latency_summary(episodes: list[ObservedEpisode]) -> dict[str, float | int]:
    """Return `{p50, p99, n}` of camera-to-command latency, ms."""
    latencies = [latency for episode in episodes for latency in episode.camera_to_command_ms()]
    if not latencies:
        return {"p50": float("nan"), "p99": float("nan"), "n": 0}
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "n": len(latencies)}


def play_graph(series: Series, report: Callable[[int, Outcome], None]) -> tuple[list[Outcome], dict[str, Any]]:
    """Play episodes through the graph in lock step; also return the figures that only the graph has."""
    contract = series.bundle.contract
    arguments = {
        "task": contract.task,
        "bundle": str(series.bundle.directory),
        "world": series.world,
        "profile": series.profile,
        "episodes": series.episodes,
        "seed": series.seed,
        "lock_step": True,
        "transport": "local",
    }
    if series.arm is not None:
        arguments["arm"] = str(series.arm)
    number = 0

    def heard(episode: ObservedEpisode) -> None:
        nonlocal number
        report(number, outcome_of(episode))
        number += 1

    observed = observe_graph(arguments, heard)
    return [outcome_of(episode) for episode in observed], {"camera_to_command_ms": latency_summary(observed)}
