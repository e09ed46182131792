"""`rlfp adapt`: from a bundle and a dataset to an adapted bundle, or to one sentence that says why there is none."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from rlfp_ros.adaptation.acceptance import AdaptationScore, refusal, score
from rlfp_ros.adaptation.adaptation import ADAPTATIONS, AdaptationTraining
from rlfp_ros.adaptation.material import AdaptationMaterial, recorded_images, rendered_images
from rlfp_ros.adaptation.novelty import FittedNovelty, fit_novelty
from rlfp_ros.contract import ARM_FILES, Bundle, Contract, load_bundle, onnx_session, write_bundle
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.data.dataset import Dataset, check_new, load_dataset
from rlfp_ros.learning.export.export import export_bundle
from rlfp_ros.schema import ConfigurationError

HELD_OUT_SHARE = 3  # one rendered image to measure for so many to learn from


def adapt(
    bundle: Bundle,
    dataset: Dataset,
    method: str,
    out: Path,
    training: AdaptationTraining | None = None,
    arm_name: str | None = None,
    extrinsics: str = "",
    console: Console | None = None,
) -> Bundle:
    """Adapt a bundle's encoder to recorded images, and write it if it is better.

    Parameters
    ----------
    bundle
        The bundle that ran when the data was recorded; it is not changed.
    dataset
        Recorded episodes, as `rlfp dataset` writes them.
    method
        Name of one of `ADAPTATIONS`.
    out
        Folder of the adapted bundle, which must not exist.
    training
        Length of the adaptation.
    arm_name
        Name or file of the arm; None for the bundle's.
    extrinsics
        File with the calibrated camera's pose; empty to fit it to the recording.
    console
        Shows the progress and the scores.

    Raises
    ------
    ConfigurationError
        If nothing can be learned from the data, the bundle cannot be adapted, or the adapted one is not better. `out`
        does not exist then.
    """
    training, console = training or AdaptationTraining(), console or Console(highlight=False)
    began = time.monotonic()
    check_new(out, "adapted bundle")
    kind = ADAPTATIONS[method]
    _check_adaptable(bundle)
    torch.set_num_threads(1)
    material = _material(bundle, dataset, training, arm_name, extrinsics, console)

    def report(line: str) -> None:
        console.print(f"{method}: {line}")

    file = kind().adapt(material, training, report)
    fitted = fit_novelty(file, material, training.seed)
    before = score(material.file, bundle.contract.feature_statistics, material, training.seed, training_alone=True)
    after = score(fitted.file, fitted.statistics, material, training.seed)
    console.print(_table(before, after))
    reason = refusal(before, after, kind.changes_encoder)
    if reason:
        raise ConfigurationError(
            f"{out}: not written: {reason}; record more, or choose another method ({', '.join(ADAPTATIONS)})"
        )
    facts: dict[str, JsonValue] = {
        "method": method,
        "from_encoder": bundle.contract.files["encoder.onnx"],
        "episodes": len(dataset.document.episodes),
        "recorded_images": len(material.recorded.images),
        "rendered_images": len(material.rendered.images),
        "updates": training.updates if kind.changes_encoder else 0,
        "seed": training.seed,
        "before": dict(before.rounded()),
        "after": dict(after.rounded()),
    }
    written = write_adapted(bundle, fitted, facts, out)
    console.print(f"wrote {out} after {(time.monotonic() - began) / 60:.1f} minutes", soft_wrap=True)
    return written


def run(
    bundle: str,
    data: Path,
    method: str,
    out: Path,
    training: AdaptationTraining,
    arm_name: str | None = None,
    extrinsics: str = "",
) -> int:
    """Adapt a bundle by name and return the exit code."""
    check_new(out, "adapted bundle")
    adapt(load_bundle(bundle), load_dataset(data), method, out, training, arm_name, extrinsics)
    return 0


def write_adapted(bundle: Bundle, fitted: FittedNovelty, facts: dict[str, JsonValue], out: Path) -> Bundle:
    """Write a bundle with another encoder, with golden frames that training's own environment gives with it.

    Parameters
    ----------
    bundle
        The bundle that everything else is taken from.
    fitted
        The encoder and its reference of the domain-shift score.
    facts
        How it was made, for the contract's provenance.
    out
        The folder, which must not exist.
    """
    contract = _adapted_contract(bundle.contract, fitted, facts)
    files = {"encoder.onnx": fitted.file, "policy.onnx": bundle.file("policy.onnx").read_bytes()}
    files |= {name: bundle.file(name).read_bytes() for name in ARM_FILES if name in bundle.contract.files}
    with np.load(bundle.file("golden.npz")) as golden:
        arrays = {name: golden[name] for name in golden}
    session = onnx_session(fitted.file)
    names = [value.name for value in session.get_outputs()]
    outputs = session.run(names, {"image": arrays["encoder/image"]})
    arrays |= {f"encoder/{name}": value for name, value in zip(names, outputs, strict=True)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    files["golden.npz"] = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        draft = write_bundle(Path(folder) / "draft", contract, files)
        check_new(out, "adapted bundle")
        return export_bundle(draft.directory, out, evaluation_episodes=0, console=Console(quiet=True))


def _check_adaptable(bundle: Bundle) -> None:
    """Raise ConfigurationError if the bundle's encoder or its domain-shift score cannot be adapted."""
    contract = bundle.contract
    if not (contract.encoder.finds_points and contract.encoder.finds_object):
        raise ConfigurationError(
            f"{bundle.directory}: its encoder gives a latent vector instead of points, which cannot be adapted; train "
            "it with recorded images in the randomisation instead"
        )
    if contract.trust is not None:
        raise ConfigurationError(
            f"{bundle.directory}: its domain-shift score is trust.onnx, which cannot be fitted to recorded images yet; "
            "adapt the bundle before `rlfp export --trust` adds it"
        )


