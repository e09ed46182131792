"""Loads the script `./rlfp` as a module."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[1] / "rlfp"


def load_bootstrap() -> ModuleType:
    """A module of its own at every call."""
    loader = importlib.machinery.SourceFileLoader("rlfp_bootstrap", str(SCRIPT))
    spec = importlib.util.spec_from_loader("rlfp_bootstrap", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    was = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # no `rlfpc` beside the script
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = was
    return module
