"""`rlfp export`: makes a bundle of a finished training, and checks it completely before it replaces another.

A training ends with `save_trained`. `export_bundle` converts its networks to ONNX, compares the two over thousands of
observations, records golden frames from the training environment, and writes a bundle that has repeated them. It also
updates an older bundle.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console

from rlfp_ros import __version__
from rlfp_ros.contract import (
    METADATA_PREFIX,
    TRUST_FILE,
    Bundle,
    Contract,
    Evaluation,
    check_replaceable,
    description,
    load_bundle,
    write_bundle,
)
from rlfp_ros.control.arm import Arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.robot_description import carried_files
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.evaluation.album import Album
from rlfp_ros.evaluation.episodes import count
from rlfp_ros.evaluation.evaluate import evaluate
from rlfp_ros.learning.encoders.trust import TrustTraining
from rlfp_ros.learning.export import quantise
from rlfp_ros.learning.export.networks import Networks, deployed
from rlfp_ros.learning.export.reference import (
    PlayedFrame,
    check_goal_is_used,
    choose_golden_frames,
    disagreement,
    golden_arrays,
    golden_frames,
    golden_tensors,
    play,
)
from rlfp_ros.learning.export.trained import load_trained
from rlfp_ros.learning.export.trust import golden_trust, make_trust
from rlfp_ros.learning.runs.progress import TrainingProgress
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.ticked_world import Outcome

OBSERVATIONS = 1_000  # number of random and of real observations on which PyTorch and ONNX Runtime are compared
FRAMES = 200  # frames that are played without this comparison; enough to see whether the goal matters
PROFILES = ("none", "train", "validation")  # profiles under which a bundle is measured


@dataclass(frozen=True)
class Candidate:
    """A bundle before its golden frames are recorded."""

    contract: Contract
    arm: Arm
    files: dict[str, bytes]  # encoder.onnx, policy.onnx, and trust.onnx if there is one
    networks: Networks  # those files in ONNX Runtime
    tensors: dict[str, np.ndarray]  # golden inputs and outputs of the networks
    played: list[PlayedFrame]


def export_bundle(
    source: Path,
    out: Path,
    evaluation_episodes: int = 100,
    observations: int = OBSERVATIONS,
    console: Console | None = None,
    trust: TrustTraining | None = None,
) -> Bundle:
    """Write the bundle `out` from a run folder of `rlfp train`, or again from an older bundle, its networks unchanged.

    Parameters
    ----------
    source
        A run folder, or a bundle's folder.
    out
        Folder of the bundle; an older bundle there is replaced.
    evaluation_episodes
        Episodes per profile in which a new bundle is measured; 0 for none. The run folder keeps them for its report.
    observations
        Number of random and of real observations on which PyTorch and ONNX Runtime are compared.
    console
        Shows the progress.
    trust
        How long the domain-shift score `trust.onnx` is learnt, anew; None: an older bundle keeps the one that it has.

    Raises
    ------
    ConfigurationError
        If `source` is damaged or of another version, if PyTorch and ONNX Runtime disagree, if the policy ignores the
        task's goal, or if the deployed code does not repeat training's frames. An older `out` does not change.
    """
    console = console or Console()
    check_replaceable(out)
    older = (source / "bundle.yaml").exists()
    candidate = _from_bundle(source) if older else _from_run(source, observations, console)
    contract = candidate.contract
    check_goal_is_used(contract, candidate.networks, candidate.played)
    files, tensors = dict(candidate.files), candidate.tensors
    if trust is not None:
        console.print(
            f"domain-shift score: learns from {trust.images} images and {trust.altered} altered copies of each"
        )
        files[TRUST_FILE], learnt = make_trust(contract, candidate.arm, files["encoder.onnx"], trust)
        contract = contract.model_copy(update={"trust": learnt})
    frames, covered = choose_golden_frames(candidate.networks, candidate.played)
    recorded = golden_frames(contract, frames, covered)
    if TRUST_FILE in files:
        scored = golden_trust(files[TRUST_FILE], candidate.arm, frames)
        tensors, recorded = tensors | scored.tensors, replace(recorded, domain_shifts=scored.scores)
    golden = golden_arrays(tensors, recorded)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **golden)  # type: ignore[arg-type]  # numpy's stub takes them for allow_pickle
    files = {name: _described(contract, name, data) for name, data in files.items()}
    files |= {"golden.npz": buffer.getvalue()} | carried_files(candidate.arm)
    if evaluation_episodes and not older:
        contract = _evaluated(contract, files, evaluation_episodes, console, Album(source))
        if out.exists() and not any(result.success_rate for result in contract.evaluation):
            raise ConfigurationError(
                f"{out}: keeps its older bundle, since the new one solved none of {evaluation_episodes} episodes under "
                "any profile; train longer, or write it elsewhere with --out"
            )
    return write_bundle(out, contract, files, check=check_deployment)


def check_deployment(bundle: Bundle) -> None:
    """Make every check of a bundle that nodes and evaluation make. Raises ConfigurationError."""
    Perception(bundle)
    Policy(bundle, trained_arm(bundle))


def _from_bundle(source: Path) -> Candidate:
    bundle = load_bundle(source)
    names = ("encoder.onnx", "policy.onnx", *([TRUST_FILE] if bundle.contract.trust else []))
    files = {name: bundle.file(name).read_bytes() for name in names}
    with np.load(bundle.file("golden.npz")) as arrays:
        tensors = {name: arrays[name] for name in arrays if not name.startswith("frames/")}
    networks, arm = deployed(files), trained_arm(bundle)
    played = list(play(bundle.contract, arm, networks, FRAMES))
    return Candidate(bundle.contract, arm, files, networks, tensors, played)


def _from_run(source: Path, observations: int, console: Console) -> Candidate:
    trained = load_trained(source)
    contract, arm, files = trained.contract, trained.arm, dict(trained.files)
    networks = deployed(files)
    played = list(play(contract, arm, networks, max(FRAMES, observations)))
    error = disagreement(contract, trained.networks, networks, played, observations)
    console.print(f"PyTorch and ONNX Runtime differ by {error:.1e} over 2 x {observations} observations")
    verdict = quantise.trial(files["encoder.onnx"], source / "frames")
    expected = trained.networks
    if verdict is not None:
        console.print(f"int8 encoder: {verdict.text}")
        contract = contract.model_copy(update={"provenance": contract.provenance | {"int8": verdict.text}})
        if verdict.kept:
            files["encoder.onnx"] = verdict.file
            networks = expected = deployed(files)
            played = list(play(contract, arm, networks, FRAMES))
    return Candidate(contract, arm, files, networks, golden_tensors(contract, expected, played[-1]), played)


def _described(contract: Contract, name: str, data: bytes) -> bytes:
    """Return an ONNX file with metadata that describe its training."""
    model = onnx.load_from_string(data)
    stated = {entry.key: entry.value for entry in model.metadata_props}
    if description(contract, name).items() <= stated.items():
        return data  # of an older bundle: the file stays byte for byte what it was
    model.producer_name, model.producer_version = "rlfp_ros", __version__
    notes = {METADATA_PREFIX + "commit": str(contract.provenance.get("commit", "unknown"))}
    onnx.helper.set_model_props(model, description(contract, name) | notes)
    return bytes(model.SerializeToString())


def _evaluated(contract: Contract, files: dict[str, bytes], episodes: int, console: Console, album: Album) -> Contract:
    """Return the contract with success rates, measured on a temporary copy of the bundle."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle", contract, files, check=check_deployment)
        return contract.model_copy(update={"evaluation": measured(bundle, episodes, console, album)})


def measured(bundle: Bundle, episodes: int, console: Console, album: Album) -> tuple[Evaluation, ...]:
    """Measure a bundle's success rate under each of `PROFILES`; the episodes replace those of `album`."""
    album.clear()
    results, outcomes = [], list[Outcome]()
    with TrainingProgress(console) as progress:

        def report(number: int, outcome: Outcome) -> None:
            outcomes.append(outcome)
            score = count(outcomes)
            progress.show(number + 1, f"{score.successes} won", success_rate=score.success_rate)

        for profile in PROFILES:
            outcomes.clear()
            progress.stage(profile, episodes, "the policy plays", "episodes")
            results.append(
                evaluate(bundle.directory, profile=profile, episodes=episodes, seed=0, play=album.play, report=report)
            )
    found = []
    for profile, result in zip(PROFILES, results, strict=True):
        console.print(f"  {profile:10} success {result['success_rate']:.3f}  95 % interval {result['wilson95']}")
        found.append(Evaluation.model_validate({name: result[name] for name in Evaluation.model_fields}))
    return tuple(found)
