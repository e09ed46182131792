"""Measures how long a publisher is blocked when participants join, leave and are killed, and when these hear it.

One process publishes at 240 Hz, as a driver does joint states, and times every call. Others subscribe one after the
other, hear it, and end: every second one by SIGKILL. `own` and `joining` say which transports each side has: `default`
is Fast DDS's own choice, as tools and drivers have it, `graph` is config/fastdds_<transport>.xml.

    ./rlfp bench joining [--joins 14] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from rlfp_ros.cli.parsing import add_result, parse_benchmark, positive
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.graph import dds
from rlfp_ros.graph.domains import reserved_domain
from rlfp_ros.graph.node_process import child_environment
from rlfp_ros.schema import ConfigurationError

PATIENCE_S = 8.0  # longest wait for a first message
STAYS_S = 0.7  # time that a listener stays after it
HELD_UP_MS = 25.0  # a call that takes longer is recorded
PUBLISHER = f"""
import time, rclpy
from sensor_msgs.msg import JointState
rclpy.init()
publisher = rclpy.create_node("driver").create_publisher(JointState, "joint_states", 32)
print("up", flush=True)
due = time.monotonic()
while True:
    due += 1 / 240
    time.sleep(max(0.0, due - time.monotonic()))
    before = time.monotonic()
    publisher.publish(JointState(name=["joint"], position=[0.0]))
    took = 1e3 * (time.monotonic() - before)
    if took > {HELD_UP_MS}:
        print(took, flush=True)
"""
LISTENER = f"""
import time, rclpy
from sensor_msgs.msg import JointState
rclpy.init()
node, heard = rclpy.create_node("listener"), []
node.create_subscription(JointState, "joint_states", heard.append, 10)
began = time.monotonic()
while not heard and time.monotonic() - began < {PATIENCE_S}:
    rclpy.spin_once(node, timeout_sec=0.05)
print(time.monotonic() - began if heard else "nan", flush=True)
while True:
    rclpy.spin_once(node, timeout_sec=0.05)
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench joining", description=__doc__.splitlines()[0])
    parser.add_argument("--joins", type=positive, default=14)
    add_result(parser, "--json")
    options = parse_benchmark(parser, argv)
    rows = []
    for transport in ("local", "lan"):
        for own, joining in (("default", "default"), ("graph", "default"), ("graph", "graph")):
            rows.append(measure(transport, own, joining, options.joins))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.json:
        write_json(options.json, {"rows": rows})
    return 0


def measure(transport: str, own: str, joining: str, joins: int) -> dict[str, Any]:
    """One row: calls that took more than HELD_UP_MS, the longest, and after how many seconds listeners heard."""
    with reserved_domain() as domain:
        default = {"ROS_DOMAIN_ID": str(domain)}
        if transport == "local":
            default["FASTDDS_BUILTIN_TRANSPORTS"] = "SHM"
        environments = {"default": default, "graph": dds.dds_environment(transport, str(domain))}
        heard = []
        with _running(PUBLISHER, environments[own]) as publisher:
            _line(publisher)
            for number in range(joins):
                with _running(LISTENER, environments[joining]) as listener:
                    heard.append(float(_line(listener)))
                    time.sleep(STAYS_S)
                    listener.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
                    listener.communicate()
            publisher.kill()
            held_up = [float(line) for line in publisher.communicate()[0].split()]
    return {
        "transport": transport,
        "own": own,
        "joining": joining,
        "joins": joins,
        "held_up": len(held_up),
        "longest_ms": round(max(held_up, default=0.0)),
        "deaf": int(np.isnan(heard).sum()),
        "heard_p50_s": round(float(np.nanmedian(heard)), 2),
    }


@contextlib.contextmanager
def _running(code: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process that is killed at the end of the block."""
    command = [sys.executable, "-P", "-u", "-c", code]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, env=child_environment(environment), text=True, stdout=pipe, stderr=null) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    """Return the next line of its output."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise ConfigurationError("bench joining: a process ended before it said anything; run ./rlfp doctor")
    return line
