"""A policy's success in worlds that training never saw, and whether success in one world predicts another's.

    ./rlfp bench transfer reach_panda --episodes 200                       # every place, the same seeds
    ./rlfp bench transfer reach_panda --ablations --work 0.5 --episodes 200  # also policies of other quality
    ./rlfp bench transfer reach_panda --ablations --only-table --document docs/explanation/transfer.md
    ./rlfp bench transfer reach_panda --ablations --seeds 0 1 2 --work 0.5 --places train validation \
        --episodes 100 --minutes 60 --results docs/explanation/results.md  # what each part of training is worth

Plays the same seeds in PyBullet under `train` and `validation` and in every MuJoCo room. With `--ablations` it also
trains policies that lack one thing each, once for each of `--seeds`. Resumable: a training continues,
and a row that the result file has already, for the same networks, task and seeds, is not played again; an ablation
whose networks are gone counts by its rows. `--minutes` starts no training after that time, `--jobs` plays several
places at a time. A sim-to-sim proxy: no arm is used.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import date
from itertools import combinations, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from rlfp_ros.cli.parsing import add_result, duration, fraction, natural, parse_benchmark, positive
from rlfp_ros.contract import load_bundle
from rlfp_ros.contract.bundle import ARM_FILE
from rlfp_ros.evaluation.evaluate import summary
from rlfp_ros.evaluation.failures import TracedRollout, count_modes, write_failure_images
from rlfp_ros.evaluation.results import around, figure_text, put_between, write_json
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.evaluation.statistics import bootstrap95, mean_maximum_rank_violation, pearson
from rlfp_ros.files import write_whole
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.deployment import SIMULATION_SETTINGS
from rlfp_ros.simulation.randomization import Profile, Range, load_profile
from rlfp_ros.simulation.worlds import load_conditions

PLACES = (
    ("pybullet", "train"),
    ("pybullet", "validation"),
    ("mujoco", "twin_near"),
    ("mujoco", "twin_dim"),
    ("mujoco", "twin_glare"),
    ("mujoco", "twin_clutter"),
    ("mujoco", "twin_moved"),
)
SHIPPED = "as it ships"
ALL_ROOMS = "the mean of all"
KEY = ("identity", "world", "profile", "episodes", "seed")  # of a row: what was played
ROW = (*KEY, "policy", "what", "of", "won", "date", "machine")  # what the tables need of one
SHEET_PX, SHEET_COLUMNS, SHEET_COLOURS = 252, 4, 128  # of the sheet of failures
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
ABLATION_MARKS = ("<!-- ablations: begin -->", "<!-- ablations: end -->")

APPEARANCE = (
    "light_azimuth",
    "light_elevation",
    "light_colour",
    "ambient",
    "diffuse",
    "specular",
    "shadows",
    "block_hue",
    "block_saturation",
    "block_value",
    "arm_value",
    "arm_tint",
    "distractors",
    "distractor_speed",
    "exposure",
    "white_balance",
    "gamma",
    "glare",
    "low_light",
    "fill_light",
    "fill_azimuth",
    "occluders",
)
NOISE = ("noise", "blur", "motion_blur", "jpeg_quality", "joint_noise")
DELAYS = {"camera_latency": "s", "camera_jitter": "s", "command_latency": "s", "dropped_frames": "probability"}


@dataclass(frozen=True)
class Ablation:
    """A policy that lacks one thing. `work` is a share of the full training's."""

    name: str
    what: str
    without: tuple[str, ...] = ()  # parameters of the profile
    plain_textures: bool = False
    no_delays: bool = False
    images_as_rendered: bool = False  # none of learning/recipes/appearance.py's changes
    work: float = 1.0
    residual_gain: float = 1.0  # below 1 nothing is trained: the policy itself is played with less of it


ABLATIONS = (
    Ablation("whole", "nothing is left out"),
    Ablation(
        "no_appearance",
        "without appearance randomisation",
        without=APPEARANCE,
        plain_textures=True,
        images_as_rendered=True,
    ),
    Ablation("no_latency", "without delays", no_delays=True),
    Ablation("no_noise", "without noise and blur", without=NOISE),
    Ablation("no_augmentation", "without augmentation", images_as_rendered=True),
    Ablation("no_residual", "the base controller alone", residual_gain=0.0),
    Ablation("short", "a third of the training", work=1 / 3),
    Ablation("shorter", "a tenth of the training", work=0.1),
)


@dataclass(frozen=True)
class Policy:
    """What is played: a bundle, and how much of its residual."""

    name: str
    what: str
    bundle: str | None  # None: it was played, and its networks are gone
    of: str  # the bundle that it is an ablation of, or is
    identity: str
    training_seed: int | None = None  # None: it is not an ablation that was trained
    residual_gain: float = 1.0


