"""Tests of the pages about safety: every reason is explained, and figures come from measurements."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import safety_parts

from benchmarks import fault_matrix
from rlfp_ros.control.safety.verdict import Reason


def test_every_reason_is_explained() -> None:
    assert set(safety_parts.REASONS) == set(Reason)
    for reason in Reason:
        assert f"| `{reason.value}` |" in safety_parts.reason_codes()


def test_every_fault_has_a_measured_row_with_a_date_and_a_command() -> None:
    documents = [safety_parts.measured(file.name) for file in safety_parts.MEASURED.glob("fault_matrix*.json")]
    for document in documents:
        assert document["date"]
        assert document["version"]
        assert document["command"].startswith("benchmarks/fault_matrix.py")
    for name in fault_matrix.FAULTS:
        rows = [document["stops"][name] for document in documents if name in document["stops"]]
        assert any(row["n"] >= 1 and row["p50_ms"] > 0.0 for row in rows), name


def test_hostile_runs_of_three_arms_are_kept_and_have_no_violation() -> None:
    documents = [safety_parts.measured(file.name) for file in safety_parts.MEASURED.glob("safety*.json")]
    arms = {name: row for document in documents for name, row in document["adversarial"].items()}
    assert set(arms) >= {"panda", "iiwa", "xarm6"}
    for document in documents:
        assert document["tick_us"]["p50"] > document["filter_us"]["p50"] > 0.0
        for row in document["adversarial"].values():
            assert row["ticks"] >= 100_000
            assert (row["violations"], row["nonfinite"]) == (0, 0)
