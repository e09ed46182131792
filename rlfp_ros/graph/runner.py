"""Runs a resolved graph as child processes, and ends all of them.

    with Runner(resolve(SIM, {"task": "reach", "episodes": 5})) as runner:
        code = runner.wait()

It uses no process library: honcho restarts nothing and loses exit codes; circus needs ZeroMQ endpoints, reports no exit
code and cannot end all processes at the regular end of one; neither ties a child's life to its parent's. With the
standard library and psutil, little remains to do: a policy for exits, an escalation, and whole lines of output.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

import psutil
import yaml

from rlfp_ros.control import compiled
from rlfp_ros.graph.description import NodeProcess, OnExit, Resolved
from rlfp_ros.graph.domains import graph_lock
from rlfp_ros.graph.environment_check import check_environment
from rlfp_ros.graph.node_process import child_environment, die_with_parent, ignores_interrupt, node_command
from rlfp_ros.schema import ConfigurationError

# SIGINT at once, then stronger signals. Every child ends within 3 s of the first one, also on a loaded machine.
SIGTERM_AFTER_S = 1.5
SIGKILL_AFTER_S = 2.3
# A terminal, a parent and `timeout` may each forward one Ctrl-C: signals this close together count as one.
SAME_SIGNAL_S = 1.0
CONFIGURATION_EXIT_CODE = 2  # of a node with a wrong configuration, which a restart does not correct
TAIL_LINES = 12  # last lines of a node that died, shown at the end of the run
COLOURS = (36, 33, 35, 32, 34, 31)  # ANSI, one for each node

Command = Callable[[NodeProcess, Path], list[str]]


@dataclass
class _Child:
    """A node and its current process. Used only by the supervisor thread, except `tail`."""

    spec: NodeProcess
    colour: int
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started: float = 0.0
    attempts: int = 0  # restarts in a row
    restart_at: float | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=200))


class Runner:
    """Starts the processes of a graph, watches them, and ends them all.

    The run ends when a node whose `on_exit` is FINISH exits with 0 (exit code 0), when a node that the graph needs dies
    (its exit code, 128 + signal if a signal ended it), on SIGINT, SIGTERM and SIGHUP (128 + signal), or by `stop()`.
    A child outlives its runner in no case, SIGKILL included (Linux: PR_SET_PDEATHSIG).

    Args:
        resolved: what to run.
        console: "all" copies every node's output to `stream`, each line with its node's name; "quiet" shows only why a
            run failed.
        log_file: also gets every line, with the time since the start in seconds.
        on_line: called with (node name, line) for every line of output, from reader threads, one call at a time.
        handle_signals: take SIGINT, SIGTERM and SIGHUP while running; possible in the main thread only.
        command: makes a node's command line (tests run scripts instead of nodes).
        stream: where lines go; standard error by default. Colours only if it is a terminal and NO_COLOR is not set.
    """

    def __init__(
        self,
        resolved: Resolved,
        *,
        console: Literal["all", "quiet"] = "all",
        log_file: Path | None = None,
        on_line: Callable[[str, str], None] | None = None,
        handle_signals: bool = True,
        command: Command = node_command,
        stream: IO[str] | None = None,
    ) -> None:
        if resolved.included:
            driver = resolved.included[0]
            words = " ".join(f"{name}:={value}" for name, value in driver.arguments.items())
            raise ConfigurationError(
                f"robot_ip starts {driver.package}, which only `ros2 launch rlfp_ros {resolved.graph.name}.launch.py` "
                "can; use that, or leave robot_ip empty and start the driver yourself: "
                f"ros2 launch {driver.package} {driver.launch_file} {words}"
            )
        self._resolved = resolved
        self._children = [_Child(spec, COLOURS[i % len(COLOURS)]) for i, spec in enumerate(resolved.processes)]
        self._console = console
        self._log_path = log_file
        self._log: IO[str] | None = None
        self._on_line = on_line
        self._handle_signals = handle_signals and threading.current_thread() is threading.main_thread()
        self._command = command
        self._stream = stream if stream is not None else sys.stderr
        self._coloured = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._width = max((len(child.spec.name) for child in self._children), default=0)
        self._write_lock = threading.Lock()
        # SimpleQueue: put() may be called from a signal handler.
        self._events: queue.SimpleQueue[tuple[str, Any, int]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._exit_code: int | None = None
        self._thread: threading.Thread | None = None
        self._resources = contextlib.ExitStack()
        self._began = 0.0
        self._signals = 0  # number of signals from the user, without repetitions
        self._signalled_at = -SAME_SIGNAL_S
        self._failed: _Child | None = None  # the node that ended the run
        self.failure: str | None = None  # one sentence, if the run failed
        self.restarts: dict[str, int] = {}

    # --- what the caller uses ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ConfigurationError if the environment keeps nodes from starting or from hearing each other."""
        transport = str(self._resolved.arguments.get("transport", "lan"))
        for child in self._children[:1]:  # the variables that are checked are the same for all
            check_environment(child_environment(child.spec.environment), transport)

    def __enter__(self) -> Runner:
        """Start everything.

        Raises ConfigurationError if another graph of ours runs in the same domain, or if the environment keeps nodes
        from starting or from hearing each other.
        """
        self.check()
        if any(child.spec.name == "residual_controller" for child in self._children):
            compiled.prepare_cache()
        self._began = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(graph_lock(self._resolved))
            self._parameters = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlfp_ros-")))
            if self._log_path is not None:
                self._log_path.parent.mkdir(parents=True, exist_ok=True)
                self._log = stack.enter_context(open(self._log_path, "w", encoding="utf-8"))
            if self._handle_signals:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    stack.callback(signal.signal, number, signal.signal(number, self._on_signal))
            self._resources = stack.pop_all()
        # All children are started by this one thread, which lives until they are gone: PR_SET_PDEATHSIG counts the
        # *thread* that forked as the parent.
        self._thread = threading.Thread(target=self._supervise, name="runner", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._resources.close()

    def wait(self, timeout: float | None = None) -> int:
        """Block until the run and every child have ended; return the exit code. Raises TimeoutError."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"the graph still runs after {timeout} s")
        assert self._exit_code is not None
        return self._exit_code

    def poll(self) -> int | None:
        """Return the exit code, or None while the graph runs."""
        return self._exit_code if self._ended.is_set() else None

    def stop(self, code: int = 0) -> int:
        """End every child and wait for it. Returns the run's exit code: `code`, unless it had ended before."""
        if not self._ended.is_set():
            self._events.put(("stop", None, code))
        return self.wait()

    def pids(self) -> dict[str, int]:
        """The process id of every node that runs now."""
        running = {child.spec.name: child.process for child in self._children}
        return {name: process.pid for name, process in running.items() if process and process.returncode is None}

    def tail(self, name: str) -> list[str]:
        """Return the last lines of a node's output, at most 200."""
        return [line for child in self._children if child.spec.name == name for line in list(child.tail)]

    # --- the supervisor thread ---------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        code = 1
        try:
            for child in self._children:
                self._start(child)
            code = self._watch()
        except BaseException as error:  # after any error the children must end, and the caller must not hang
            self.failure = f"the runner failed: {type(error).__name__}: {error}"
        finally:
            try:
                self._end_all()
                if self.failure:
                    self._report()
            finally:
                self._exit_code = code
                self._ended.set()

    def _watch(self) -> int:
        """Handle events until the run ends; return its exit code."""
        while True:
            due = [child.restart_at for child in self._children if child.restart_at is not None]
            try:
                kind, child, code = self._events.get(timeout=max(0.0, min(due) - time.monotonic()) if due else None)
            except queue.Empty:
                for waiting in self._children:
                    if waiting.restart_at is not None and waiting.restart_at <= time.monotonic():
                        waiting.restart_at = None
                        self._start(waiting)
                continue
            if kind == "stop":
                return code
            end = self._exited(child, code)
            if end is not None:
                return end

    def _exited(self, child: _Child, code: int) -> int | None:
        """Return the run's exit code after the end of a node, or None to continue."""
        spec = child.spec
        self._finish(child)
        if code == 0 and spec.on_exit is OnExit.FINISH:
            return 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGBUS:
            how += " (a full /dev/shm does that: df -h /dev/shm)"
        if spec.respawn and code != CONFIGURATION_EXIT_CODE:
            if time.monotonic() - child.started >= spec.respawn.healthy_s:
                child.attempts = 0
            child.attempts += 1
            if child.attempts <= spec.respawn.attempts:
                delay = spec.respawn.delay(child.attempts)
                child.restart_at = time.monotonic() + delay
                self.restarts[spec.name] = self.restarts.get(spec.name, 0) + 1
                self._print_line(
                    f"{spec.name} {how}; restart {child.attempts} of {spec.respawn.attempts} in {delay:g} s"
                )
                return None
        if spec.on_exit is OnExit.CONTINUE:
            self._print_line(f"{spec.name} {how}; the graph continues without it")
            return None
        self.failure = f"{spec.name} {how}, and the graph cannot continue without it"
        self._failed = child
        return 128 - code if code < 0 else code or 1

    def _start(self, child: _Child) -> None:
        parameter_file = self._parameters / f"{child.spec.name}.yaml"
        # `/**` matches any name and namespace of the node. An empty list has no type in a ROS parameter file.
        parameters = {name: value for name, value in child.spec.parameters.items() if value not in ([], ())}
        document = {"/**": {"ros__parameters": parameters}} if parameters else {}
        parameter_file.write_text(yaml.safe_dump(document), encoding="utf-8")
        command = self._command(child.spec, parameter_file)
        child.started = time.monotonic()
        try:
            # Each child has its own session, so that a terminal's Ctrl-C reaches only the runner, which forwards it
            # once.
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=child_environment(child.spec.environment),
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )
        except OSError as error:
            raise ConfigurationError(f"{child.spec.name}: cannot be started ({error})") from None
        child.reader = threading.Thread(target=self._read, args=(child, child.process), daemon=True)
        child.reader.start()
        threading.Thread(target=self._await_exit, args=(child, child.process), daemon=True).start()

    def _await_exit(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        self._events.put(("exited", child, process.wait()))

    def _finish(self, child: _Child) -> None:
        """After a node's process has ended, end the processes that it started and read its last lines."""
        assert child.process
        assert child.reader
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.reader.join(timeout=0.3)
        child.process = None

    def _end_all(self) -> None:
        """Send SIGINT, SIGTERM and SIGKILL to the remaining children; then end the processes that they started."""
        alive = [child for child in self._children if child.process]
        offspring: list[psutil.Process] = []
        for child in alive:
            assert child.process
            with contextlib.suppress(psutil.Error):
                offspring += psutil.Process(child.process.pid).children(recursive=True)
        started = time.monotonic()
        steps = [(0.0, signal.SIGINT), (SIGTERM_AFTER_S, signal.SIGTERM), (SIGKILL_AFTER_S, signal.SIGKILL)]
        sent: list[str] = []
        while alive:
            if steps and time.monotonic() - started >= steps[0][0]:
                _, number = steps.pop(0)
                for child in alive:
                    self._send(child, number, sent)
                sent.append(number.name)
            try:
                remaining = started + steps[0][0] - time.monotonic() if steps else None
                kind, child, _ = self._events.get(timeout=None if remaining is None else max(0.0, remaining))
            except queue.Empty:
                continue
            if kind == "exited":
                self._finish(child)
                alive.remove(child)
            elif self._signals > 1:  # after the user's second Ctrl-C, do not wait any longer
                steps = [step for step in steps if step[1] is signal.SIGKILL]
                steps = [(0.0, number) for _, number in steps]
        for process in offspring:  # those in sessions of their own
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _send(self, child: _Child, number: signal.Signals, sent: list[str]) -> None:
        assert child.process
        if number is signal.SIGKILL:
            self._print_line(f"{child.spec.name} did not end after {' and '.join(sent)} and was killed")
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
        if number is signal.SIGINT and ignores_interrupt(child.process.pid):  # it is still starting
            number = signal.SIGTERM
        child.process.send_signal(number)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._signalled_at < SAME_SIGNAL_S:
            return
        self._signalled_at = now
        self._signals += 1
        self._events.put(("stop", None, 128 + number))

    # --- output ------------------------------------------------------------------------------------------------------

    def _read(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout as output:
            for raw in output:  # whole lines: two nodes never share one
                line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
                child.tail.append(line)
                self._write(child.spec.name, line, child.colour)

    def _write(self, name: str, line: str, colour: int = 1, always: bool = False) -> None:
        with self._write_lock:
            if self._log is not None and not self._log.closed:
                self._log.write(f"{time.monotonic() - self._began:9.3f} {name:<{self._width}} | {line}\n")
                self._log.flush()
            if self._console == "all" or always:
                prefix = f"{name:<{self._width}} |"
                if self._coloured:
                    prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
                with contextlib.suppress(OSError, ValueError):  # a closed terminal must not stop the supervision
                    self._stream.write(f"{prefix} {line}\n")
                    self._stream.flush()
            if self._on_line is not None:
                self._on_line(name, line)

    def _print_line(self, text: str, always: bool = False) -> None:
        self._write("rlfp", text, always=always)

    def _report(self) -> None:
        child = self._failed
        self._print_line(self.failure or "", always=True)
        if child is not None and child.tail:
            self._print_line(f"the last lines of {child.spec.name}:", always=True)
            for line in list(child.tail)[-TAIL_LINES:]:
                self._print_line(f"  {line}", always=True)
