"""Reads the calibration file of a camera that `./rlfp calibrate intrinsics` and ROS's camera_calibration write."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

from pydantic import Field, model_validator

from rlfp_ros import schema
from rlfp_ros.perception.camera import camera_model
from rlfp_ros.schema import ConfigurationError, Schema


class CalibrationMatrix(Schema):
    """A matrix in the file, row by row."""

    rows: int = Field(ge=1, le=100)
    cols: int = Field(ge=1, le=100)
    data: tuple[Annotated[float, Field(ge=-1e9, le=1e9)], ...]

    @model_validator(mode="after")
    def _is_complete(self) -> CalibrationMatrix:
        if len(self.data) != self.rows * self.cols:
            raise ValueError(f"data has {len(self.data)} values, expected rows x cols = {self.rows * self.cols}")
        return self


class CameraInfoFile(Schema):
    """The file, with the fields of a CameraInfo under the names of camera_calibration_parsers."""

    image_width: int = Field(ge=1, le=100_000)  # px
    image_height: int = Field(ge=1, le=100_000)  # px
    camera_name: str = ""
    camera_matrix: CalibrationMatrix  # K, 3 x 3, px
    distortion_model: str
    distortion_coefficients: CalibrationMatrix
    rectification_matrix: CalibrationMatrix  # 3 x 3
    projection_matrix: CalibrationMatrix  # P, 3 x 4, px


def load_camera_info(path: str | Path) -> CameraInfoFile:
    """Load a camera's calibration file.

    Raises
    ------
    ConfigurationError
        If there is no such file, or perception could not use its camera.
    """
    path = Path(path).expanduser()
    loaded = schema.load(path, CameraInfoFile)
    for name, rows, cols in (("camera_matrix", 3, 3), ("rectification_matrix", 3, 3), ("projection_matrix", 3, 4)):
        matrix = getattr(loaded, name)
        if (matrix.rows, matrix.cols) != (rows, cols):
            raise ConfigurationError(f"{path}: {name} is {matrix.rows} x {matrix.cols}, expected {rows} x {cols}")
    fields = SimpleNamespace(
        width=loaded.image_width,
        height=loaded.image_height,
        k=loaded.camera_matrix.data,
        d=loaded.distortion_coefficients.data,
        p=loaded.projection_matrix.data,
        distortion_model=loaded.distortion_model,
        binning_x=0,
        binning_y=0,
        roi=SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0),
        header=SimpleNamespace(frame_id=""),
    )
    try:
        camera_model(fields, str(path))
    except ConfigurationError as error:
        raise ConfigurationError(str(error).removeprefix("topic ")) from None
    return loaded
