"""`rlfp gap`: replays a recorded run through the training code, and finds the stage at which the run diverges.

A bag holds the drivers' messages (images, joints) and the graph's results (features, residual). The training code
computes features and residual from the same drivers' messages. If the two differ, each known mistake is tried in the
training code: the mistake that reproduces the recording is the cause.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rlfp_ros.commissioning.dataset_run import dataset_run
from rlfp_ros.commissioning.mistakes import (
    DECISION_RATE,
    PAST_ACTIONS,
    PolicyMistake,
    image_mistakes,
    past_action_mistakes,
    policy_mistakes,
)
from rlfp_ros.commissioning.recorded_run import PastActions, RecordedRun, Stretch, read_run
from rlfp_ros.contract import Bundle, load_bundle
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.evaluation.results import write_json
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.recording.bag_topics import ANY, TopicChoice
from rlfp_ros.schema import ConfigurationError

FEATURE_TOLERANCE = 1e-3  # on the plane z = 1; rounding on other processors differs by at most 1e-4
RESIDUAL_TOLERANCE = 1e-2  # share of the bundle's scale
ROUNDING = 1e-5  # share of the bundle's scale; accuracy of the replay on the same processor
CLEARER = 10.0  # how many times better a mistake must explain the recording than training does
ALIKE = 0.5  # relative difference that the unknown memory of a policy can explain
FEWEST_ACTIONS = 5  # needed to judge residuals
RATE_TOLERANCE = 0.2  # relative
LATENCY_TOLERANCE_S = 0.06  # two frames more than training modelled
FUTURE_TOLERANCE_S = 0.02  # how far ahead of the recorder's clock a stamp may be
WALL_CLOCK_S = 3600.0  # stamps farther than this from the recorder's clock are simulated time

STAGES = ("rate", "latency", "size", "crop", "colour order", "normalisation", "joint order", "units", "stack order")


@dataclass(frozen=True)
class Stage:
    """One row of the result: whether the run diverges from training at this stage, or could not be judged."""

    name: str
    diverges: bool
    detail: str
    judged: bool = True

    @property
    def verdict(self) -> str:
        """The word for the table."""
        return "diverges" if self.diverges else "same" if self.judged else "not judged"


@dataclass
class _Findings:
    """The findings by stage."""

    diverging: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    further: tuple[str, ...] = ()  # stages that only some bundles have

    def stages(self) -> list[Stage]:
        """Return every stage of `STAGES` in order; and `features` or `residual` if they diverge for no known reason."""
        found = []
        for name in (*STAGES, *self.further, "features", "residual"):
            if name in self.diverging:
                found.append(Stage(name, True, self.diverging[name]))
            elif name in self.unjudged:
                found.append(Stage(name, False, f"not judged: {self.unjudged[name]}", judged=False))
            elif name in (*STAGES, *self.further):
                found.append(Stage(name, False, self.notes.get(name, "as in training")))
        return found


def compare(bundle: Bundle, arm: Arm, run: RecordedRun) -> list[Stage]:
    """Compare a recorded run with training, stage by stage."""
    further = {PAST_ACTIONS: bundle.contract.policy.past_actions, DECISION_RATE: decides_every(bundle) - 1}
    findings = _Findings(further=tuple(name for name, has in further.items() if has))
    _compare_timing(bundle, run, findings)
    _compare_joints(arm, run, findings)
    try:
        _compare_features(bundle, run, findings)
    except ConfigurationError as error:
        findings.diverging["size"] = str(error)
    _compare_residuals(bundle, arm, run, findings)
    return findings.stages()


def decides_every(bundle: Bundle) -> int:
    """Return the number of images per decision of a bundle's policy."""
    return bundle.contract.action.images_per_decision


def _compare_timing(bundle: Bundle, run: RecordedRun, findings: _Findings) -> None:
    contract, stamps = bundle.contract, sorted(run.images)
    rate, trained = 1e9 / float(np.median(np.diff(stamps))), contract.camera.rate_hz
    findings.notes["rate"] = f"{rate:.1f} Hz"
    if abs(rate - trained) > RATE_TOLERANCE * trained:
        findings.diverging["rate"] = f"images come at {rate:.1f} Hz, trained at {trained:g} Hz; set the driver's rate"
    if not run.received:
        findings.unjudged["latency"] = "a dataset does not hold when images came"
        return
    age = _age_s(run)
    if abs(age) > WALL_CLOCK_S:
        findings.unjudged["latency"] = "stamps are simulated time"
        return
    findings.notes["latency"] = f"images are {1e3 * age:.0f} ms old when they come"
    if not -FUTURE_TOLERANCE_S <= age <= contract.latency.camera_s + LATENCY_TOLERANCE_S:
        findings.diverging["latency"] = (
            f"images are {1e3 * age:.0f} ms old when they come, trained with "
            f"{1e3 * contract.latency.camera_s:.0f} ms; shorten the exposure or the driver's queue, or let it stamp "
            "with the system clock"
        )


