"""Commands that run or operate the ROS 2 graph: `demo`, `launch` and `operate`."""

from __future__ import annotations

import argparse

from rlfp_ros.cli.parsing import (
    ROOMS,
    TASKS,
    Commands,
    add_arm_or_cell,
    add_command,
    add_result,
    arm_of,
    port,
    positive,
)


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this file's commands."""
    command = add_command(commands, "demo", _demo, "run episodes on the real ROS 2 graph and show what happened")
    command.add_argument("--task", default="reach", help=f"{TASKS} (default: %(default)s)")
    command.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="the bundle: a folder, or the name of one in models/ (default: <task>_<arm>, or <task>_<cell>)",
    )
    add_arm_or_cell(command, "panda, or the bundle's own")
    command.add_argument(
        "--episodes", type=positive, metavar="N", help="number of episodes (default: 10; with --operate: until Ctrl-C)"
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first episode (default: %(default)s)"
    )
    add_result(command, "--json", metavar="FILE", help="also write the figures to FILE")
    add_result(command, "--out", folder=True, metavar="DIR", help="folder for the results (default: runs/<time>)")
    command.add_argument(
        "--hardware",
        choices=("none", "mock"),
        help="mock: the real-arm graph against the MuJoCo twin (default: none; with --operate: mock)",
    )
    command.add_argument("--room", default="twin_near", help=f"the twin's room: {ROOMS} (default: %(default)s)")

    command.add_argument(
        "--operate",
        action="store_true",
        help="serve the operator's page: the arm moves when you enable it there, and stops when you close it",
    )
    command.add_argument(
        "--port", type=port, default=8460, metavar="P", help="port of the page, with --operate (default: %(default)s)"
    )

    command = add_command(commands, "launch", _launch, "run a launch file's graph without a ROS installation")
    command.add_argument("file", nargs="?", metavar="FILE", help="a launch file; without it the command lists them")
    command.add_argument("arguments", nargs="*", metavar="NAME:=VALUE", help="launch arguments; -s lists them")
    command.add_argument("-s", "--show-args", action="store_true", help="show the launch file's arguments")
    add_result(command, "--log-file", metavar="FILE", help="also write every line of output to FILE")

    command = add_command(commands, "operate", _operate, "operate a running graph: heartbeat, enable, stop, reset")
    command.add_argument(
        "--terminal",
        action="store_true",
        help="from this terminal and its keyboard; without it a page for the browser is served",
    )
    command.add_argument(
        "arguments",
        nargs="*",
        metavar="NAME:=VALUE",
        help="namespace, domain_id and transport as the graph was launched with; operator_port of the page",
    )


def _demo(options: argparse.Namespace) -> int:
    from rlfp_ros.graph import demo
    from rlfp_ros.seeds import EVALUATION

    episodes = options.episodes or (0 if options.operate else 10)
    EVALUATION.episodes(options.seed, max(1, episodes))
    return demo.run(
        task=options.task,
        bundle_name=options.bundle,
        arm=arm_of(options),
        episodes=episodes,
        seed=options.seed,
        json_path=options.json,
        out=options.out,
        hardware=options.hardware or ("mock" if options.operate else "none"),
        room=options.room,
        page_port=options.port if options.operate else None,
    )


def _launch(options: argparse.Namespace) -> int:
    from rlfp_ros.cli.arm_warnings import warned_about
    from rlfp_ros.contract import load_bundle
    from rlfp_ros.control.trained_arm import choose_arm
    from rlfp_ros.graph.arguments import parse_assignments
    from rlfp_ros.graph.catalogue import GRAPHS, find_graph
    from rlfp_ros.graph.description import describe
    from rlfp_ros.graph.resolution import resolve
    from rlfp_ros.graph.runner import Runner
    from rlfp_ros.schema import ConfigurationError

    if options.file is None:
        files = ", ".join(f"{name}.launch.py" for name in GRAPHS)
        raise ConfigurationError(f"launch: which launch file? There is: {files}")
    graph = find_graph(options.file)
    if options.show_args:
        print(describe(graph))
        return 0
    resolved = resolve(graph, parse_assignments(options.arguments, f"{graph.name}.launch.py"))
    runner = Runner(resolved, log_file=options.log_file)
    runner.check()  # first, because looking at the arm may compile the control core
    warned_about(choose_arm(load_bundle(resolved.arguments["bundle"]), resolved.arguments["arm"]))
    with runner:
        return runner.wait()


def _operate(options: argparse.Namespace) -> int:
    from rlfp_ros.graph.operate import become_page, become_terminal

    if options.terminal:
        become_terminal(options.arguments)
    become_page(options.arguments)
