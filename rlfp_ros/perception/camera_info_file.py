"""Reads the calibration file of a camera that `./rlfp calibrate intrinsics` and ROS's camera_calibration write."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rlfp_ros import schema
from rlfp_ros.control.workspace import CameraInfoFile, CellFile, is_cell
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.schema import ConfigurationError


def load_camera_info(path: str | Path) -> CameraInfoFile:
    """Load a camera's calibration file, or the calibration in the file of a cell.

    Raises
    ------
    ConfigurationError
        If there is no such file, or perception could not use its camera.
    """
    path = Path(path).expanduser()
    document = schema.read_yaml(path)
    if is_cell(document):
        loaded = schema.validate(document, CellFile, str(path)).camera.intrinsics
    else:
        loaded = schema.validate(document, CameraInfoFile, str(path))
    calibrated_camera(loaded, str(path))
    return loaded


def calibrated_camera(calibration: CameraInfoFile, source: str) -> CameraModel:
    """Return the camera that a calibration describes.

    Raises
    ------
    ConfigurationError
        If a matrix has another shape, or perception cannot use the camera; the message names `source`.
    """
    for name, rows, cols in (("camera_matrix", 3, 3), ("rectification_matrix", 3, 3), ("projection_matrix", 3, 4)):
        matrix = getattr(calibration, name)
        if (matrix.rows, matrix.cols) != (rows, cols):
            raise ConfigurationError(f"{source}: {name} is {matrix.rows} x {matrix.cols}, expected {rows} x {cols}")
    fields = SimpleNamespace(
        width=calibration.image_width,
        height=calibration.image_height,
        k=calibration.camera_matrix.data,
        d=calibration.distortion_coefficients.data,
        p=calibration.projection_matrix.data,
        distortion_model=calibration.distortion_model,
        binning_x=0,
        binning_y=0,
        roi=SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0),
        header=SimpleNamespace(frame_id="camera_optical_frame"),
    )
    try:
        return camera_model(fields, source)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).removeprefix("topic ")) from None