def _age_s(run: RecordedRun) -> float:
    """Return the images' median age at the time when they were recorded."""
    return float(np.median([run.received[stamp] - stamp for stamp in run.images])) * 1e-9


def _compare_joints(arm: Arm, run: RecordedRun, findings: _Findings) -> None:
    """Find joints outside their limits that would be inside them as degrees."""
    lower, upper = np.array(arm.limits.lower) - 0.05, np.array(arm.limits.upper) + 0.05
    positions = np.array([recorded.state.positions for recorded in run.joints])
    outside = (positions < lower) | (positions > upper)
    if outside.any(axis=1).mean() <= 0.5:
        return
    turned = np.radians(positions)
    worst = int(np.argmax(outside.mean(axis=0)))
    found = f"{arm.joint_names[worst]} is {np.median(positions[:, worst]):.1f}, outside its limits in rad"
    if ((turned < lower) | (turned > upper)).any(axis=1).mean() <= 0.5:
        findings.diverging["units"] = f"{found}; joint_states are in degrees, let the driver publish radians"
    else:
        findings.diverging["joint order"] = f"{found}; correct the order or driver_joint_names in {arm.origin}"


def _worst_error(made: dict[int, np.ndarray], recorded: dict[int, np.ndarray]) -> float:
    """Return the largest difference over all stamps."""
    return max((_error({stamp: made[stamp]}, recorded) for stamp in made.keys() & recorded.keys()), default=np.inf)


def _error(made: dict[int, np.ndarray], recorded: dict[int, np.ndarray]) -> float:
    """Return the median over stamps of the largest difference, which a lost message does not change.

    inf if shapes differ.
    """
    errors = [
        float(np.abs(made[stamp] - recorded[stamp]).max()) if made[stamp].shape == recorded[stamp].shape else np.inf
        for stamp in made.keys() & recorded.keys()
    ]
    return float(np.median(errors)) if errors else np.inf


def _compare_features(bundle: Bundle, run: RecordedRun, findings: _Findings) -> None:
    perception = Perception(bundle)
    source = f"topic {run.topics.camera.image}"
    percepts = {stamp: perception(image, run.camera, source) for stamp, image in run.images.items()}
    shift = float(np.median([percept.domain_shift for percept in percepts.values()]))
    findings.notes["size"] = perception.preprocessing
    findings.notes["colour order"] = f"as in training; domain shift {shift:.2f}"
    if not run.features.keys() & run.images.keys():
        findings.unjudged["crop"] = "no perception/features with an image's stamp was recorded"
        return
    made = {stamp: percept.features for stamp, percept in percepts.items()}
    error = _error(made, run.features)
    if error <= FEATURE_TOLERANCE:
        return
    late = {now: made[before] for before, now in itertools.pairwise(sorted(made))}
    if _error(late, run.features) <= FEATURE_TOLERANCE:
        findings.diverging["latency"] = (
            "features are those of the image before; they carry the stamp of the image after it"
        )
        return
    for mistake in image_mistakes((bundle.contract.camera.width, bundle.contract.camera.height)):
        tried = {
            stamp: perception.encode(mistake.change(image, percepts[stamp].image)).features
            for stamp, image in run.images.items()
        }
        if _error(tried, run.features) <= FEATURE_TOLERANCE:
            findings.diverging[mistake.stage] = mistake.words
            return
    findings.diverging["features"] = (
        f"recorded features differ from training's by {error:.3g}, for no reason that is known here; give perception "
        "and gap the same bundle, and compare camera_info with the camera"
    )


def _compare_residuals(bundle: Bundle, arm: Arm, run: RecordedRun, findings: _Findings) -> None:
    """Replay the policy over the frames on which it acted.

    From the start of the policy or of an episode, the replay is exact. If the recording began later, the policy's
    memory is not known, and only a clear difference is a finding.
    """
    if PAST_ACTIONS in findings.further and not run.applied:
        reason = "the bag holds no policy/action_applied; record the graph with the present rlfp_ros"
        findings.unjudged |= {PAST_ACTIONS: reason, "stack order": "past actions are not known"}
        return
    stretches = [_from_a_decision(stretch, decides_every(bundle)) for stretch in run.stretches()]
    exact = [stretch for stretch in stretches if stretch.from_start]
    certain = sum(len(stretch.actions) for stretch in exact) >= FEWEST_ACTIONS
    judged = exact if certain else stretches
    recorded = {
        action.stamp_ns: action.twist for stretch in judged for action in stretch.actions if action.twist is not None
    }
    if not recorded:
        findings.unjudged["stack order"] = "no policy/residual with its features and joints was recorded"
        return
    policy = Policy(bundle, arm)
    latency_ns = _latency_ns(bundle, run)
    past = {}
    if PAST_ACTIONS in findings.further:
        answers = [action for stretch in judged for action in stretch.actions]
        past = {answer.stamp_ns: run.past_actions(answer, bundle.contract.action) for answer in answers}

    def replay(mistake: PolicyMistake) -> dict[int, np.ndarray]:
        return _replay(policy, run, judged, mistake, latency_ns, past)

    action = bundle.contract.action
    scale = max(value for name, value in zip(action.components, action.scale, strict=True) if name != "gripper")
    tolerance = RESIDUAL_TOLERANCE * scale
    as_trained = replay(PolicyMistake())
    error = _error(as_trained, recorded)
    if error <= ROUNDING * scale:
        # Some mistakes change only a few actions, at the start of an episode.
        worst = _worst_error(as_trained, recorded)
        if certain and past and worst > ROUNDING * scale:
            for mistake in past_action_mistakes(bundle.contract):
                if _worst_error(replay(mistake), recorded) <= min(tolerance, worst / CLEARER):
                    findings.diverging[mistake.stage] = mistake.words
                    return
        return
    limit = min(tolerance, error / CLEARER) if certain else error / CLEARER
    for mistake in policy_mistakes(bundle.contract):
        if _error(replay(mistake), recorded) <= limit:
            findings.diverging[mistake.stage] = mistake.words
            return
    if error <= tolerance:
        return
    if not certain and _relative_difference(as_trained, recorded) < ALIKE:
        findings.unjudged["stack order"] = (
            f"residuals differ from training's by {error:.2g} m/s, which what the policy remembers from before the "
            "recording can explain; begin the recording with the graph, or with an episode"
        )
        return
    findings.diverging["residual"] = (
        f"recorded residuals differ from training's by {error:.3g} m/s, for no reason that is known here; give policy "
        "and gap the same bundle and arm"
    )


