"""The `rlfp` command. One function for each subcommand; its imports are inside it, so that help is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlfp_ros import __version__
from rlfp_ros.graph.description import GRAPHS, Graph

if TYPE_CHECKING:
    from rlfp_ros.simulation.ticked_world import Outcome

Run = Callable[[argparse.Namespace], int]

PROFILES = "none, train, validation, harsh or a file"
ROOMS = "twin_near, twin_dim, twin_glare, twin_clutter, twin_moved or a file"
ALGORITHMS = ("sac", "ppo", "dqn", "a3c", "a2c")  # those of learning/algorithms/run.py, which imports torch


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. What the user can put right is one line on standard error and exit code 2."""
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    # argparse would take pytest's options for its own.
    passed_on = words[1:] if words[:1] == ["test"] and words[1:] not in (["-h"], ["--help"]) else []
    options = parser.parse_args(words[: len(words) - len(passed_on)])
    options.pytest_arguments = passed_on
    run: Run | None = getattr(options, "run", None)
    if run is None:
        parser.print_help()
        return 2
    try:
        return run(options)
    except KeyboardInterrupt:
        print("\nrlfp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `rlfp inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError) as error:
        from rlfp_ros.schema import ConfigurationError

        if isinstance(error, ConfigurationError):
            print(f"rlfp: {error}", file=sys.stderr)
            return 2
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("rlfp_ros"):
            print(
                f"rlfp: the Python package {error.name!r} is missing; `./rlfp doctor` says how to get it",
                file=sys.stderr,
            )
            return 2
        raise


def build_parser() -> argparse.ArgumentParser:
    """The command line as argparse sees it."""
    parser = argparse.ArgumentParser(
        prog="rlfp",
        description="Train manipulation policies from pixels and run them on ROS 2, in simulation and on an arm.",
    )
    parser.add_argument("--version", action="version", version=f"rlfp_ros {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    command = _add(commands, "demo", _demo, "run episodes on the real ROS 2 graph and show what happened")
    command.add_argument("--task", default="reach", help="which task (default: %(default)s)")
    command.add_argument("--episodes", type=_positive, default=10, metavar="N", help="how many (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the first episode (default: %(default)s)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    command.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/<time>)")
    command.add_argument("--hardware", default="none", choices=("none", "mock"),
                         help="mock: the real-arm graph against the MuJoCo twin (default: %(default)s)")  # fmt: skip
    command.add_argument("--room", default="twin_near", help=f"the twin's: {ROOMS} (default: %(default)s)")

    _add(commands, "test", _test, "run the tests; further words go to pytest", pass_on=True)

    command = _add(commands, "launch", _launch, "run a launch file's graph without a ROS installation")
    command.add_argument("file", nargs="?", metavar="FILE", help=f"{', '.join(f'{name}.launch.py' for name in GRAPHS)}")
    command.add_argument("arguments", nargs="*", metavar="NAME:=VALUE", help="launch arguments; -s lists them")
    command.add_argument("-s", "--show-args", action="store_true", help="say what the launch file's arguments are")
    command.add_argument("--log-file", type=Path, metavar="FILE", help="also write every line of output to FILE")

    command = _add(commands, "train", _train, "train a task from nothing to a policy bundle")
    command.add_argument("task", help="which task, for example reach")
    command.add_argument("--arm", default="panda", help="a name in config/arms/ (default: %(default)s)")
    command.add_argument("--profile", default="train", help=f"randomisation: {PROFILES} (default: %(default)s)")
    command.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the whole training (default: %(default)s)"
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="the bundle (default: models/<task>_<arm>)")
    command.add_argument("--run", dest="run_folder", type=Path, metavar="DIR",
                         help="checkpoints and logs (default: runs/train_<task>_<arm>)")  # fmt: skip
    command.add_argument("--encoder", default="spatial", metavar="KIND",
                         help="spatial (feature points), cnn, vit (a latent) (default: %(default)s)")  # fmt: skip
    command.add_argument("--representation", default="supervised", metavar="NAME[+NAME...]",
                         help="what the encoder learns from: supervised, autoencoder, vae, vae_l1, dsae, curl, depth, "
                         "inverse_dynamics, reward_prediction, pixel_control (default: %(default)s)")  # fmt: skip
    command.add_argument("--feature-stack", type=_positive, default=2, metavar="N",
                         help="frames of features that the policy sees (default: %(default)s)")  # fmt: skip
    command.add_argument("--memory", type=_natural, default=0, metavar="N",
                         help="units of the policy's memory, a GRU; 0: none (default: %(default)s)")  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on with the training in the run folder")
    command.add_argument("--work", type=_fraction, default=1.0, metavar="F",
                         help="share of the full training, 0 to 1 (default: %(default)s)")  # fmt: skip
    command.add_argument("--evaluation-episodes", type=_natural, default=100, metavar="N",
                         help="episodes per profile at the end (default: %(default)s)")  # fmt: skip
    group = command.add_argument_group(
        "one algorithm by itself",
        "instead of the recipe; leaves a policy in its run folder, with --out a bundle",
    )
    group.add_argument("--algorithm", choices=ALGORITHMS, help="docs/algorithms.md says what each is")
    group.add_argument("--observation", choices=("pixels", "features", "state"), default="pixels",
                       help="what it learns from, beside joints and goal (default: %(default)s)")  # fmt: skip
    group.add_argument("--image-size", type=_positive, default=32, metavar="PX", help="(default: %(default)s)")
    group.add_argument("--frame-stack", type=_positive, default=1, metavar="N", help="pictures (default: %(default)s)")
    group.add_argument("--encoder-from", metavar="BUNDLE", help="whose encoder gives features (default: <task>_<arm>)")
    group.add_argument("--steps", type=_positive, metavar="N", help="environment steps (default: the algorithm's own)")
    group.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE",
                       help="another value for one of the algorithm's settings; can be given again")  # fmt: skip
    command.set_defaults(default_of=command.get_default)

    command = _add(commands, "export", _export, "write a policy bundle from a finished training, or an older one anew")
    command.add_argument("source", metavar="RUN", type=Path, help="a run folder of `rlfp train`, or a bundle folder")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle, for example models/NAME")
    command.add_argument("--evaluation-episodes", type=_natural, default=100, metavar="N",
                         help="episodes per profile at the end (default: %(default)s)")  # fmt: skip

    command = _add(commands, "evaluate", _evaluate, "measure a bundle's success rate")
    command.add_argument("bundle", help="a bundle folder, or the name of one in models/")
    command.add_argument("--profile", metavar="NAME", help=f"pybullet: {PROFILES} (default: train); mujoco: {ROOMS} "
                         "(default: twin_near)")  # fmt: skip
    command.add_argument("--world", default="pybullet", choices=("pybullet", "mujoco"),
                         help="which simulator; mujoco is the foreign one (default: %(default)s)")  # fmt: skip
    command.add_argument("--episodes", type=_positive, default=200, metavar="N", help="how many (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the first episode (default: %(default)s)")
    command.add_argument("--graph", action="store_true", help="through the real ROS 2 graph, in lock step")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")

    command = _add(commands, "preview", _preview, "write a picture of 36 episodes as the policy will see them")
    command.add_argument("--task", default="reach", help="which task (default: %(default)s)")
    command.add_argument("--arm", default="panda", help="a name in config/arms/ (default: %(default)s)")
    command.add_argument("--profile", default="train", help=f"randomisation: {PROFILES} (default: %(default)s)")
    command.add_argument("--sweep", metavar="PARAMETER", help="also a sheet with one parameter from low to high")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the first episode (default: %(default)s)")
    command.add_argument("--out", type=Path, metavar="FILE", help="(default: runs/preview_<task>_<profile>.png)")

    command = _add(
        commands, "calibrate", _calibrate, "where a camera stands and how it sees: board, intrinsics, extrinsics"
    )
    parts = command.add_subparsers(title="what", metavar="WHAT", required=True)
    for name, text in (
        ("board", "write the picture of a board to print"),
        ("intrinsics", "the camera's K and lens, from pictures of the board"),
        ("extrinsics", "the camera's place, from the board on the arm's tool at several postures"),
    ):
        part = parts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        part.set_defaults(what=name, run=_calibrate)
        part.add_argument("--squares", default="7x5", metavar="CxR", help="columns x rows (default: %(default)s)")
        part.add_argument("--square", type=float, default=0.03, metavar="M", help="side in m (default: %(default)s)")
        part.add_argument("--marker", type=float, default=0.022, metavar="M",
                          help="ChArUco marker's side in m; 0: checkerboard (default: %(default)s)")  # fmt: skip
        part.add_argument("--dictionary", default="DICT_5X5_100", help="of the markers (default: %(default)s)")
        suffix = "png" if name == "board" else "yaml"
        part.add_argument("--out", type=Path, default=Path(f"runs/calibration/{name}.{suffix}"), metavar="FILE",
                          help="(default: %(default)s)")  # fmt: skip
        if name != "board":
            part.add_argument("--bag", type=Path, required=name == "extrinsics", metavar="DIR", help="a recorded bag")
        if name == "intrinsics":
            part.add_argument(
                "images", nargs="*", type=Path, metavar="PICTURE", help="picture files, in place of a bag"
            )
        if name == "extrinsics":
            part.add_argument("--arm", default="panda", help="a name in config/arms/ (default: %(default)s)")
            part.add_argument("--bundle", help="also check against where this bundle's camera stood")

    command = _add(commands, "align", _align, "lay the simulator's arm over the real one; how many pixels it misses")
    command.add_argument("topics", nargs="*", metavar="NAME:=VALUE", help="of real_arm.launch.py, e.g. camera:=usb_cam")
    command.add_argument("--bag", type=Path, metavar="DIR", help="a recorded bag with a standing arm (default: live)")
    command.add_argument("--bundle", default="reach_panda", help="for its camera's tolerance (default: %(default)s)")
    command.add_argument("--arm", default="panda", help="a name in config/arms/ (default: %(default)s)")
    command.add_argument("--extrinsics", default="bundle", metavar="FILE",
                         help="from `calibrate extrinsics`, or bundle (default: %(default)s)")  # fmt: skip
    command.add_argument("--meshes", default="visual", choices=("visual", "collision"),
                         help="collision for mock hardware, which shows those (default: %(default)s)")  # fmt: skip
    command.add_argument("--out", type=Path, default=Path("runs/align"), metavar="DIR",
                         help="for the overlays (default: %(default)s)")  # fmt: skip

    command = _add(commands, "gap", _gap, "say at which stage a recorded run parts from how its policy was trained")
    command.add_argument("--bag", type=Path, required=True, metavar="DIR", help="a recorded bag of the running graph")
    command.add_argument("--bundle", default="reach_panda", help="that was deployed (default: %(default)s)")
    command.add_argument("--arm", help="a name in config/arms/ (default: the bundle's)")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the stages to FILE")

    command = _add(commands, "inspect", _inspect, "say what a policy bundle is, and check it")
    command.add_argument("bundle", help="a bundle folder, or the name of one in models/")

    command = _add(commands, "doctor", _doctor, "say what is installed, what is missing and the command that fixes it")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the findings to FILE")

    command = _add(commands, "bench", _bench, "measure by a script in benchmarks/", pass_on=True)
    command.add_argument("benchmark", help="the name of a script in benchmarks/")
    command.add_argument(
        "benchmark_arguments", nargs=argparse.REMAINDER, metavar="...", help="for the script, --json FILE"
    )
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Run, text: str, pass_on: bool = False
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    if pass_on:
        command.usage = f"rlfp {name} ..."
    return command


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0 and at most 1")
    return value


