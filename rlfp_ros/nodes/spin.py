"""The main function of every node: start ROS, construct the node, spin, end cleanly.

Exit codes: 0 for SIGINT, SIGTERM and Finished(); 2 for an error that the user can correct (one line on stderr);
1 if the node failed during construction.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, ShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from rlfp_ros.nodes.diagnostics import name_exception
from rlfp_ros.nodes.executor import NodeExecutor
from rlfp_ros.schema import ConfigurationError

OK, FAILED, MISCONFIGURED = 0, 1, 2
REALTIME = "RLFP_REALTIME"  # environment variable; 0 keeps every node at normal priority
HIGHEST_DOMAIN = 232  # DDS computes UDP ports from the domain; for higher ones they would exceed 65535


def run_in_real_time(priority: int) -> bool:
    """Set SCHED_FIFO for all threads of this process, DDS's included; return False if the system refuses it.

    Call it after the start: imports take seconds and would delay all other processes.
    """
    try:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError):  # not allowed (limits.conf: rtprio), or no Linux
        return False
    return True


class Finished(Exception):
    """Raised in a callback when a node's work is done: the process prints `message` and ends with `code`."""

    def __init__(self, code: int = OK, message: str = "") -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def end_on_error(name: str) -> Iterator[None]:
    """End the node if its body raises: a simulator whose physics failed cannot continue.

    Parameters
    ----------
    name
        The node, for the message.

    Raises
    ------
    Finished
        With the exception's description as its message.
    """
    try:
        yield
    except (Finished, ConfigurationError):
        raise
    except Exception as error:
        if os.environ.get("RLFP_TRACEBACK"):
            traceback.print_exception(error)
        raise Finished(FAILED, f"{name}: the simulation failed with {name_exception(error)}") from error


def run(build: Callable[[], Node], arguments: Sequence[str] | None = None, priority: int = 0) -> int:
    """Run one node until it is stopped, and return the process's exit code.

    `priority` is that of real-time scheduling (SCHED_FIFO, 1 to 99), if the system grants it; 0 for none.

    An exception in a callback does not end the node (a robot must not lose its safety controller to one bad message):
    it is logged, and counted in the node's `diagnostics` if it has one. ConfigurationError while building, and
    Finished at any time, end it.
    """
    arguments = sys.argv if arguments is None else arguments
    name = os.path.basename(arguments[0]).removesuffix(".py") if arguments else "node"
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not (domain.isdecimal() and int(domain) <= HIGHEST_DOMAIN):
        return _refuse(name, f"ROS_DOMAIN_ID is {domain!r}, expected a number from 0 to {HIGHEST_DOMAIN}")
    try:
        rclpy.init(args=list(arguments))
    except KeyboardInterrupt:
        return OK
    except Exception as error:  # rcl raises classes that only its extension module has
        return _refuse(name, f"ROS 2 does not start: {_first_line(error)}")
    node: Node | None = None
    executor: NodeExecutor | None = None
    code = OK
    try:
        left_over = remove_ros_args(list(arguments))[1:]
        if left_over:
            raise ConfigurationError(f"argument {left_over[0]!r} is not known; give parameters as --ros-args -p a:=b")
        node = build()
        executor = NodeExecutor(node, getattr(node, "batch_s", 0.0))
        # Exclude long-lived objects from garbage collection, because a collection would delay a tick.
        gc.collect()
        gc.freeze()
        if priority and os.environ.get(REALTIME) != "0":
            run_in_real_time(priority)
        _spin(node, executor)
    except Finished as finished:
        code = finished.code
        if str(finished):
            print(finished, file=sys.stderr, flush=True)
    except ConfigurationError as error:
        code = _refuse(node.get_name() if node else name, str(error))
    except (KeyboardInterrupt, ExternalShutdownException, ShutdownException):
        _on_signal(lambda *_: None)
    except Exception as error:
        if rclpy.ok():  # otherwise a signal came during construction, and part of rcl is shut down
            code = FAILED
            print(f"{name}: {type(error).__name__}: {_first_line(error)}", file=sys.stderr, flush=True)
            if os.environ.get("RLFP_TRACEBACK"):
                raise
    finally:
        interrupted = not rclpy.ok()
        if interrupted:
            _on_signal(lambda *_: None)
        _close(node, executor)
        if interrupted:
            _on_signal(
                signal.SIG_IGN
            )  # at exit the interpreter would replace any other handler by the default, which kills
    return code


def _on_signal(handler: Any) -> None:
    """Ignore a second Ctrl-C, or a launcher's SIGTERM after the terminal's SIGINT, while a node is closing."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, handler)


def _spin(node: Node, executor: NodeExecutor) -> None:
    diagnostics = getattr(node, "diagnostics", None)
    while True:
        try:
            executor.spin_once()
        except (Finished, KeyboardInterrupt, ExternalShutdownException, ShutdownException):
            raise
        except Exception as error:
            if not rclpy.ok() and isinstance(error, (InvalidHandle, RuntimeError)):
                return  # publishing while the context goes down
            if diagnostics is not None:
                diagnostics.count_exception(error)
            else:
                node.get_logger().error(f"exception in a callback: {type(error).__name__}: {error}")


def _close(node: Node | None, executor: NodeExecutor | None) -> None:
    """Give a node the chance to close its files (`close()`), then end ROS; never fail on the way out."""
    try:
        if node is not None:
            close = getattr(node, "close", None)
            if close is not None:
                close()
            if executor is not None:
                executor.close()
            node.destroy_node()
    except KeyboardInterrupt:
        pass
    except Exception as error:
        print(f"while closing: {type(error).__name__}: {_first_line(error)}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception, KeyboardInterrupt):  # nothing is left to do
        rclpy.try_shutdown()


def _refuse(name: str, sentence: str) -> int:
    print(f"{name}: {sentence}", file=sys.stderr, flush=True)
    return MISCONFIGURED


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
