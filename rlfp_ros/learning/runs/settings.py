"""TrainingSettings of trainings: data with bounds, checked whenever they are made or changed."""

from __future__ import annotations

from typing import Any, Self

from rlfp_ros.schema import Schema, validate


class TrainingSettings(Schema):
    """Base of the settings of every algorithm and training stage. Numbers are finite, unknown names are refused."""

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
