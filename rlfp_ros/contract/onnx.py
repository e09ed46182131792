"""ONNX Runtime sessions, and the metadata by which a network states what it was trained for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rlfp_ros.contract.contract import Contract
from rlfp_ros.schema import ConfigurationError

# ONNX Runtime's message for a network that was exported with a newer `onnx` than it knows.
NEWER_FORMAT = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
METADATA_PREFIX = "rlfp_ros."
# The parts of the contract that each network carries in its metadata. The camera's tolerance is left out because people
# may change it, and the base controller because benchmarks replace it.
DESCRIBED = {
    "encoder.onnx": ("camera", "image"),
    "trust.onnx": ("camera", "image", "arm"),
    "policy.onnx": ("task", "arm", "policy", "proprioception", "goal", "action"),
}


def description(contract: Contract, name: str) -> dict[str, str]:
    """Metadata of the ONNX file `name`: one JSON document for each part of the contract in `DESCRIBED`."""
    document = contract.model_dump(mode="json")
    document["camera"].pop("tolerance")
    return {METADATA_PREFIX + field: json.dumps(document[field], sort_keys=True) for field in DESCRIBED[name]}


def onnx_session(file: Path | bytes) -> Any:
    """Open an ONNX file, or its contents, in ONNX Runtime on one thread.

    At batch size 1 more threads bring no speed, and a second spinning thread takes CPU time from the other nodes.

    Raises
    ------
    ConfigurationError
        If ONNX Runtime cannot load it.
    """
    import onnxruntime  # imported here because `inspect` and the launch files need no inference

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            file if isinstance(file, bytes) else str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises its own exceptions for damaged or too new files
        name = "the network" if isinstance(file, bytes) else file
        reason = " ".join(str(error).split())
        if newer := NEWER_FORMAT.search(reason):
            found, known = newer.groups()
            raise ConfigurationError(
                f"{name}: is of ONNX format {found}, but ONNX Runtime {onnxruntime.__version__} reads formats up to "
                f"{known}; install a newer onnxruntime, or export the bundle again on this machine"
            ) from None
        raise ConfigurationError(
            f"{name}: ONNX Runtime cannot load it ({reason}); copy or export the bundle again"
        ) from None
