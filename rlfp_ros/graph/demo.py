"""`rlfp demo`: the shipped bundle on the real ROS 2 graph, in real time, recorded, with images at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.evaluation.evaluate import summary
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.files import check_writable
from rlfp_ros.graph.arguments import DEFAULT_ARM
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.rollout import latency_summary, observe_graph, outcome_of
from rlfp_ros.graph.sim import SIM
from rlfp_ros.operator.page_address import PAGE_LINE, TOKEN_BYTES, TOKEN_VARIABLE, check_packages, check_port
from rlfp_ros.recording.metadata import dropped_messages
from rlfp_ros.schema import ConfigurationError

if TYPE_CHECKING:
    from rlfp_ros.nodes.graph_listener import ObservedEpisode

COMPLAINTS = 3  # errors of nodes that are shown; the log has all
MIN_FREE_MB = 200  # free disk space; ten episodes record about 30 MB


def run(
    task: str = "reach",
    episodes: int = 10,
    seed: int = 0,
    json_path: Path | None = None,
    out: Path | None = None,
    arm: str | None = None,
    profile: str = "train",
    hardware: str = "none",
    room: str = "twin_near",
    bundle_name: str | None = None,
    page_port: int | None = None,
) -> int:
    """Play episodes, show a line for each, and leave images, figures and a bag in a folder.

    Parameters
    ----------
    task
        The task; a bundle that is given has its own.
    episodes, seed
        Number of episodes (0: until it is interrupted), and the seed of the first.
    json_path
        Also gets the figures.
    out
        The folder; by default one below runs/ that is named after the time.
    arm
        Name or file of an arm, by default panda, or the bundle's own if one is given.
    profile
        Randomisation of the simulation graph.
    hardware
        "mock": the real-arm graph against the MuJoCo twin in `room`; "none": the simulation graph.
    bundle_name
        Name or folder of a bundle; by default the one in models/ for the task and the arm.
    page_port
        Port of the operator's page; None: no page, and the arm is enabled by this process.

    Returns
    -------
    int
        The exit code, 0.

    Raises
    ------
    ConfigurationError
        If an argument does not fit, or the graph failed.
    """
    console = Console(highlight=False)
    bundle = load_bundle(bundle_name or f"{task}_{load_arm(arm).label if arm else DEFAULT_ARM}")
    task = bundle.contract.task
    page = None if page_port is None else _Page(page_port, console)
    folder = (out or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).resolve()
    _make(folder)
    mock = hardware == "mock"
    where = f"in the twin's room {room}, zero-shot, on the real-arm graph" if mock else f"under profile {profile}"
    console.print(
        f"[bold]{bundle.contract.name}[/]: {f'{episodes} ' if episodes else ''}episodes of {task} {where}, from "
        f"camera pixels, on the ROS 2 graph in real time\nresults in {_short(folder)}\n"
    )
    if page is not None:
        console.print("starting the graph and the operator's page ...; Ctrl-C ends the demo\n")
    title = f"{'episode':>7}  {'seed':>6}  {'result':7}  {'steps':>5}  {'distance':>8}  camera to command p50 / p99"
    if page is None:
        console.print(title)
    number = 0

    def show(episode: ObservedEpisode) -> None:
        nonlocal number
        if page is not None and number == 0:
            console.print(title)
        number += 1
        outcome = outcome_of(episode)
        latency = latency_summary([episode])
        result = "[green]success[/]" if outcome.success else "[red]missed [/]"
        console.print(
            f"{number:>4}{f'/{episodes:<2}' if episodes else '   '}  {episode.seed:>6}  {result}  {outcome.steps:>5}  "
            f"{1e3 * outcome.distance_m:>5.0f} mm  {latency['p50']:.1f} / {latency['p99']:.1f} ms"
        )

    if json_path is not None:
        check_writable(json_path)
    started = time.monotonic()
    arguments: dict[str, Any] = {
        "arm": arm or "",
        "bundle": str(bundle.directory),
        "transport": "local",
        "record": str(folder / "bags"),
        "record_per_episode": False,
    }
    if mock:
        arguments |= {"use_mock_hardware": True, "mock_room": room, "mock_episodes": episodes, "mock_seed": seed}
    else:
        arguments |= {"task": task, "profile": profile, "episodes": episodes, "seed": seed}
    which = REAL_ARM if mock else SIM
    log = folder / "log.txt"
    if page is None:
        observed = observe_graph(arguments, show, log_file=log, which=which)
    else:
        arguments |= {"operator": True, "operator_port": page_port}
        with page:
            observed = observe_graph(arguments, show, log_file=log, which=which, operates=False, on_line=page.on_line)
    outcomes = [outcome_of(episode) for episode in observed]
    world, profile = ("mujoco", room) if mock else ("pybullet", profile)
    result = summary(bundle, world, profile, seed, outcomes, time.monotonic() - started)
    result["camera_to_command_ms"] = latency_summary(observed)
    write_json(folder / "result.json", result)
    if json_path is not None:
        write_json(json_path, result)
    images = _images(folder, bundle, console)
    _summarise(console, result, folder, images)
    return 0


class _Page:
    """Shows the address of the operator's page as soon as it is served. The token does not get into the log."""

    def __init__(self, port: int, console: Console) -> None:
        """Raises ConfigurationError if the port is taken, or a package is missing."""
        check_packages()
        check_port(port)
        self._console = console
        self._token = secrets.token_hex(TOKEN_BYTES)

    def __enter__(self) -> _Page:
        os.environ[TOKEN_VARIABLE] = self._token  # the graph's processes inherit it
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop(TOKEN_VARIABLE, None)

    def on_line(self, node: str, line: str) -> None:
        """Handle a line of a node's output."""
        if node == "operator" and line.startswith(PAGE_LINE):
            address = line.removeprefix(PAGE_LINE)
            self._console.print(f"open [bold]{address}#{self._token}[/]", soft_wrap=True)
            self._console.print("and press Enable there; if you close the page, the arm stops\n")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free // 1_000_000
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be made ({error.strerror}); choose another with --out") from None
    if free < MIN_FREE_MB:
        raise ConfigurationError(
            f"{folder}: {free} MB of disk are free, expected {MIN_FREE_MB}; free some or use --out"
        )


