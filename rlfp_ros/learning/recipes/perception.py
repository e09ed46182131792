"""The stages of a recipe that make a bundle's perception: the encoder, and its domain-shift score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue
from torch import nn

from rlfp_ros.contract import EncoderContract, FeatureStatistics
from rlfp_ros.files import RESUME, write_whole
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.encoders.encoder import Encoder, EncoderChoice
from rlfp_ros.learning.encoders.novelty import NoveltyTraining
from rlfp_ros.learning.export.build import encoder_contract
from rlfp_ros.learning.export.networks import deployed_encoder, export_encoder
from rlfp_ros.learning.recipes.domain_shift_reference import domain_shift_reference
from rlfp_ros.learning.recipes.frames import FrameSource
from rlfp_ros.learning.recipes.train_encoder import EncoderReport, EncoderTraining, train_encoder
from rlfp_ros.learning.runs.progress import TrainingProgress


@dataclass(frozen=True)
class FinishedPerception:
    """What a bundle contains for perception."""

    encoder: nn.Module  # as it is exported
    contract: EncoderContract
    feature_statistics: FeatureStatistics


def encoder_stage(
    source: FrameSource,
    training: EncoderTraining,
    choice: EncoderChoice,
    representation: str,
    run: Path,
    progress: TrainingProgress,
    threads: int,
) -> tuple[Encoder, EncoderReport]:
    """Train the encoder, or continue its training; write `run/encoder.onnx`, with which policies are trained."""
    progress.stage("encoder", training.updates, "rendering the first frames", "gradient steps")
    encoder, report = train_encoder(source, run, training, choice, progress.show, representation, threads=threads)
    pixels = "/".join(f"{error:.2f}" for error in report.keypoint_error_px)
    progress.show(training.updates, f"object {report.position_error_mm:.1f} mm, points {pixels} px")
    write_whole(run / "encoder.onnx", export_encoder(encoder, first_image(run)), RESUME)
    return encoder, report


def finish_perception(encoder: Encoder, cell: Cell, run: Path, seed: int, updates: int) -> FinishedPerception:
    """Add the domain-shift score to an encoder that was trained with the images of `run`, in `updates` steps."""
    novelty, statistics = domain_shift_reference(
        encoder,
        run / "frames",
        cell.camera,
        seed,
        NoveltyTraining(updates=min(NoveltyTraining.updates, updates)),
    )
    deployed = deployed_encoder(encoder, novelty)
    return FinishedPerception(deployed, encoder_contract(deployed, first_image(run)), statistics)


def first_image(run: Path) -> np.ndarray:
    """Return the first image of the encoder's training, uint8 [H, W, 3]."""
    images: np.ndarray = np.load(run / "frames" / "images.npy", mmap_mode="r")
    return images[0]


def as_provenance(report: EncoderReport) -> JsonValue:
    """Return an encoder's errors for a bundle's provenance."""
    return {
        "position_error_mm": round(report.position_error_mm, 2),
        "keypoint_error_px": [round(error, 3) for error in report.keypoint_error_px],
        "inside_nominal_90": round(report.inside_90, 3),
    }
