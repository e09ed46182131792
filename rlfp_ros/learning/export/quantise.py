"""Quantises an encoder to int8, and keeps the result only if it is faster and as accurate.

It uses static quantisation with QDQ nodes (Jacob et al. 2018, https://arxiv.org/abs/1712.05877), per channel, of the
convolutions only: they take most of the time, and the spatial softmax after them needs subpixel accuracy.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.contract import onnx_session
from rlfp_ros.learning.recipes.frames import held_out_count

CALIBRATION_FRAMES = 200
TIMED_FRAMES = 400
FASTER = 0.95  # largest share of the float encoder's median time
WORSE = 1.01  # largest ratio to the float encoder's median errors


@dataclass(frozen=True)
class QuantisationVerdict:
    """Result of a trial."""

    file: bytes  # encoder.onnx, int8
    kept: bool
    text: str  # the figures


def int8_encoder(file: bytes, images: np.ndarray) -> bytes:
    """`encoder.onnx` with int8 convolutions, calibrated on `images` uint8 [N, H, W, 3]."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._left, None)
            return None if image is None else {"image": image[None]}

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, done = (Path(folder) / name for name in ("given.onnx", "prepared.onnx", "done.onnx"))
        given.write_bytes(file)
        quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(done),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
        )
        return done.read_bytes()


def trial(file: bytes, frames: Path) -> QuantisationVerdict | None:
    """Compare both on the labelled frames that the encoder was not trained on.

    Returns None if there are no frames, or if the encoder gives no points and object pose, for which there are labels.
    """
    outputs = {output.name: output.shape for output in onnx_session(file).get_outputs()}
    if not (frames / "images.npy").is_file() or len(outputs["features"]) != 3 or "object_pose" not in outputs:
        return None
    images = np.load(frames / "images.npy", mmap_mode="r")
    positions, keypoints = np.load(frames / "positions.npy"), np.load(frames / "keypoints.npy")
    held_out = slice(len(images) - held_out_count(len(images)), len(images))
    small = int8_encoder(file, images[:CALIBRATION_FRAMES])
    sessions = {"float": onnx_session(file), "int8": onnx_session(small)}
    figures = {}
    times = times_of(sessions, images[held_out])
    for name, session in sessions.items():
        errors, points = errors_of(session, images[held_out], positions[held_out], keypoints[held_out])
        figures[name] = (times[name], errors, points)
    (float_ms, float_mm, float_points), (int8_ms, int8_mm, int8_points) = figures["float"], figures["int8"]
    no_worse = int8_mm <= WORSE * float_mm and int8_points <= WORSE * float_points
    kept = int8_ms <= FASTER * float_ms and no_worse
    text = (
        f"{int8_ms:.2f} ms against {float_ms:.2f} ms, position {1e3 * int8_mm:.2f} mm against {1e3 * float_mm:.2f} mm, "
        f"points {1e3 * int8_points:.2f} mrad against {1e3 * float_points:.2f} mrad; "
        + ("kept" if kept else "not kept")
    )
    return QuantisationVerdict(small, kept, text)


def times_of(sessions: dict[str, Any], images: np.ndarray) -> dict[str, float]:
    """Measure the median processor time per image, ms, of both in turns, so that the machine's load affects both."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(TIMED_FRAMES):
        for name, session in sessions.items():
            image = images[number % len(images)][None]
            started = time.process_time()
            session.run(None, {"image": image})
            taken[name].append(time.process_time() - started)
    return {name: 1e3 * float(np.median(values)) for name, values in taken.items()}


def errors_of(session: Any, images: np.ndarray, positions: np.ndarray, keypoints: np.ndarray) -> tuple[float, float]:
    """Measure the median error of the object's position, m, and of the keypoints on the plane z = 1."""
    found = [session.run(("features", "object_pose"), {"image": image[None]}) for image in images]
    features, poses = (np.concatenate(part) for part in zip(*found, strict=True))
    misplaced = np.linalg.norm(features[:, : keypoints.shape[1], :2] - keypoints, axis=-1)
    return float(np.median(np.linalg.norm(poses[:, :3] - positions, axis=-1))), float(np.median(misplaced))
