"""`rlfp dataset`: bags to episodes on the images that the policy saw.

Preprocessing, decoding and the choice of the joints that belong to an image are those of the live nodes. An episode is
split at a gap between images and where the camera's clock jumps, and refused if it is too short or if its images come
at another rate than in training. Each split and each refusal is one sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rlfp_ros.contract import Bundle
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.observation import ObservationContract, Observer
from rlfp_ros.data.admission import USUAL, Admission
from rlfp_ros.data.dataset import (
    Dataset,
    DatasetDocument,
    DecidedBy,
    EpisodeArrays,
    EpisodeEntry,
    check_new,
    write_dataset,
    write_episode,
)
from rlfp_ros.data.reading import JOINT_MAX_AGE_S, BagContents, BagImage, read_contents, read_images
from rlfp_ros.data.spans import EpisodeSpan, episode_spans
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.recording.bag_topics import ANY, TopicChoice
from rlfp_ros.recording.labels import BagLabel, Label, read_label
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.schema import ConfigurationError

FEWEST_FRAMES = 15  # a shorter episode is refused
MOST_FRAMES = 9_000  # a longer episode continues in another file, so that one fits into memory
FUTURE_S = 0.02  # how far ahead of the recorder's clock a stamp may be
CLOCK_JUMP_S = 0.5  # change of an image's age, from one image to the next, that shows that a clock was set
WALL_CLOCK_S = 3600.0  # stamps farther than this from the recorder's clock are simulated time
COMPARED = 5  # images whose recorded features must be those of the bundle
FEATURE_TOLERANCE = 1e-3  # on the plane z = 1; rounding on other processors differs by at most 1e-4


@dataclass
class _Frames:
    """Consecutive images of an episode, while they are collected."""

    span: EpisodeSpan
    continues: Literal["", "at once", "after a gap"] = ""
    after_ns: int | None = None  # stamp of the image before, if they continue an episode at once
    images: list[np.ndarray] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    joints: list[JointState] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)  # numbers of the images that stand for lost ones

    def add(self, image: np.ndarray, stamp_ns: int, joints: JointState | None) -> None:
        assert joints is not None  # checked by the caller
        self.images.append(image)
        self.stamps.append(stamp_ns)
        self.joints.append(joints)


class DatasetBuilder:
    """Collects the episodes of bags into one folder.

    Parameters
    ----------
    bundle
        The bundle that ran.
    arm
        The arm in the bags.
    folder
        Where to write the episodes.
    discarded
        Whether bags are used that a person labelled `discard`.
    admission
        What becomes an episode.
    """

    def __init__(
        self, bundle: Bundle, arm: Arm, folder: Path, discarded: bool = False, admission: Admission = USUAL
    ) -> None:
        self._bundle, self._arm, self._folder, self._discarded = bundle, arm, folder, discarded
        self._admission = admission
        self._contract = bundle.contract
        self._preprocess = Preprocessor(bundle.contract)
        self._perception = Perception(bundle, arm)
        self._observer = Observer(arm, ObservationContract(bundle.contract.proprioception))
        self._entries: list[EpisodeEntry] = []
        self._remarks: list[str] = []

    def add(self, path: Path, choice: TopicChoice = ANY) -> None:
        """Add the episodes of one bag, unless it is labelled `discard`.

        Raises
        ------
        ConfigurationError
            If the bag is not readable, lacks images, joints or camera_info, or was recorded with another bundle or arm.
        """
        label = self._label(path)
        if label is not None and label.label is Label.DISCARD and not self._discarded:
            self._remark(path, "is labelled discard and was skipped; --discarded uses it")
            return
        with BagReader(path) as bag:
            if not bag.complete and self._admission.refuses_faults:
                raise ConfigurationError(
                    f"{path}: is unfinished: its recorder still runs or was killed; end the recording, or repair the "
                    f"bag with `python -m rlfp_ros.recording.recovery {path}`"
                )
            contents = read_contents(bag, self._arm, self._contract, choice)
            if not contents.complete:
                self._remark(path, "is cut short; everything before the cut is used")
            compared = 0
            for frames in self._episodes(path, bag, contents):
                compared += self._compare_features(path, contents, frames, COMPARED - compared)
                self._keep(path, contents, frames, label)

    def _label(self, path: Path) -> BagLabel | None:
        try:
            return read_label(path)
        except ConfigurationError as error:
            self._remark(path, f"has a label that is not one of ours, so it counts as not labelled ({error})")
            return None

    def document(self) -> DatasetDocument:
        """Return what is to be written to `dataset.yaml`. Raises ConfigurationError if there is no episode."""
        if not self._entries:
            reasons = " ".join(f"{remark};" for remark in self._remarks[:2]) or "the bags hold no image of an episode;"
            raise ConfigurationError(f"no episode could be used: {reasons} record the graph while it runs")
        return DatasetDocument.of(self._contract, self._arm, self._entries, self._remarks)

    def _remark(self, path: Path, text: str) -> None:
        self._remarks.append(f"{path.name}: {text}")

    def _episodes(self, path: Path, bag: BagReader, contents: BagContents) -> Iterator[_Frames]:
        """Cut a bag into runs of consecutive images."""
        spans, place = episode_spans(contents.marks), 0
        left_out: Counter[str] = Counter()
        frames: _Frames | None = None
        age_s: float | None = None  # of the last image
        for item in read_images(bag, contents):
            while place < len(spans) and item.received_ns > spans[place].ends_ns:
                place += 1
            span = spans[place] if place < len(spans) else None
            if span is None or item.received_ns < span.begins_ns or item.stamp_ns <= span.after_ns:
                left_out["outside an episode"] += 1
                continue
            last_age_s, age_s = age_s, (item.received_ns - item.stamp_ns) * 1e-9
            fault = self._fault(item, contents, age_s)
            if fault:
                left_out[fault] += 1
                continue
            if frames is not None:
                if item.stamp_ns <= frames.stamps[-1] and frames.span is span:
                    left_out["that are not newer than the one before"] += 1
                    continue
                lost = self._lost(frames, item, contents) if span is frames.span else []
                split = self._split(path, frames, span, item, last_age_s, age_s, bool(lost))
                if split is None:
                    for stamp in lost:
                        frames.repeated.append(len(frames.stamps))
                        frames.add(frames.images[-1], stamp, contents.joints_at(stamp))
                else:
                    if split:
                        self._remark(path, split)
                    yield frames
                    frames = _Frames(span, after_ns=frames.stamps[-1] if frames.continues == "at once" else None)
            frames = frames or _Frames(span)
            source = f"{path}: topic {contents.topics.camera.image}"
            image = np.array(self._preprocess(item.image, item.camera, source))
            frames.add(image, item.stamp_ns, contents.joints_at(item.stamp_ns))
        if frames is not None:
            yield frames
        for reason, count in left_out.items():
            self._remark(path, f"left out {count} images {reason}")

    def _fault(self, item: BagImage, contents: BagContents, age_s: float) -> str:
        """Return why an image cannot be used, as the end of a sentence; empty if it can."""
        if item.camera is None:
            return "before the first camera_info"
        if -WALL_CLOCK_S < age_s < -FUTURE_S:
            return "whose stamps lie in the future; compare the clocks of camera and recorder"
        if contents.joints_at(item.stamp_ns) is None:
            return f"without joints of the last {JOINT_MAX_AGE_S:g} s; compare the clocks of camera and arm"
        return ""

    def _lost(self, frames: _Frames, item: BagImage, contents: BagContents) -> list[int]:
        """Return the stamps of lost images before `item` for which the image before them stands; empty if none do."""
        stamps = self._admission.lost_stamps(frames.stamps[-1], item.stamp_ns, self._contract.camera.rate_hz)
        return stamps if all(contents.joints_at(stamp) is not None for stamp in stamps) else []

    def _split(
        self,
        path: Path,
        frames: _Frames,
        span: EpisodeSpan,
        item: BagImage,
        last_age_s: float | None,
        age_s: float,
        repeats: bool,
    ) -> str | None:
        """Return why a new run of images begins with `item`: a remark, "" if there is nothing to say; None if not."""
        if span is not frames.span:
            return ""
        interval_s = (item.stamp_ns - frames.stamps[-1]) * 1e-9
        found = ""
        if last_age_s is not None and abs(age_s - last_age_s) > CLOCK_JUMP_S and abs(age_s) < WALL_CLOCK_S:
            found = f"where the age of the images jumps by {abs(age_s - last_age_s):.2f} s: a clock was set"
        elif interval_s > self._admission.gap_s and not repeats:
            found = f"at a gap of {interval_s:.2f} s between two images"
        if found and self._admission.refuses_gaps:
            raise ConfigurationError(
                f"{path}: its episode would be split after {(frames.stamps[-1] - frames.stamps[0]) * 1e-9:.2f} s, "
                f"{found}, expected intervals of at most {self._admission.gap_s:.3f} s; record again, or allow it with "
                "--gaps split or --gaps repeat"
            )
        if found:
            frames.continues = "after a gap"
            return f"split {found}"
        if len(frames.stamps) >= MOST_FRAMES:
            frames.continues = "at once"
            return "continues in another file"
        return None

    def _compare_features(self, path: Path, contents: BagContents, frames: _Frames, wanted: int) -> int:
        """Check that the recorded features are those of the bundle; return the number of images that were compared."""
        there = [number for number, stamp in enumerate(frames.stamps) if stamp in contents.features]
        picks = there[:: max(1, len(there) // max(wanted, 1))][:wanted]
        errors = []
        for number in picks:
            recorded = contents.features[frames.stamps[number]]
            made = self._perception.encode(frames.images[number]).features
            errors.append(float(np.abs(made - recorded).max()) if made.shape == recorded.shape else np.inf)
        if errors and float(np.median(errors)) > FEATURE_TOLERANCE:
            raise ConfigurationError(
                f"{path}: the recorded features differ from those of bundle {self._contract.name} by "
                f"{float(np.median(errors)):.2g}; give the bundle that ran with --bundle, or look with `rlfp gap`"
            )
        return len(picks)

    def _keep(self, path: Path, contents: BagContents, frames: _Frames, label: BagLabel | None) -> None:
        """Write a run of images as an episode, or say why not."""
        success = frames.span.success
        alone = len(episode_spans(contents.marks)) == 1  # otherwise it is not known which episode the label means
        if success is None and alone and label is not None and label.label is not Label.DISCARD:
            success = label.label is Label.SUCCESS
        count, stamps = len(frames.stamps), np.array(frames.stamps)
        if count < FEWEST_FRAMES and frames.after_ns is None:
            self._remark(path, f"refused a run of {count} images, expected at least {FEWEST_FRAMES}")
            return
        intervals = np.diff(stamps if frames.after_ns is None else [frames.after_ns, *stamps]) * 1e-9
        rate, trained = 1 / float(np.median(intervals)), self._contract.camera.rate_hz
        if self._admission.refuses_faults:
            # A rate that is slightly off adds up over an episode, which the median does not show.
            rate = 1 / float(np.mean(intervals))
        if abs(rate - trained) > self._admission.rate_tolerance * trained:
            if self._admission.refuses_faults:
                raise ConfigurationError(
                    f"{path}: its images come at {rate:.2f} Hz, expected {trained:g} Hz, that of bundle "
                    f"{self._contract.name}, to within {self._admission.rate_tolerance:.0%}; set the driver's rate "
                    "and record again"
                )
            self._remark(
                path, f"refused {count} images at {rate:.1f} Hz, trained at {trained:g} Hz; set the driver's rate"
            )
            self._refused(frames)
            return
        name = f"episode_{len(self._entries):04}.npz"
        arrays = self._arrays(contents, frames)
        self._entries.append(
            EpisodeEntry.of(
                arrays,
                intervals,
                file=name,
                sha256=write_episode(self._folder / name, arrays),
                bag=path.name,
                outcome="unknown" if success is None else "won" if success else "lost",
                label=label,
                continues=frames.continues,
                repeated=tuple(frames.repeated),
            )
        )

    def _refused(self, frames: _Frames) -> None:
        """Take note that an episode lacks these images."""
        if frames.after_ns is not None and self._entries and self._entries[-1].continues == "at once":
            self._entries[-1] = self._entries[-1].model_copy(update={"continues": "after a gap"})

    def _arrays(self, contents: BagContents, frames: _Frames) -> EpisodeArrays:
        joints, actions = len(self._arm.joint_names), len(self._contract.action.components)
        no_action, no_command = np.full(actions, np.nan, np.float32), np.full(joints, np.nan)
        commands = [contents.command_at(stamp) for stamp in frames.stamps]
        return EpisodeArrays(
            stamps_ns=np.array(frames.stamps, np.int64),
            images=np.stack(frames.images),
            positions=np.stack([state.positions for state in frames.joints]),
            velocities=np.stack([state.velocities for state in frames.joints]),
            gripper_widths=np.array([state.gripper_width for state in frames.joints]),
            proprioception=np.stack([self._observer.proprioception(state) for state in frames.joints]),
            asked=np.stack([contents.asked.get(stamp, no_action) for stamp in frames.stamps]),
            applied=np.stack([contents.applied.get(stamp, no_action) for stamp in frames.stamps]),
            commands=np.stack([no_command if command is None else command for command in commands]),
            decided_by=np.array(
                [contents.decided_by.get(stamp, DecidedBy.POLICY) for stamp in frames.stamps], np.uint8
            ),
        )


def build_dataset(
    bags: Sequence[Path],
    bundle: Bundle,
    arm: Arm,
    out: Path,
    choice: TopicChoice = ANY,
    discarded: bool = False,
    admission: Admission = USUAL,
) -> Dataset:
    """Write the episodes of bags as a dataset, completely or not at all.

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
    choice
        Which camera and which robot, if the bags hold several.
    discarded
        Whether bags are used that a person labelled `discard`.
    admission
        What becomes an episode.

    Raises
    ------
    ConfigurationError
        If a bag cannot be used, no episode is left, or `out` exists or cannot be written.
    """
    check_new(out, "dataset")

    def fill(folder: Path) -> DatasetDocument:
        builder = DatasetBuilder(bundle, arm, folder, discarded, admission)
        for bag in bags:
            builder.add(bag, choice)
        return builder.document()

    return write_dataset(out, fill)
