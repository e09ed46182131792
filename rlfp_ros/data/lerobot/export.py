"""`rlfp export-lerobot`: recorded bags as a LeRobotDataset v3.0, one row per image that the policy saw.

Nothing is resampled. A bag with images at another rate, or that is unfinished, is refused; so is one with a gap between
images, unless the user says what to do there.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape

from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import Arm
from rlfp_ros.data.admission import GAP_S, Admission
from rlfp_ros.data.build import build_dataset
from rlfp_ros.data.dataset import Dataset, EpisodeArrays, EpisodeEntry, whole_folder
from rlfp_ros.data.lerobot import rows
from rlfp_ros.data.lerobot.writer import LerobotWriter
from rlfp_ros.files import write_whole
from rlfp_ros.recording.bag_topics import ANY, TopicChoice
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.version import VERSION

Gaps = Literal["refuse", "split", "repeat"]
LONGEST_INTERVAL = 1.5  # between two images, in periods; a longer one is a gap
RATE_TOLERANCE = 0.02  # relative
SHORT_FRAMES = 100  # LeRobot's ACT predicts so many actions at once
PROVENANCE = "meta/rlfp/provenance.json"
CONTRACT = "meta/rlfp/bundle.yaml"
CARD = "README.md"
SCRATCH = "episodes"


@dataclass(frozen=True)
class ExportOptions:
    """How bags become a LeRobotDataset.

    Attributes
    ----------
    task
        The task in words; empty for the name of the bundle's task.
    gaps
        What to do at a gap between two images: refuse the bag, split the episode, or repeat the image before the gap
        for each lost one, up to 0.2 s; a longer gap splits.
    discarded
        Whether bags are used that a person labelled `discard`.
    """

    task: str = ""
    gaps: Gaps = "refuse"
    discarded: bool = False


@dataclass(frozen=True)
class ExportSummary:
    """What was written."""

    directory: Path
    frames: int
    outcomes: tuple[str, ...]  # of the episodes
    shortest: int  # number of images of the shortest episode
    repeated: int  # rows whose image was lost, and for which the one before stands
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """Consecutive rows of one file of the dataset.

    Attributes
    ----------
    arrays, entry
        The rows.
    repeated
        bool [N], whether the image before stands for a lost one.
    next_command
        [J] rad, the command at the image after them; None if the LeRobot episode ends with them.
    """

    arrays: EpisodeArrays
    entry: EpisodeEntry
    repeated: np.ndarray
    next_command: np.ndarray | None


def export_lerobot(
    bags: Sequence[Path],
    bundle: Bundle,
    arm: Arm,
    out: Path,
    options: ExportOptions | None = None,
    choice: TopicChoice = ANY,
) -> ExportSummary:
    """Write bags as a LeRobotDataset, completely or not at all.

    Parameters
    ----------
    bags
        Bags of the same bundle.
    bundle
        The bundle that ran.
    arm
        The arm in the bags.
    out
        The dataset's folder, which must not exist.
    options
        How bags become a dataset.
    choice
        Which camera and which robot, if the bags hold several.

    Raises
    ------
    ConfigurationError
        If a bag cannot be used, is unfinished, or has gaps or another rate; if the bundle's rate is not a whole number;
        or if `out` exists or cannot be written.
    """
    options = options or ExportOptions()
    contract = bundle.contract
    fps = _whole_rate(bundle)
    admission = Admission(
        gap_s=LONGEST_INTERVAL / fps,
        rate_tolerance=RATE_TOLERANCE,
        refuses_gaps=options.gaps == "refuse",
        refuses_faults=True,
        repeat_s=GAP_S if options.gaps == "repeat" else 0.0,
    )
    with whole_folder(out, "LeRobot dataset") as folder:
        dataset = build_dataset(bags, bundle, arm, folder / SCRATCH, choice, options.discarded, admission)
        camera = contract.camera
        writer = LerobotWriter(
            folder,
            fps,
            rows.features_of(contract, arm),
            {rows.IMAGES: (camera.width, camera.height)},
            arm.name,
            rows.EPISODE_COLUMNS,
        )
        remarks = list(dataset.document.remarks)
        outcomes, lengths = _write_episodes(writer, dataset, bundle, options.task or contract.task, remarks)
        if not outcomes:
            raise ConfigurationError(
                f"{', '.join(path.name for path in bags)}: holds no command to the arm, so there are no actions to "
                "export; record the graph while its safety controller runs"
            )
        writer.close()
        shutil.rmtree(dataset.directory)
        repeated = sum(len(entry.repeated) for entry in dataset.document.episodes)
        summary = ExportSummary(out, writer.rows, tuple(outcomes), min(lengths), repeated, tuple(remarks))
        _write_provenance(folder, bags, bundle, arm, summary)
    return summary


def run(
    bags: Sequence[Path],
    bundle: Bundle,
    arm: Arm,
    out: Path,
    options: ExportOptions,
    choice: TopicChoice = ANY,
    console: Console | None = None,
) -> int:
    """Export, print what was written, and return the exit code."""
    console = console or Console(highlight=False)
    summary = export_lerobot(bags, bundle, arm, out, options, choice)
    counts = Counter(summary.outcomes)
    counted = ", ".join(f"{counts[name]} {name}" for name in ("won", "lost", "unknown") if counts[name])
    console.print(
        f"wrote {escape(str(out))}: {len(summary.outcomes)} episodes ({counted}), {summary.frames} rows",
        soft_wrap=True,
    )
    for remark in summary.remarks:
        console.print(f"  {escape(remark)}", soft_wrap=True)
    if summary.shortest < SHORT_FRAMES:
        console.print(
            f"  the shortest episode has {summary.shortest} images; policies that predict longer chunks of actions "
            f"(ACT: {SHORT_FRAMES}) need a smaller chunk_size",
            soft_wrap=True,
        )
    return 0


def _whole_rate(bundle: Bundle) -> int:
    rate = bundle.contract.camera.rate_hz
    if rate != round(rate):
        raise ConfigurationError(
            f"{bundle.directory}: camera.rate_hz is {rate:g}, but a LeRobot dataset has a whole number of images per "
            "second; it cannot be exported without resampling"
        )
    return round(rate)


def _write_episodes(
    writer: LerobotWriter, dataset: Dataset, bundle: Bundle, task: str, remarks: list[str]
) -> tuple[list[str], list[int]]:
    """Write the episodes, and return their outcomes and lengths."""
    outcomes: list[str] = []
    lengths: list[int] = []
    begun: EpisodeArrays | None = None  # the first part of the open episode
    for part in _parts(dataset, remarks):
        arrays, entry = part.arrays, part.entry
        outcome = "unknown" if entry.continues == "after a gap" else entry.outcome
        ended = not entry.continues
        columns = rows.columns_of(arrays, bundle.contract, part.next_command, ended, ended and outcome == "won")
        begun = begun or arrays
        columns[rows.IS_NEW] = ~part.repeated
        columns[rows.DECIDED_BY] = arrays.decided_by[_newest(~part.repeated)]  # for a lost image as for the one before
        columns[rows.TIME] = (arrays.stamps_ns - begun.stamps_ns[0]) * 1e-9
        writer.add(columns, {rows.IMAGES: arrays.images})
        if part.next_command is not None:
            continue
        before = writer.rows
        label = entry.label
        texts = {
            rows.BAG: entry.bag,
            rows.OUTCOME: outcome,
            rows.LABEL: label.label.value if label else "",
            rows.NOTE: label.note if label else "",
            rows.OPERATOR: label.operator if label else "",
            rows.START: str(begun.stamps_ns[0]),
            rows.BUNDLE: dataset.document.bundle,
            rows.CONTINUES: entry.continues,
        }
        writer.end_episode(task, texts)
        outcomes.append(outcome)
        lengths.append(writer.rows - before)
        begun = None
    return outcomes, lengths


def _parts(dataset: Dataset, remarks: list[str]) -> Iterator[_Part]:
    """Yield the episodes' rows, each episode from its first command on."""
    entries = dataset.document.episodes
    begun = False  # whether the open episode has a row
    for number, entry in enumerate(entries):
        arrays, left_out = dataset.episode(entry), 0
        repeated = np.isin(np.arange(len(arrays.stamps_ns)), entry.repeated)
        if len(entry.repeated):
            remarks.append(f"{entry.bag}: {len(entry.repeated)} images were lost; the image before each stands for it")
        if not begun:
            arrays, left_out = _from_first_command(arrays)
            if left_out:
                remarks.append(f"{entry.bag}: left out {left_out} images before the first command to the arm")
        begun = len(arrays.stamps_ns) > 0
        ends = entry.continues != "at once"
        if begun:
            yield _Part(
                arrays, entry, repeated[left_out:], None if ends else dataset.episode(entries[number + 1]).commands[0]
            )
        begun = begun and not ends


