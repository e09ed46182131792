"""RLfP-ROS: sim-to-real deployment of pixels-to-policy manipulation on ROS 2.

The public names below are imported when they are first used, so that `import rlfp_ros` stays light. Importing the
package also makes the tasks known to Gymnasium: `gymnasium.make("rlfp_ros/Push-v0")`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlfp_ros.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from rlfp_ros.contract import Bundle as Bundle
    from rlfp_ros.contract import load_bundle as load_bundle
    from rlfp_ros.control.arm import Arm as Arm
    from rlfp_ros.control.arm import load_arm as load_arm
    from rlfp_ros.control.policy import Policy as Policy
    from rlfp_ros.evaluation.evaluate import evaluate as evaluate
    from rlfp_ros.evaluation.rollout import Rollout as Rollout
    from rlfp_ros.perception.encoder import Perception as Perception
    from rlfp_ros.recording.reader import BagReader as BagReader
    from rlfp_ros.schema import ConfigurationError as ConfigurationError
    from rlfp_ros.simulation.environment import ManipulationEnv as ManipulationEnv
    from rlfp_ros.simulation.tasks.task import TASKS as TASKS
    from rlfp_ros.simulation.tasks.task import Task as Task
    from rlfp_ros.simulation.tasks.task import load_task as load_task
    from rlfp_ros.simulation.vector import make_vector as make_vector

_MODULES = {
    "TASKS": "simulation.tasks.task",
    "Arm": "control.arm",
    "BagReader": "recording.reader",
    "Bundle": "contract",
    "ConfigurationError": "schema",
    "ManipulationEnv": "simulation.environment",
    "Perception": "perception.encoder",
    "Policy": "control.policy",
    "Rollout": "evaluation.rollout",
    "Task": "simulation.tasks.task",
    "evaluate": "evaluation.evaluate",
    "load_arm": "control.arm",
    "load_bundle": "contract",
    "load_task": "simulation.tasks.task",
    "make_vector": "simulation.vector",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rlfp_ros' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rlfp_ros.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_environments() -> None:
    """Make every task known to Gymnasium, which is imported. A plugin that cannot be loaded is reported."""
    import warnings

    from rlfp_ros.schema import ConfigurationError
    from rlfp_ros.simulation.gymnasium_ids import register
    from rlfp_ros.simulation.tasks.task import TASKS

    try:
        register(TASKS)
    except ConfigurationError as error:
        warnings.warn(f"rlfp_ros: {error}", RuntimeWarning, stacklevel=2)


class _AfterGymnasium:
    """Registers the environments once Gymnasium has been imported, so that nothing heavy is imported before.

    Gymnasium's own entry-point group would need an installed package; this also works in a source tree.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader = spec.loader if spec else None
        if loader is not None:
            load = loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                _register_environments()

            loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if "gymnasium" in sys.modules:
    _register_environments()
else:
    sys.meta_path.insert(0, _AfterGymnasium())
