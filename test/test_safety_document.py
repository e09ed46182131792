"""docs/explanation/safety.md says what the code does: its tables are those that the code gives."""

from __future__ import annotations

import re

from benchmarks import fault_matrix, safety_document
from rlfp_ros.control.safety.supervisor import Reason


def test_parameters_and_reasons_are_those_of_the_code() -> None:
    document = safety_document.DOCUMENT.read_text(encoding="utf-8")
    assert safety_document.rendered(document) == document, "run benchmarks/safety_document.py"


def test_every_reason_is_explained() -> None:
    assert set(safety_document.REASONS) == set(Reason)


def test_every_fault_has_a_measured_row_and_the_filter_has_its_figures() -> None:
    document = safety_document.DOCUMENT.read_text(encoding="utf-8")
    for name, fault in fault_matrix.FAULTS.items():
        (row,) = [line for line in document.splitlines() if line.startswith(f"| `{name}`: {fault.description} |")]
        times, p50 = row.split("|")[2:4]
        assert int(times) >= 1
        assert float(p50) > 0.0
    for what in ("A tick of the whole controller", "The filter in it"):
        assert re.search(rf"{what}: p50 \d+ us, p99 \d+ us", document)
    assert len(re.findall(r"Hostile inputs on \w+: [\d,]+ ticks, 0 violations", document)) >= 3
