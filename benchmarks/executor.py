"""Compares rclpy's SingleThreadedExecutor with `rlfp_ros.nodes.executor`: time per callback in a node of typical size.

Processor time of the spinning thread for one JointState, on DDS inside one process; publishing is not counted.

    ./rlfp bench executor [--messages N] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np

from rlfp_ros.cli.parsing import add_result, parse_benchmark, positive
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.graph import dds
from rlfp_ros.graph.domains import reserved_domain

SUBSCRIPTIONS, SERVICES = 9, 5  # beside the one that is measured: the residual controller's


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench executor", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=positive, default=1500)
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    with reserved_domain() as domain:
        os.environ.update(dds.environment("local", str(domain)))
        result = measure(options.messages)
    result["ratio"] = round(result["rclpy_us"] / result["ours_us"], 1)
    print("  ".join(f"{key} {value}" for key, value in result.items()))
    if options.json:
        write_json(options.json, result)
    return 0


def measure(messages: int) -> dict[str, Any]:
    """`{rclpy_us, ours_us}`: median of each, the two taken in turns."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from sensor_msgs.msg import JointState
    from std_srvs.srv import Trigger

    from rlfp_ros.nodes.executor import NodeExecutor

    rclpy.init()
    sides = {}
    for name in ("rclpy_us", "ours_us"):
        node = Node(name)
        heard: list[int] = []
        node.create_subscription(JointState, f"{name}/measured", lambda message, heard=heard: heard.append(1), 10)
        for number in range(SUBSCRIPTIONS):
            node.create_subscription(JointState, f"{name}/topic{number}", lambda message: None, 10)
        for number in range(SERVICES):
            node.create_service(Trigger, f"{name}/service{number}", lambda request, response: response)
        publisher = node.create_publisher(JointState, f"{name}/measured", 10)
        if name == "ours_us":
            spin_once = NodeExecutor(node).spin_once
        else:
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            spin_once = executor.spin_once
        sides[name] = (publisher, spin_once, heard)
    names = [f"joint{number}" for number in range(9)]
    message = JointState(name=names, position=[0.0] * 9, velocity=[0.0] * 9, effort=[0.0] * 9)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(messages):
        for name, (publisher, spin_once, heard) in sides.items():
            publisher.publish(message)
            before, began = len(heard), time.thread_time()
            while len(heard) == before:
                spin_once()
            times[name].append(time.thread_time() - began)
    rclpy.shutdown()
    return {name: round(1e6 * float(np.median(taken)), 1) for name, taken in times.items()}