# --- the commands ----------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from rlfp_ros.graph import demo

    return demo.run(
        task=options.task, episodes=options.episodes, seed=options.seed, json_path=options.json, out=options.out,
        hardware=options.hardware, room=options.room,
    )  # fmt: skip


def _test(options: argparse.Namespace) -> int:
    import pytest

    root = _source_tree("test")
    os.chdir(root)
    return int(pytest.main(options.pytest_arguments or ["test"]))


def _launch(options: argparse.Namespace) -> int:
    from rlfp_ros.graph.description import find_graph, parse_assignments, resolve
    from rlfp_ros.schema import ConfigurationError

    if options.file is None:
        files = ", ".join(f"{name}.launch.py" for name in GRAPHS)
        raise ConfigurationError(f"launch: which launch file? There is: {files}")
    graph = find_graph(options.file)
    if options.show_args:
        print(describe(graph))
        return 0
    resolved = resolve(graph, parse_assignments(options.arguments, f"{graph.name}.launch.py"))

    from rlfp_ros.graph.runner import Runner

    with Runner(resolved, log_file=options.log_file) as runner:
        return runner.wait()


def describe(graph: Graph) -> str:
    """A graph's nodes and launch arguments, as text."""
    lines = [graph.description, "", "Nodes:"]
    lines += [f"  {node.executable:<20} {node.description}" for node in graph.nodes]
    lines += ["", "Arguments (name:=value):"]
    for argument in graph.arguments:
        lines.append(f"  {argument.name}:={argument.default}")
        lines.append(
            f"      {argument.description}" + (f" [{' | '.join(argument.choices)}]" if argument.choices else "")
        )
    return "\n".join(lines)


