"""Checkpoints that are written completely or not at all, and that refuse to resume another training."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from rlfp_ros.files import RESUME, write_whole
from rlfp_ros.schema import ConfigurationError

VERSION = 1


def save_checkpoint(path: Path, key: dict[str, Any], **state: Any) -> None:
    """Write the state of the training that `key` describes.

    Raises
    ------
    ConfigurationError
        If the disk is full. The last checkpoint does not change.
    """
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError that does not say so
    torch.save({"version": VERSION, "key": key, **state}, buffer)
    write_whole(path, buffer.getvalue(), RESUME)


def load_checkpoint(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Read the state in `path`; None if there is no such file.

    Raises
    ------
    ConfigurationError
        If the file is damaged or belongs to another training.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        raise ConfigurationError(
            f"{path}: cannot be read ({type(error).__name__}), the file is damaged; remove it to train that stage again"
        ) from None
    if state.get("version") != VERSION:
        raise ConfigurationError(
            f"{path}: version is {state.get('version')}, expected {VERSION}; train in a new folder with --run"
        )
    differing = sorted(name for name in key if state["key"].get(name) != key[name])
    if differing:
        name = differing[0]
        raise ConfigurationError(
            f"{path}: was made with {name} {state['key'].get(name)!r}, this training has {key[name]!r}; "
            "train in a new folder with --run, or with the same settings"
        )
    return state


def claim_run(run: Path, marker: str, document: dict[str, Any], resume: bool) -> None:
    """Reserve the folder `run` for one training, and describe the training in the file `marker`.

    Parameters
    ----------
    run
        The run folder; made if it is missing.
    marker
        Name of the file that describes the training, for example `plan.json`.
    document
        Everything that determines the training, as JSON.
    resume
        Whether to continue the training that the folder holds.

    Raises
    ------
    ConfigurationError
        If the folder holds another training, or this one and `resume` is not set, or if it cannot be written.
    """
    if run.exists() and not run.is_dir():
        raise ConfigurationError(f"{run}: is a file, expected a folder; choose another with --run")
    text = json.dumps(document, indent=1, sort_keys=True)
    file = run / marker
    if not file.exists():
        write_whole(file, text)
        return
    if not resume:
        raise ConfigurationError(
            f"{run}: holds a training already; continue it with --resume, or choose another folder with --run"
        )
    different = _difference(file, json.loads(text))
    if different:
        raise ConfigurationError(
            f"{file}: {different}; resume with the settings of the first session, or choose another folder with --run"
        )


def _difference(file: Path, wanted: dict[str, Any]) -> str:
    """Return the first field in which the training in `file` differs from the wanted one; empty if none does."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(found, dict)
    except (OSError, ValueError, AssertionError):
        return "cannot be read, the file is damaged"
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            if isinstance(found.get(name), dict) and isinstance(wanted.get(name), dict):
                inner = sorted(
                    part for part in {*found[name], *wanted[name]} if found[name].get(part) != wanted[name].get(part)
                )[0]
                return f"{name}.{inner} was {found[name].get(inner)!r} and is {wanted[name].get(inner)!r} now"
            return f"{name} was {found.get(name)!r} and is {wanted.get(name)!r} now"
    return ""
