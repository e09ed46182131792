"""Test that a simulated graph with its defaults opens no port beyond this computer, and is seen on it."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import wait_until

from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.graph.sim import SIM
from rlfp_ros.operator.page_address import PAGE_LINE

LIMIT_S = 90.0  # a loaded machine brings the graph up in 20 s
MULTICAST = "239.255.0.1"  # of DDS discovery; the group is joined on the loopback interface


TOOL = """
import rclpy
from rlfp_ros.nodes import messages

rclpy.init()
node = rclpy.create_node("tool")
states = []
topic = messages.SAFETY_STATE
node.create_subscription(topic.type, topic.name, states.append, topic.qos)
while not states:
    rclpy.spin_once(node)
print("seen")
"""


def opened(runner: Runner) -> dict[str, set[tuple[str, int]]]:
    """Return the addresses on which each node receives."""
    found = {}
    for name, pid in runner.pids().items():
        sockets = psutil.Process(pid).net_connections()
        found[name] = {tuple(one.laddr) for one in sockets if one.laddr and not one.raddr}
    return found


@pytest.mark.graph
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("own_domain")
def test_the_simulation_with_its_page_is_reached_from_this_computer_only_and_seen_by_tools_on_it(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    for name in [name for name in os.environ if name.startswith(("FASTDDS_", "FASTRTPS_", "ROS_AUTOMATIC"))]:
        monkeypatch.delenv(name)  # the defaults of a user
    lines: list[str] = []
    arguments = {"bundle": str(tiny_bundle), "operator": True, "operator_port": 0}
    resolved = resolve(SIM, arguments)
    with Runner(resolved, console="quiet", handle_signals=False, on_line=lambda _, line: lines.append(line)) as runner:
        names = {node.name for node in resolved.processes}
        wait_until(lambda: any(line.startswith(PAGE_LINE) for line in lines), LIMIT_S, "the page")
        wait_until(lambda: all(opened(runner).get(name) for name in names), LIMIT_S, "sockets of all nodes")
        # A process of its own: in this one DDS keeps the transports of the first test that used it.
        tool = subprocess.run([sys.executable, "-c", TOOL], timeout=LIMIT_S, capture_output=True, text=True)
        assert tool.stdout == "seen\n", tool.stderr
        found = opened(runner)
    assert set(found) == names
    for name, addresses in found.items():
        beyond = {place for place in addresses if not ipaddress.ip_address(place[0]).is_loopback}
        assert {host for host, _ in beyond} <= {MULTICAST}, f"{name} receives on {beyond}"