RECIPE_OPTIONS = ("encoder", "representation", "feature_stack", "memory", "work")
ALGORITHM_OPTIONS = ("observation", "image_size", "frame_stack", "encoder_from", "steps", "settings")


def _train(options: argparse.Namespace) -> int:
    import signal
    from dataclasses import replace

    from rlfp_ros.learning.objectives.representation import encoder_settings
    from rlfp_ros.learning.recipes import train
    from rlfp_ros.learning.recipes.privileged_sac import SacSettings
    from rlfp_ros.schema import ConfigurationError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave by the way Ctrl-C does: children and clock too
    name = f"{options.task}_{options.arm}"
    unused = RECIPE_OPTIONS if options.algorithm else ALGORITHM_OPTIONS
    given = [option for option in unused if getattr(options, option) != options.default_of(option)]
    if given:
        kind = f"--algorithm {options.algorithm} does not use" if options.algorithm else "only --algorithm uses"
        names = ", ".join("--" + {"settings": "set"}.get(option, option).replace("_", "-") for option in given)
        raise ConfigurationError(f"{kind} {names}; leave that out")
    if options.algorithm:
        return _train_by_algorithm(options, name)
    recipe = train.recipe_for(options.task, options.arm, options.profile, options.seed)
    recipe = replace(
        recipe, encoder=encoder_settings(options.encoder), representation=options.representation,
        feature_stack=options.feature_stack, policy=SacSettings(memory=options.memory),
    )  # fmt: skip
    if options.work < 1:
        recipe = recipe.shortened(options.work)
    out = options.out or Path("models") / name
    run = options.run_folder or Path("runs") / f"train_{name}"
    train.main(recipe, out, run, resume=options.resume, evaluation_episodes=options.evaluation_episodes)
    return 0


