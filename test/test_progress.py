"""Tests of what a training shows and records: the table, the lines, the rows, and the time over all sessions."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("torch")

from rlfp_ros.learning.runs.history import FILE, read_history
from rlfp_ros.learning.runs.progress import TrainingProgress


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def drawn(progress: TrainingProgress, width: int = 100) -> list[str]:
    """The table's lines."""
    console = Console(file=io.StringIO(), width=width)
    console.print(progress.table())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def cells(line: str) -> list[str]:
    """The words of a row without its bar."""
    return [word for word in line.split() if set(word) - set("━╸╺")]


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_per_stage_with_speed_success_and_time_left(clock: Clock) -> None:
    with TrainingProgress(quiet()) as progress:
        progress.stage("expert", 1000, "random actions")
        progress.show(100, "success 0.10", success_rate=0.1)
        clock.now += 10
        progress.show(600, "success 0.75, critic loss 0.1", success_rate=0.75, critic_loss=0.1)
        heading, row, text = drawn(progress)
        assert heading.split() == ["stage", "done", "per", "second", "last", "100", "elapsed", "left"]
        assert cells(row) == ["expert", "600/1000", "50", "75%", "0:10", "0:08"]
        assert text == "expert: success 0.75, critic loss 0.1"
        progress.stage("encoder", 5, "rendering")
        clock.now += 3700
        progress.show(1, "loss 3", loss=3.0)
        _, first, second, text = drawn(progress)
        assert cells(first) == ["expert", "1000/1000", "50", "75%", "0:10", "done"]
        assert cells(second) == ["encoder", "1/5", "-", "1:01:40", "-"]
        assert text == "encoder: loss 3"


def test_a_jump_to_the_end_of_a_stage_does_not_count_as_speed(clock: Clock) -> None:
    with TrainingProgress(quiet()) as progress:
        progress.stage("expert", 100_000, "random actions")
        progress.show(400, "", success_rate=0.5)
        clock.now += 2
        progress.show(800, "", success_rate=1.0)
        clock.now += 1
        progress.show(100_000, "success 1.00 after 800 decisions")
        assert cells(drawn(progress)[1]) == ["expert", "100000/100000", "200", "100%", "0:03", "0:00"]


def test_the_speed_is_that_of_the_last_minute(clock: Clock) -> None:
    with TrainingProgress(quiet()) as progress:
        progress.stage("student", 100_000, "")
        for number in range(20):  # 100 per second
            progress.show(1000 * number, "", loss=1.0)
            clock.now += 10
        for number in range(20):  # 10 per second
            progress.show(20_000 + 100 * number, "", loss=1.0)
            clock.now += 10
        assert cells(drawn(progress)[1])[2] == "10"


def test_a_narrow_terminal_has_the_table_without_bars(clock: Clock) -> None:
    for width, bars in ((100, True), (60, False)):
        with TrainingProgress(Console(file=io.StringIO(), width=width)) as progress:
            progress.stage("expert", 1000, "random actions")
            progress.show(500, "half", success_rate=0.5)
            lines = drawn(progress, width)
            assert ("━" in lines[1]) == bars
            assert max(map(len, lines)) <= width


def test_a_terminal_keeps_the_table_of_all_stages(clock: Clock) -> None:
    file = io.StringIO()
    with TrainingProgress(Console(file=file, force_terminal=True, width=100)) as progress:
        for name in ("expert", "encoder"):
            progress.stage(name, 10, "")
            progress.show(10, "end", success_rate=0.9)
    last = file.getvalue().rpartition("stage")[2]
    assert "expert" in last
    assert "encoder" in last
    assert last.count("done") == 3  # the heading of a column, and both stages


def test_without_a_terminal_there_is_a_line_every_15_seconds_with_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainingProgress(quiet()) as progress:
        progress.stage("expert", 1000, "random actions")
        for number in range(5):
            progress.show(100 * number, f"report {number}", loss=1.0)
            clock.now += 10
        progress.show(1000, "the end")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "expert   0/1000  0 s  report 0",
        "expert   200/1000  20 s, 10/s, 80 s left  report 2",
        "expert   400/1000  40 s, 10/s, 60 s left  report 4",
        "expert   1000/1000  50 s, 10/s, 0 s left  the end",
    ]


# --- the rows --------------------------------------------------------------------------------------------------------


def test_what_a_resumed_training_repeats_replaces_what_was_lost(clock: Clock, tmp_path: Path) -> None:
    first = TrainingProgress(quiet(), tmp_path)
    first.__enter__()
    first.stage("expert", 400, "")
    for done in (100, 200, 300):
        clock.now += 10
        first.show(done, "", loss=float(done))
    with (tmp_path / FILE).open("ab") as stream:  # killed while it wrote
        stream.write(b'{"session": 0, "stage": "exp')
    clock.now += 5000
    with TrainingProgress(quiet(), tmp_path) as again:  # from a checkpoint at 100
        again.stage("expert", 400, "")
        for done in (200, 300, 400):
            clock.now += 10
            again.show(done, "", loss=-float(done))
    rows = read_history(tmp_path)
    assert [(row.session, row.done, row.figures["loss"]) for row in rows] == [
        (0, 100, 100.0),
        (1, 200, -200.0),
        (1, 300, -300.0),
        (1, 400, -400.0),
    ]
    assert [row.seconds for row in rows] == [10, 40, 50, 60]  # not the time between the sessions


def test_stages_of_earlier_sessions_are_shown_as_they_ended(clock: Clock, tmp_path: Path) -> None:
    with TrainingProgress(quiet(), tmp_path) as progress:
        progress.stage("expert", 400, "")
        clock.now += 60
        progress.show(400, "", success_rate=0.97)
        progress.stage("student", 100, "")
        clock.now += 20
        progress.show(50, "", success_rate=0.2)
    with TrainingProgress(quiet(), tmp_path) as again:
        again.stage("expert", 400, "random actions")
        again.stage("student", 100, "the expert plays")
        assert cells(drawn(again)[1]) == ["expert", "400/400", "-", "97%", "1:00", "done"]
        assert cells(drawn(again)[2]) == ["student", "50/100", "-", "20%", "0:20", "-"]
        clock.now += 30
        assert again.seconds == pytest.approx(110)


@pytest.mark.parametrize("before", [0.0, 40.0])
def test_time_counts_although_a_session_was_killed(before: float, clock: Clock, tmp_path: Path) -> None:
    if before:
        with TrainingProgress(quiet(), tmp_path):
            clock.now += before
    killed = TrainingProgress(quiet(), tmp_path)
    killed.__enter__()
    killed.stage("expert", 400, "")
    clock.now += 60
    killed.show(100, "", loss=1.0)
    clock.now += 1000
    with TrainingProgress(quiet(), tmp_path) as again:
        clock.now += 5
    clock.now += 100
    assert again.seconds == pytest.approx(before + 65)
    assert float((tmp_path / "seconds.txt").read_text()) == pytest.approx(before + 65)


@pytest.mark.parametrize(
    "line", ["", "nonsense", "[1]", "{}", json.dumps({"session": 0, "stage": 1, "done": 1, "total": 2, "seconds": 0})]
)
def test_damaged_rows_are_left_out(line: str, tmp_path: Path) -> None:
    good = {"session": 0, "stage": "expert", "done": 1, "total": 2, "seconds": 3.0, "figures": {"loss": 1.0}}
    bad = dict(good, figures={"loss": "high"})
    (tmp_path / FILE).write_text("\n".join([json.dumps(good), line, json.dumps(bad)]))
    assert [row.done for row in read_history(tmp_path)] == [1]