def identity_of(bundle: str, residual_gain: float = 1.0) -> str:
    """Changes when the networks do, or how they are used; a bundle's copy of its arm does not change what it does."""
    files = {name: digest for name, digest in load_bundle(bundle).contract.files.items() if name != ARM_FILE}
    text = json.dumps([files, residual_gain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and play what is missing, print the tables."""
    parser = argparse.ArgumentParser(prog="rlfp bench transfer", description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", default=["reach_panda"], help="bundle folders, or names in models/")
    parser.add_argument("--episodes", type=positive, default=200, help="in each place (default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=100_000, help="of the first episode (default: %(default)s)")
    parser.add_argument(
        "--places",
        nargs="*",
        metavar="NAME",
        choices=[name for _, name in PLACES],
        help="profiles and rooms (default: all)",
    )
    parser.add_argument("--ablations", action="store_true", help="also train and play policies that lack one thing")
    parser.add_argument("--work", type=fraction, default=1.0, help="share of the full training for these, 0 to 1")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0], help="of these trainings (default: 0)")
    parser.add_argument("--jobs", type=positive, default=1, help="places played at a time (default: %(default)s)")
    parser.add_argument("--minutes", type=duration, default=float("inf"), help="start no training after this time")
    add_result(parser, "--folder", folder=True, default=Path("runs/transfer"), help="default: %(default)s")
    add_result(parser, "--json", help="default: <folder>/transfer.json")
    parser.add_argument("--only-table", action="store_true", help="train and play nothing, show what is there")
    add_result(
        parser,
        "--document",
        help="write the tables between this page's `measured` marks, with "
        "--ablations those of all policies between its `ablations` marks",
    )
    add_result(
        parser,
        "--results",
        page=ABLATION_MARKS,
        help="write what each part of the training is worth between this page's `ablations` marks",
    )
    options = parse_benchmark(parser, arguments)
    if options.document:
        around(options.document, *(ABLATION_MARKS if options.ablations else MARKS))
    console = Console(highlight=False)
    path = options.json or options.folder / "transfer.json"
    played = _read(path)
    rows = {_key(row): row for row in played}
    policies = list(policies_of(options, played))
    places = [place for place in PLACES if not options.places or place[1] in options.places]
    games = [_Game(policy, *place, options.episodes, options.seed) for policy in policies for place in places]
    missing = [game for game in games if game.key not in rows and game.policy.bundle is not None]
    for game, row in _play_all([] if options.only_table else missing, options.jobs, options.folder / "failures"):
        rows[game.key] = row
        write_json(path, {"rows": list(rows.values())})  # after every row: an interrupted run continues here
        console.print(f"{game.policy.name} in {game.world}, {game.profile}: {row['successes']} of {row['episodes']}")
    wanted = [rows[game.key] for game in games if game.key in rows]
    tables, marks = [_success_rows(wanted), _failure_rows(wanted), time_rows(wanted)], MARKS
    if options.ablations:
        tables, marks = [matrix_rows(wanted), correlation_rows(wanted)], ABLATION_MARKS
    worth = ablation_rows(wanted, len(options.seeds))
    for title, header, cells in [*tables, worth]:
        if cells:
            console.print(_table(title, header, cells))
    console.print("rooms are a sim-to-sim proxy, no arm was used")
    for page, shown, between in ((options.document, tables, marks), (options.results, [worth], ABLATION_MARKS)):
        if page is not None:
            if not wanted:
                raise ConfigurationError(
                    f"{path}: has no row for these bundles, places, --episodes and --seed, so {page} stays as it is; "
                    "leave --only-table away to play them"
                )
            _write_document(page, between, shown, wanted)
    if options.document is not None and not options.ablations:
        _write_failures(options.document, wanted, options.folder / "failures")
    return 0


# --- policies of other quality ---------------------------------------------------------------------------------------


def policies_of(options: argparse.Namespace, played: list[dict[str, Any]]) -> Iterator[Policy]:
    """The bundles as they ship; then their ablations, each trained when it is asked for and not there yet."""
    for bundle in options.bundles:
        name = load_bundle(bundle).contract.name
        yield Policy(name, SHIPPED, bundle, name, identity_of(bundle))
    until = time.monotonic() + 60 * options.minutes
    for seed in options.seeds if options.ablations else ():
        for bundle in options.bundles:
            for ablation in ABLATIONS:
                if ablation.residual_gain < 1.0 and seed != options.seeds[0]:
                    continue  # nothing is trained
                may_train = not options.only_table and time.monotonic() < until
                yield from _ablated(ablation, bundle, options.folder, options.work, seed, may_train, played)


def _ablated(
    ablation: Ablation, bundle: str, folder: Path, work: float, seed: int, may_train: bool, played: list[dict[str, Any]]
) -> Iterator[Policy]:
    """Yield a policy that lacks one thing, if it exists or may be trained; one that is gone is known by its rows."""
    contract = load_bundle(bundle).contract
    gain = ablation.residual_gain
    if gain < 1.0:
        name = f"{contract.name}_{ablation.name}"
        yield Policy(name, ablation.what, bundle, contract.name, identity_of(bundle, gain), residual_gain=gain)
        return
    name = f"{contract.name}_{ablation.name}_{work:g}_{seed}"
    out = folder / "models" / name
    there = (out / "bundle.yaml").exists()
    known = [row["identity"] for row in played if row["policy"] == name]
    if not there and not known and may_train:
        train_policy(
            ablation, contract.task, str(load_bundle(bundle).arm_file or contract.arm.name), out, folder, work, seed
        )
        there = True
    if there:
        yield Policy(name, ablation.what, str(out), contract.name, identity_of(str(out)), seed)
    elif known:
        yield Policy(name, ablation.what, None, contract.name, known[-1], seed)


def train_policy(ablation: Ablation, task: str, arm: str, out: Path, folder: Path, work: float, seed: int) -> None:
    """Train an ablation by the recipe that the task's own bundle is trained by, but for what it lacks."""
    from rlfp_ros.learning.recipes import train  # torch loads only if it is used
    from rlfp_ros.learning.recipes.imitation import ImitationRecipe

    profile = folder / "profiles" / f"{ablation.name}.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text(yaml.safe_dump(flat_profile(ablated_profile(ablation)), sort_keys=False), encoding="utf-8")
    recipe = ImitationRecipe.for_task(task, arm, str(profile), seed)
    if ablation.images_as_rendered:
        recipe = replace(recipe, encoder_training=recipe.encoder_training.changed(other_appearances=False))
    if work * ablation.work < 1:
        recipe = recipe.shortened(work * ablation.work)
    run = folder / "training" / out.name
    train.main(recipe, out, run, resume=(run / "recipe.json").exists(), evaluation_episodes=0)


def ablated_profile(ablation: Ablation) -> Profile:
    """The profile `train` without what the ablation leaves out. Without delays means none at all, not nominal ones."""
    profile = load_profile("train").without(*ablation.without)
    if ablation.no_delays:
        none = {name: Range(low=0.0, high=0.0, unit=unit) for name, unit in DELAYS.items()}
        profile = profile.model_copy(update={"ranges": {**profile.ranges, **none}})
    if ablation.plain_textures:
        profile = profile.model_copy(update={"textures": "plain"})
    return profile.model_copy(update={"name": ablation.name})


def flat_profile(profile: Profile) -> dict[str, Any]:
    """As it is written in a file."""
    document = profile.model_dump()
    return {key: value for key, value in document.items() if key != "ranges"} | document["ranges"]


# --- playing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Game:
    """A policy in a place."""

    policy: Policy
    world: str
    profile: str
    episodes: int
    seed: int  # of the first episode

    @property
    def key(self) -> tuple[Any, ...]:
        """What `_key` makes of its row."""
        return self.policy.identity, self.world, self.profile, self.episodes, self.seed


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the rows played before. Raises ConfigurationError if the file is damaged, or of an older version."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        if lacking := {name for row in rows for name in ROW if name not in row}:
            raise KeyError(*sorted(lacking))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: not a result file of this version ({type(error).__name__}: {error}); "
            "choose another with --json, or remove it to play all again"
        ) from None
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def _play_all(games: list[_Game], jobs: int, images: Path) -> Iterator[tuple[_Game, dict[str, Any]]]:
    """Each game and its row, as they end; `jobs` at a time, each in a process."""
    if jobs == 1:
        yield from ((game, play_row(game, images)) for game in games)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        playing = {pool.submit(play_row, game, images): game for game in games}
        yield from ((playing[ended], ended.result()) for ended in as_completed(playing))


def play_row(game: _Game, images: Path) -> dict[str, Any]:
    policy, world, profile = game.policy, game.world, game.profile
    assert policy.bundle is not None
    bundle = load_bundle(policy.bundle)
    started = time.monotonic()
    settings = SIMULATION_SETTINGS.model_copy(update={"residual_gain": policy.residual_gain})
    rollout = Rollout(bundle, load_conditions(world, profile), settings)
    traced = TracedRollout(bundle, rollout)
    traces = [traced.play(game.seed + number) for number in range(game.episodes)]
    grips = rollout.world.task.grips
    rollout.close()
    outcomes = [trace.outcome for trace in traces if trace.outcome is not None]
    return summary(bundle, world, profile, game.seed, outcomes, time.monotonic() - started) | {
        "identity": policy.identity,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "policy": policy.name,
        "what": policy.what,
        "of": policy.of,
        "training_seed": policy.training_seed,
        "won": "".join(str(int(outcome.success)) for outcome in outcomes),  # by seed, for pairs
        "steps": " ".join(str(outcome.steps) for outcome in outcomes),  # images of each episode, by seed
        "rate_hz": bundle.contract.camera.rate_hz,
        "failures": count_modes(traces, grips),
        "failure_pictures": write_failure_images(traces, grips, images, f"{policy.name}_{profile}"),
        "limits_exceeded": sum(trace.limits_exceeded for trace in traces),
    }


# --- tables ----------------------------------------------------------------------------------------------------------

Rows = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def _success_rows(rows: list[dict[str, Any]]) -> Rows:
    header = ("policy", "world", "profile or room", "success", "95 % (Wilson)", "against train", "limits exceeded")
    home = {row["identity"]: row["success_rate"] for row in rows if row["profile"] == "train"}
    made: list[tuple[str, ...]] = []
    for row in rows:
        low, high = row["wilson95"]
        points = 100 * (row["success_rate"] - home[row["identity"]]) if row["identity"] in home else None
        made.append(
            (
                row["policy"],
                row["world"],
                row["profile"],
                f"{row['successes']} of {row['episodes']}",
                f"{low:.0%} to {high:.0%}",
                "" if points is None else f"{points:+.1f} points",
                str(row["limits_exceeded"]),
            )
        )
    return "success by place, the same seeds everywhere", header, made


def _failure_rows(rows: list[dict[str, Any]]) -> Rows:
    modes = tuple(dict.fromkeys(mode for row in rows for mode in row["failures"]))  # earlier versions had fewer
    made = [
        (row["policy"], row["profile"], *(str(row["failures"].get(mode, 0)) for mode in modes))
        for row in rows
        if sum(row["failures"].values())
    ]
    return "failed episodes by mode", ("policy", "profile or room", *modes), made


def time_rows(rows: list[dict[str, Any]]) -> Rows:
    """Time to success of each pair of policies of one task, over the episodes that both won."""
    made = []
    timed = [row for row in rows if "steps" in row]  # earlier versions did not write it
    for one, other in combinations(timed, 2):
        if any(one[name] != other[name] for name in ("task", "world", "profile", "episodes", "seed")):
            continue
        both = [a == b == "1" for a, b in zip(one["won"], other["won"], strict=True)]
        if any(both):
            first, second = (
                float(np.mean(np.array(row["steps"].split(), int)[both])) / row["rate_hz"] for row in (one, other)
            )
            cells = [one["policy"], other["policy"], one["profile"], str(sum(both))]
            made.append((*cells, f"{first:.2f}", f"{second:.2f}", f"{second / first:.2f}"))
    header = ("policy", "other policy", "profile or room", "won by both", "s", "s of the other", "ratio")
    return "mean time to success of episodes that both policies won", header, made


def matrix_rows(rows: list[dict[str, Any]]) -> Rows:
    """Success of each policy in each place, and its interval."""
    profiles = [name for _, name in PLACES if any(row["profile"] == name for row in rows)]
    made = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        played = {row["profile"]: row for row in rows if row["policy"] == policy}
        cells = [
            "missing"
            if row is None
            else f"{row['success_rate']:.2f} ({row['wilson95'][0]:.2f} to {row['wilson95'][1]:.2f})"
            for row in (played.get(name) for name in profiles)
        ]
        made.append((policy, *cells))
    return "success and its 95 % interval (Wilson)", ("policy", *profiles), made


def correlation_rows(rows: list[dict[str, Any]]) -> Rows:
    """PyBullet's scores against each room's and all rooms' mean, over a bundle and its ablations that have both."""
    header = ("bundle", "PyBullet", "room", "policies", "Pearson r", "95 %", "MMRV", "95 %")
    rooms = [name for world, name in PLACES if world == "mujoco" and any(row["profile"] == name for row in rows)]
    made = []
    for bundle in dict.fromkeys(row["of"] for row in rows):
        won: dict[tuple[str, str], np.ndarray] = {
            (row["identity"], row["profile"]): np.array([int(digit) for digit in row["won"]], dtype=float)
            for row in rows
            if row["of"] == bundle and row["won"]
        }
        identities = list(dict.fromkeys(identity for identity, _ in won))
        for name in identities:
            if len(rooms) > 1 and all((name, room) in won for room in rooms):
                won[name, ALL_ROOMS] = np.mean([won[name, room] for room in rooms], axis=0)
        for profile, room in product(("train", "validation"), (*rooms, ALL_ROOMS)):
            both = [name for name in identities if (name, profile) in won and (name, room) in won]
            if len(both) < 3:
                continue
            simulated = np.array([won[name, profile] for name in both])
            real = np.array([won[name, room] for name in both])
            cells = [bundle, profile, room, str(len(both))]
            for figure in (pearson, mean_maximum_rank_violation):
                value = figure(simulated.mean(axis=1).tolist(), real.mean(axis=1).tolist())
                low, high = bootstrap95(simulated, real, figure, np.random.default_rng(0))
                cells += [f"{value:.3f}", f"{low:.2f} to {high:.2f}"]
            made.append(tuple(cells))
    return "does the PyBullet score predict the score in each room?", header, made


def ablation_rows(rows: list[dict[str, Any]], seeds: int) -> Rows:
    """Success by what was left out: the interquartile mean over trainings and its 95 % bootstrap interval."""
    rows = [row for row in rows if any(row["what"] == ablation.what for ablation in ABLATIONS)]
    profiles = tuple(name for _, name in PLACES if any(row["profile"] == name for row in rows))
    made = []
    for bundle in dict.fromkeys(row["of"] for row in rows):
        for ablation in ABLATIONS:
            cells = [row for row in rows if row["of"] == bundle and row["what"] == ablation.what]
            trained = len({row["identity"] for row in cells})
            wanted = 1 if ablation.residual_gain < 1.0 else seeds
            figures = [
                figure_text([row["success_rate"] for row in cells if row["profile"] == name], 3) for name in profiles
            ]
            made.append((bundle, ablation.what, f"{trained} of {wanted}", *figures))
    return "what each part of the training is worth", ("bundle", "policy", "trainings", *profiles), made


def _table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    return table


def _write_document(path: Path, marks: tuple[str, str], tables: list[Rows], played: list[dict[str, Any]]) -> None:
    """Put the tables between the marks of a page, with the dates and machines of their rows."""
    days = sorted({row["date"] for row in played})
    machines = " and ".join(dict.fromkeys(row["machine"] for row in played))
    parts = [f"Measured {' to '.join(dict.fromkeys([days[0], days[-1]]))}, {machines}, by `./rlfp bench transfer`."]
    for title, header, rows in tables:
        if rows:
            lines = ["| " + " | ".join(cells) + " |" for cells in (header, tuple("---" for _ in header), *rows)]
            parts.append("\n".join([f"## {title[0].upper()}{title[1:]}", "", *lines]))
    put_between(path, *marks, "\n\n".join(parts))


def _write_failures(page: Path, rows: list[dict[str, Any]], folder: Path) -> None:
    """Write `<page>_failures.png` with the last image of the first failure of each mode, per shipped bundle and place.

    The file goes into the documentation's folder `images` if the page belongs to it, otherwise beside the page.
    """
    images = []
    for row in (row for row in rows if row["what"] == SHIPPED):
        for mode, name in row["failure_pictures"].items():
            image = cv2.imread(str(folder / name))
            if image is None:
                raise ConfigurationError(f"{folder / name}: no image; play again without --only-table")
            image = cv2.resize(image, (SHEET_PX, SHEET_PX), interpolation=cv2.INTER_NEAREST)
            image = cv2.copyMakeBorder(image, 34, 0, 0, 0, cv2.BORDER_CONSTANT)
            for line, text in enumerate((f"{row['policy']} {row['profile']}", mode)):
                place = (4, 14 + 15 * line)
                cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
            images.append(image)
    if not images:
        return
    blank = np.zeros_like(images[0])
    images += [blank] * (-len(images) % SHEET_COLUMNS)
    sheet = [np.hstack(images[at : at + SHEET_COLUMNS]) for at in range(0, len(images), SHEET_COLUMNS)]
    images_folder = page.resolve().parents[1] / "images"
    file = (images_folder if images_folder.is_dir() else page.parent) / f"{page.stem}_failures.png"
    # A palette makes the file a quarter as large, and the images are only to be looked at.
    drawn = Image.fromarray(np.vstack(sheet)[..., ::-1]).quantize(SHEET_COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    write_whole(file, buffer.getvalue())


if __name__ == "__main__":
    raise SystemExit(main())