def _train_by_algorithm(options: argparse.Namespace, name: str) -> int:
    from rlfp_ros.learning.algorithms import run as algorithms

    plan = algorithms.Plan(
        options.algorithm, options.task, options.arm, options.profile, options.seed, options.observation,
        options.image_size, options.frame_stack, options.encoder_from, options.steps, tuple(options.settings),
    )  # fmt: skip
    run = options.run_folder or Path("runs") / f"{options.algorithm}_{options.observation}_{name}"
    algorithms.main(plan, run, options.out, options.resume, options.evaluation_episodes)
    return 0


def _export(options: argparse.Namespace) -> int:
    from rlfp_ros.learning.export.export import export_bundle

    bundle = export_bundle(options.source, options.out, options.evaluation_episodes)
    print(f"wrote {bundle.directory}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from rlfp_ros.evaluation.evaluate import evaluate, play_in_process
    from rlfp_ros.graph.rollout import play_graph

    successes = 0
    console = Console(highlight=False)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=options.episodes)

        def report(number: int, outcome: Outcome) -> None:
            nonlocal successes
            successes += outcome.success
            progress.update(bar, completed=number + 1, description=f"{successes} of {number + 1} succeeded")

        result = evaluate(
            options.bundle,
            profile=options.profile,
            episodes=options.episodes,
            seed=options.seed,
            play=play_graph if options.graph else play_in_process,
            world=options.world,
            json_path=options.json,
            report=report,
        )
    low, high = result["wilson95"]
    console.print(
        f"[bold]{result['bundle']}[/] in {result['world']}, profile {result['profile']}: "
        f"{result['successes']} of {result['episodes']} succeeded, {result['success_rate']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    console.print(f"{result['mean_steps']:.0f} steps on average, {result['wall_s']:.0f} s")
    latency = result.get("camera_to_command_ms")
    if latency:
        console.print(f"camera to command: p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms, n {latency['n']}")
    return 0


def _preview(options: argparse.Namespace) -> int:
    from rlfp_ros.evaluation.preview import preview

    for path in preview(
        options.task, options.profile, arm=options.arm, out=options.out, sweep=options.sweep, seed=options.seed
    ):
        print(path)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import calibrate

    board = calibrate.parse_board(options.squares, options.square, options.marker, options.dictionary)
    if options.what == "board":
        return calibrate.board(board, options.out)
    if options.what == "intrinsics":
        return calibrate.intrinsics(board, options.bag, options.images, options.out)
    return calibrate.extrinsics(board, options.bag, options.arm, options.bundle, options.out)


def _align(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import calibrate
    from rlfp_ros.graph.live_bag import record_live

    bag = options.bag or record_live(options.arm, options.topics, options.out)
    return calibrate.overlay(bag, options.arm, options.bundle, options.extrinsics, options.meshes, options.out)


def _gap(options: argparse.Namespace) -> int:
    from rlfp_ros.commissioning import gap

    return gap.run(options.bag, options.bundle, options.arm, options.json)


def _inspect(options: argparse.Namespace) -> int:
    from rlfp_ros.evaluation.inspection import inspect_bundle

    inspect_bundle(options.bundle)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rlfp_ros.cli import doctor

    return doctor.run(options.json)


def _bench(options: argparse.Namespace) -> int:
    import importlib

    from rlfp_ros.schema import ConfigurationError

    folder = _source_tree("benchmarks") / "benchmarks"
    script = folder / f"{options.benchmark}.py"
    if not script.exists():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.py"))) or "nothing yet"
        raise ConfigurationError(f"bench: {options.benchmark!r} is no script in benchmarks/; there is: {there}")
    sys.path.insert(0, str(folder))  # imported by name, so that a benchmark's own processes can import it too
    return int(importlib.import_module(script.stem).main(list(options.benchmark_arguments)) or 0)


def _source_tree(folder: str) -> Path:
    """The root of the source tree. Raises ConfigurationError where the package is installed without `folder`."""
    from rlfp_ros.schema import ConfigurationError

    root = Path(__file__).resolve().parents[2]
    if not (root / folder).is_dir():
        raise ConfigurationError(
            f"{folder}/ is only in the source tree, not beside {root / 'rlfp_ros'}; use ./rlfp of a clone"
        )
    return root