def _images(folder: Path, bundle: Bundle, console: Console) -> list[Path]:
    from rlfp_ros.evaluation import report

    bags = sorted((folder / "bags").iterdir())
    episodes = [episode for bag in bags for episode in report.read_episodes(bag)]
    won = [episode for episode in episodes if (episode.episode.outcome or {}).get("success")]
    chosen = (won or episodes)[:1]
    if not chosen:
        raise ConfigurationError(f"{folder / 'bags'}: holds no whole episode; see {folder / 'log.txt'}")
    console.print("\ndrawing images from the bag ...")
    return report.write_figures(chosen[0], bundle, folder)


def _summarise(console: Console, result: dict[str, Any], folder: Path, images: list[Path]) -> None:
    latency = result["camera_to_command_ms"]
    low, high = result["wilson95"]
    table = Table(title=f"{result['bundle']}, profile {result['profile']}", title_justify="left")
    table.add_column("figure")
    table.add_column("value")
    table.add_row("success", f"{result['successes']} of {result['episodes']} ({result['success_rate']:.0%})")
    table.add_row("95 % interval (Wilson)", f"{low:.2f} to {high:.2f}")
    table.add_row("mean steps", f"{result['mean_steps']:.0f} camera frames")
    if np.isfinite(latency["p50"]):
        table.add_row(
            "camera to command", f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, n {latency['n']}"
        )
    table.add_row("wall time", f"{result['wall_s']:.0f} s")
    console.print(table)
    for sentence, times in complaints(folder / "log.txt").most_common(COMPLAINTS):
        console.print(f"  [yellow]{escape(sentence)}[/]" + (f" ({times} times)" if times > 1 else ""))
    for bag in sorted((folder / "bags").iterdir()):
        if lost := dropped_messages(bag):
            console.print(f"  [yellow]recorder: messages that are not in {bag.name}: {escape(lost)}[/]")
    for path in [*images, folder / "result.json", folder / "log.txt", *sorted((folder / "bags").iterdir())]:
        console.print(f"  {_short(path)}")


def complaints(log: Path) -> Counter[str]:
    """Return the errors that nodes logged, as `node: sentence`, with their counts."""
    said: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        node, bar, text = line.partition("|")
        if bar and node.strip() and text.startswith(" [ERROR] "):
            said[f"{node.split()[-1]}: {text.removeprefix(' [ERROR] ')}"] += 1
    return said


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