def _material(
    bundle: Bundle,
    dataset: Dataset,
    training: AdaptationTraining,
    arm_name: str | None,
    extrinsics: str,
    console: Console,
) -> AdaptationMaterial:
    arm = choose_arm(bundle, arm_name)
    recorded, held_out = recorded_images(dataset, bundle, arm, extrinsics)
    console.print(f"{len(recorded.images)} recorded images to learn from, {len(held_out.images)} to measure")
    measured = max(1, training.images // HELD_OUT_SHARE)
    rendered = rendered_images(bundle.contract, arm, training.images + measured)
    console.print(f"{training.images} images of training rendered to learn from, {measured} to measure")
    return AdaptationMaterial(
        camera=bundle.contract.camera,
        file=bundle.file("encoder.onnx").read_bytes(),
        recorded=recorded,
        held_out=held_out,
        rendered=rendered.part(slice(0, training.images)),
        rendered_held_out=rendered.part(slice(training.images, None)),
    )


def _adapted_contract(contract: Contract, fitted: FittedNovelty, facts: dict[str, JsonValue]) -> Contract:
    """Return the contract of the adapted bundle: its success rates are not known yet."""
    provenance = contract.provenance | {"adaptation": facts}
    if facts["updates"] or facts["method"] != "refit":
        provenance["int8"] = "none: an adapted encoder is written in float"
    return contract.model_copy(
        update={"feature_statistics": fitted.statistics, "provenance": provenance, "evaluation": ()}
    )


def _table(before: AdaptationScore, after: AdaptationScore) -> Table:
    table = Table(title="held-out images", title_justify="left")
    for name in ("", "before", "after"):
        table.add_column(name)
    rows = (
        ("recorded: arm's points, px", "reprojection_px", "{:.2f}"),
        ("recorded: median domain shift", "shift", "{:.2f}"),
        ("recorded: share that holds the arm", "held", "{:.0%}"),
        ("training: keypoints, px", "training_px", "{:.2f}"),
        ("training: object, m", "training_m", "{:.4f}"),
        ("altered images told from usual ones, AUROC", "detection", "{:.3f}"),
    )
    for label, name, text in rows:
        table.add_row(label, *(text.format(getattr(each, name)) for each in (before, after)))
    return table
