"""docs/explanation/safety.md says what the code does: its tables are those that the code gives."""

from __future__ import annotations

from benchmarks import safety_document
from rlfp_ros.control.safety.supervisor import Reason


def test_parameters_and_reasons_are_those_of_the_code() -> None:
    document = safety_document.DOCUMENT.read_text(encoding="utf-8")
    assert safety_document.rendered(document) == document, "run benchmarks/safety_document.py"


def test_every_reason_is_explained() -> None:
    assert set(safety_document.REASONS) == set(Reason)


def test_measurements_are_in() -> None:
    document = safety_document.DOCUMENT.read_text(encoding="utf-8")
    assert "`estop`: true on safety/estop" in document
    assert "A tick of the whole controller" in document