def _from_first_command(arrays: EpisodeArrays) -> tuple[EpisodeArrays, int]:
    """Leave out the rows whose action is not known, and return the number of them."""
    known = np.isfinite(arrays.commands).all(axis=1)
    first = max(0, int(np.argmax(known)) - 1) if known.any() else len(known)  # a row's action is the next row's command
    if not first:
        return arrays, 0
    return EpisodeArrays(*(getattr(arrays, field.name)[first:] for field in fields(arrays))), first


def _newest(is_new: np.ndarray) -> np.ndarray:
    """Return for each image [N] the number of the newest one that was not lost."""
    return np.asarray(np.maximum.accumulate(np.where(is_new, np.arange(len(is_new)), 0)))


def _write_provenance(folder: Path, bags: Sequence[Path], bundle: Bundle, arm: Arm, summary: ExportSummary) -> None:
    contract = bundle.contract
    facts: dict[str, Any] = {
        "written_with": f"rlfp_ros {VERSION}",
        "bundle": contract.name,
        "bundle_files": contract.files,
        "arm": arm.name,
        "bags": [path.name for path in bags],
        "remarks": list(summary.remarks),
        "features": {key: list(each.names or ()) for key, each in rows.features_of(contract, arm).items()},
    }
    write_whole(folder / PROVENANCE, json.dumps(facts, indent=2) + "\n")
    document = contract.model_dump(mode="json", by_alias=True)
    write_whole(folder / CONTRACT, yaml.safe_dump(document, sort_keys=False, width=120))
    write_whole(folder / CARD, _card(bundle, arm, summary))


def _card(bundle: Bundle, arm: Arm, summary: ExportSummary) -> str:
    """Return the dataset's page: what is in it, and what each feature means."""
    table = (rows.__doc__ or "").partition("\n\n")[2]
    lost = f"{summary.repeated} images were lost, and the one before each stands for it"
    images = lost if summary.repeated else "nothing was resampled"
    return (
        "---\ntags: [LeRobot, rlfp_ros]\ntask_categories: [robotics]\n---\n\n"
        f"# {summary.directory.name}\n\n"
        f"{len(summary.outcomes)} episodes, {summary.frames} rows of arm {arm.name}, recorded while bundle "
        f"{bundle.contract.name} ran. One row per image that the policy saw; {images}. Names of values end with their "
        "unit. The outcome of each episode is in the column `rlfp/outcome` of `meta/episodes`; `next.success` is false "
        "for lost and for unknown ones. The bundle's contract and the origin of the data are "
        f"in `meta/rlfp/`.\n\n{table}"
    )
