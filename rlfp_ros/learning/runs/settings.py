"""TrainingSettings of trainings: data with bounds, checked whenever they are made or changed."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from rlfp_ros.schema import Schema, validate

LARGEST = 1e9  # of any setting of a training: steps, weights, rates, sizes of memories


class TrainingSettings(Schema):
    """Base of the settings of every algorithm and training stage. Numbers are finite, unknown names are refused."""

    @model_validator(mode="after")
    def _can_be_computed(self) -> Self:
        for name, value in self:
            if isinstance(value, (int, float)) and abs(value) > LARGEST:
                raise ValueError(f"{name} is {value:g}, expected at most {LARGEST:g}; correct it")
        return self

    def changed(self, source: str = "settings", **values: Any) -> Self:
        """A copy with other values.

        Parameters
        ----------
        source
            Where the values come from, for messages.
        values
            By setting; text is converted to the setting's type.

        Raises
        ------
        ConfigurationError
            If a value has the wrong type or is out of bounds, or if there is no setting of that name.
        """
        return validate({**dict(self), **values}, type(self), source)
