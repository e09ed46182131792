"""Labels that a person gives to a bag: success, failure or discard, with a note and the person's name.

They are entries of `custom_data` in metadata.yaml. While a bag is being written, each label is also a metadata record
of its MCAP file, so that a recorder that is killed loses none.
"""

from __future__ import annotations

import contextlib
import enum
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mcap.reader import SeekingReader
from mcap.records import Metadata
from mcap.stream_reader import StreamReader
from pydantic import Field, field_validator

from rlfp_ros import schema
from rlfp_ros.files import unwritable
from rlfp_ros.recording import metadata
from rlfp_ros.recording.storage import DAMAGE
from rlfp_ros.schema import Schema

RECORD_NAME = "rlfp_ros.label"  # of the MCAP metadata record
MAX_NOTE, MAX_OPERATOR = 400, 60  # characters
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, halves of characters, line breaks
KEYS = ("label", "note", "operator")


class Label(enum.StrEnum):
    """A person's judgement of a recording."""

    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"  # not to be used


class BagLabel(Schema):
    """What a person says about a bag."""

    label: Label
    note: str = Field(default="", max_length=MAX_NOTE)
    operator: str = Field(default="", max_length=MAX_OPERATOR)

    @field_validator("note", "operator")
    @classmethod
    def _is_printable(cls, text: str) -> str:
        if any(unicodedata.category(character) in UNPRINTABLE for character in text):
            raise ValueError("has a control character or a line break, expected one line of text")
        return text

    def custom(self) -> dict[str, str]:
        """Return the entries of `custom_data`."""
        return {"label": self.label.value, "note": self.note, "operator": self.operator}

    def __str__(self) -> str:
        """Return the label in words."""
        note = f": {self.note}" if self.note else ""
        return f"{self.label.value}{f' by {self.operator}' if self.operator else ''}{note}"


def label_in(custom: Mapping[str, str], source: str) -> BagLabel | None:
    """Return the label in a bag's `custom_data`; None if it was never labelled.

    Raises
    ------
    ConfigurationError
        If the entries are not a label. `source` names the bag.
    """
    found = {key: custom[key] for key in KEYS if key in custom}
    return schema.validate(found, BagLabel, source=source) if "label" in found else None


def read_label(bag: Path) -> BagLabel | None:
    """Return the label of a bag, a folder or one MCAP file; None if it was never labelled.

    Raises
    ------
    ConfigurationError
        If the label cannot be understood.
    """
    folder = bag if bag.is_dir() else bag.parent
    listed = metadata.listed_files(folder)
    if listed is not None and (bag.is_dir() or bag.name in listed):
        return label_in(metadata.custom_data(folder), str(folder / metadata.FILE_NAME))
    files = sorted(bag.glob("*.mcap")) if bag.is_dir() else [bag] if bag.suffix == ".mcap" else []
    for file in reversed(files):
        custom = newest_record(file)
        if custom:
            return label_in(custom, str(file))
    return None


def newest_record(file: Path) -> dict[str, str]:
    """Return the newest label's entries in an MCAP file, whole or cut short; empty if it has none."""
    newest: dict[str, str] = {}
    with contextlib.suppress(*DAMAGE), file.open("rb") as stream:
        try:
            records: Iterable[object] = list(SeekingReader(stream).iter_metadata())
        except DAMAGE:  # it was cut short
            stream.seek(0)
            records = StreamReader(stream, emit_chunks=True).records
        for record in records:
            if isinstance(record, Metadata) and record.name == RECORD_NAME:
                newest = dict(record.metadata)
    return newest


def label_closed_bag(folder: Path, label: BagLabel) -> None:
    """Write a label into the metadata.yaml of a bag that is closed; one that it had is replaced.

    Raises
    ------
    ConfigurationError
        If the folder is no bag, or its disk is full; then nothing has changed.
    """
    try:
        metadata.add_custom_data(folder, label.custom())
    except OSError as error:
        raise unwritable(folder / metadata.FILE_NAME, error, "label the bag again") from None


def count_labels(labels: Iterable[str]) -> str:
    """Count labels in words, for example `3 success, 1 failure, 2 without a label`."""
    counts = Counter(labels)
    words = [f"{counts[label]} {label}" for label in Label if counts[label]]
    without = counts.total() - sum(counts[label] for label in Label)
    return ", ".join([*words, f"{without} without a label"] if without else words)