def _latency_ns(bundle: Bundle, run: RecordedRun) -> int:
    """Return the time from an image's exposure to the policy's action."""
    age = _age_s(run)
    return round(1e9 * (age if abs(age) < WALL_CLOCK_S else bundle.contract.latency.camera_s))


def _replay(
    policy: Policy,
    run: RecordedRun,
    stretches: Sequence[Stretch],
    mistake: PolicyMistake,
    latency_ns: int,
    past: Mapping[int, PastActions],
) -> dict[int, np.ndarray]:
    """Return the residual that the policy gives for each action's frame if it makes `mistake`."""
    made: dict[int, np.ndarray] = {}
    for stretch in stretches:
        policy.reset()
        for action in stretch.actions:
            stamp = action.stamp_ns
            joints = run.joints_at(stamp + (latency_ns if mistake.newest_joints else 0))
            assert joints is not None  # a stretch holds actions that can be replayed
            features = mistake.features(run.features[stamp])
            if past:
                rows = mistake.past_actions(past[stamp], policy.contract.policy.past_actions)
                policy.memory = replace(policy.memory, applied=tuple(rows))
            step = policy.step(
                features, mistake.joints(joints), stamp, action.goal, mistake.observation, hold=mistake.holds
            )
            made[stamp] = mistake.twist(step)
    return made


def _from_a_decision(stretch: Stretch, images: int) -> Stretch:
    """Return a stretch that begins with a decision.

    If the recording began later than the policy, the first action may be a held one. An action that differs from the
    one before is a decision.
    """
    if stretch.from_start or images == 1:
        return stretch
    for number, (before, action) in enumerate(itertools.pairwise(stretch.actions), start=1):
        if before.twist is not None and action.twist is not None and not np.array_equal(before.twist, action.twist):
            return Stretch(False, stretch.actions[number:])
    return Stretch(False, [])


def _relative_difference(made: dict[int, np.ndarray], recorded: dict[int, np.ndarray]) -> float:
    """Return the norm of the difference over all stamps, as a share of the recorded norm."""
    stamps = sorted(made.keys() & recorded.keys())
    ours, theirs = (np.concatenate([side[stamp] for stamp in stamps]) for side in (made, recorded))
    return float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-9))


def run(
    bag: Path,
    bundle_name: str,
    arm_name: str | None,
    json_path: Path | None,
    choice: TopicChoice = ANY,
    is_dataset: bool = False,
) -> int:
    """Print the table. Returns exit code 0 if the run is as in training, 1 if it diverges at a stage."""
    bundle = load_bundle(bundle_name)
    arm = choose_arm(bundle, arm_name, print)
    recorded = dataset_run(bag, bundle, arm) if is_dataset else read_run(bag, arm, bundle.contract, choice)
    stages = compare(bundle, arm, recorded)
    console = Console(highlight=False)
    console.print(str(recorded.topics))
    title = f"{bag}: {len(recorded.images)} images against {bundle.contract.name}"
    table = Table(title=title, title_justify="left")
    for name in ("stage", "", "found"):
        table.add_column(name)
    for stage in stages:
        colour = "red" if stage.diverges else "green" if stage.judged else "yellow"
        table.add_row(stage.name, f"[{colour}]{stage.verdict}[/]", stage.detail)
    console.print(table)
    if json_path is not None:
        rows = [
            {"stage": stage.name, "diverges": stage.diverges, "judged": stage.judged, "found": stage.detail}
            for stage in stages
        ]
        write_json(json_path, {"bag": str(bag), "bundle": bundle.contract.name, "stages": rows})
    return int(any(stage.diverges for stage in stages))
