"""Splits the suite between two processes, so that both cores work and no test with real-time limits is disturbed.

The first process runs all tests that may have such limits, one after the other. The second runs the files in `APART` at
idle priority: it gets only what the first leaves. When the first has finished its own files it helps with those.
`./rlfp test` without further words starts pytest with `-n 2` (pytest-xdist); this module is its scheduler.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pytest

# Files whose tests only compute: none starts a graph or waits for a clock. Longest first, so that both end together.
APART = (
    "test_pages.py",
    "test_learning.py",
    "test_reinforcement.py",
    "test_student.py",
    "test_compiled.py",
    "test_export.py",
    "test_adaptation.py",
    "test_adaptable_encoder.py",
    "test_worker_processes.py",
    "test_resumed_trainings.py",
    "test_algorithms.py",
    "test_arm_check.py",
    "test_world.py",
    "test_recipe.py",
    "test_arms.py",
    "test_training_command.py",
    "test_unusual_urdf.py",
    "test_docs.py",
    "test_cell.py",
    "test_lerobot_export.py",
    "test_lerobot_import.py",
    "test_lerobot_video.py",
    "test_int8.py",
    "test_representation_benchmark.py",
    "test_representation_training.py",
    "test_guided.py",
    "test_dataset.py",
    "test_own_task.py",
    "test_novelty.py",
    "test_algorithms_benchmark.py",
    "test_prose.py",
    "test_calibration.py",
    "test_preview.py",
    "test_algorithm_training.py",
)
TIMEOUT_S = 600  # of a test at idle priority, unless it has a limit of its own


def configure(config: pytest.Config, apart: Sequence[str] = APART) -> None:
    """Register what this process needs: `pytest_configure` of a conftest.py calls it."""
    lane = getattr(config, "workerinput", {}).get("lane")
    if lane == "apart":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first test imports a library that reads it
        config.pluginmanager.register(_Apart(), "lane apart")
    elif lane is None and config.getoption("numprocesses", None):
        config.pluginmanager.register(_Lanes(apart), "lanes")


class _Apart:
    """Gives the tests of a process at idle priority more time."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))


class _Lanes:
    """Assigns lanes to pytest-xdist's processes ("nodes"). If the first one dies, another takes its lane."""

    def __init__(self, apart: Sequence[str]) -> None:
        self._apart = apart
        self._first: Any = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if self._first is None:
            self._first = node
        node.workerinput["lane"] = "first" if node is self._first else "apart"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if node is self._first:
            self._first = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        return make_scheduler(config, log, self._apart, lambda node: node is self._first)


def make_scheduler(config: pytest.Config, log: Any, apart: Sequence[str], is_first: Callable[[Any], bool]) -> Any:
    """Return pytest-xdist's scheduler that gives a process whole files of its lane."""
    from xdist.scheduler import LoadScopeScheduling

    class LaneScheduling(LoadScopeScheduling):  # type: ignore[misc]  # untyped
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.split("::", 1)[0]

        def _assign_work_unit(self, node: Any) -> None:
            ranks = {file: apart.index(name) for file in self.workqueue if (name := PurePosixPath(file).name) in apart}
            own = [file for file in self.workqueue if file not in ranks] if is_first(node) else []
            if not own and not ranks:
                node.shutdown()  # what is left belongs to the first process
                return
            self.workqueue.move_to_end(own[0] if own else min(ranks, key=ranks.__getitem__), last=False)
            super()._assign_work_unit(node)
            if self._pending_of(self.assigned_work[node]) < 2:
                self._reschedule(node)  # a process begins a test once it knows the next one

        def remove_node(self, node: Any) -> str | None:
            """Forget a process. If it died, return the test that it ran; what it had not begun waits for others."""
            units = self.assigned_work.pop(node)
            waiting = [(unit, test) for unit in units.values() for test, completed in unit.items() if not completed]
            if not waiting:
                return None
            unit, died = waiting[0]
            unit[died] = True  # pytest-xdist itself would run it again
            self.workqueue.update({file: unit for file, unit in units.items() if not all(unit.values())})
            for other in self.assigned_work:
                self._reschedule(other)
            return died

    return LaneScheduling(config, log)
