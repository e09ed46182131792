"""ROS 2 nodes, which convert messages to arrays and back. The only part of the package that imports rclpy."""

import sys
from types import TracebackType


def _report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A package that is not installed is found while a node's module is imported, before any of its code runs."""
    if isinstance(error, KeyboardInterrupt):
        pass  # a launcher ended the node before it had started
    elif isinstance(error, ModuleNotFoundError):
        node = sys.argv[0].rpartition("/")[2].removesuffix(".py")
        print(f"{node}: {error}; `./rlfp doctor` says what to install and how", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report_missing_package
