"""Checkpoints that are whole or absent, and refuse to resume another training."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from rlfp_ros.schema import ConfigurationError

VERSION = 1


def save_checkpoint(path: Path, key: dict[str, Any], **state: Any) -> None:
    """Write `state` for the training that `key` describes; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".pt")
    os.close(handle)
    torch.save({"version": VERSION, "key": key, **state}, scratch)
    os.replace(scratch, path)


def load_checkpoint(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The state in `path`, None where there is none. Raises ConfigurationError where it is damaged or another's."""
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
    """Take the folder `run` for the training that `document` describes, which is kept there in the file `marker`.

    Raises ConfigurationError where it holds another training, or this one and `resume` is not set.
    """
    if run.exists() and not run.is_dir():
        raise ConfigurationError(f"{run}: is a file, expected a folder; choose another with --run")
    text = json.dumps(document, indent=1, sort_keys=True)
    file = run / marker
    if file.exists():
        if not resume:
            raise ConfigurationError(
                f"{run}: holds a training already; go on with --resume, or choose another folder with --run"
            )
        if file.read_text() != text:
            raise ConfigurationError(
                f"{run}: {marker} is another training's; resume with its settings, or choose another folder with --run"
            )
        return
    run.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
