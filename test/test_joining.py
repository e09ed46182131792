"""Tests of the benchmark of participants that join and leave."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from benchmarks import joining
from rlfp_ros.schema import ConfigurationError


@pytest.mark.graph
def test_a_process_that_does_not_start_is_reported_and_none_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def remember(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(joining, "LISTENER", "raise SystemExit(1)")
    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(ConfigurationError, match="ended before it said anything"):
        joining.measure("local", "graph", "graph", joins=1)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
