"""Writes a bundle completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from rlfp_ros.contract.bundle import ARM_FILES, FILES, TRUST_FILE, Bundle, load_bundle, sha256
from rlfp_ros.contract.contract import Contract
from rlfp_ros.files import explained, write_whole
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.version import VERSION


def write_bundle(
    directory: Path, contract: Contract, files: dict[str, bytes], check: Callable[[Bundle], None] | None = None
) -> Bundle:
    """Write a bundle completely or not at all. An older bundle in the same folder is replaced.

    Parameters
    ----------
    directory
        The bundle's folder.
    contract
        The contract; its `files` are replaced by the digests of what is written, `written_with` by the present version.
    files
        Contents of each of `FILES`, of `TRUST_FILE` if the contract has a trust section, and of the arm's files if the
        arm is known.
    check
        Called with the finished bundle. If it raises, the older bundle stays as it was.

    Raises
    ------
    ConfigurationError
        If the bundle is inconsistent, or the folder holds something else.
    """
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    replaced = directory.with_name(f".{directory.name}.replaced")
    if replaced.exists() and not directory.exists():  # a process was killed between the two renames below
        os.rename(replaced, directory)
    shutil.rmtree(replaced, ignore_errors=True)
    with explained(directory):
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        names = [*FILES, *(name for name in (TRUST_FILE, *ARM_FILES) if name in files)]
        for name in names:
            write_whole(scratch / name, files[name])
        digests = {name: sha256(scratch / name) for name in names}
        document = contract.model_copy(update={"files": digests, "written_with": VERSION})
        fields = document.model_dump(mode="json", by_alias=True)
        text = yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=120)
        write_whole(scratch / "bundle.yaml", text)
        scratch.chmod(0o755)
        bundle = load_bundle(scratch)
        if check is not None:
            check(bundle)
        if directory.exists():
            os.rename(directory, replaced)
        os.rename(scratch, directory)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return load_bundle(directory)


def check_replaceable(directory: Path) -> None:
    """Check that a bundle can be written to `directory` without loss.

    Raises
    ------
    ConfigurationError
        If the folder holds something that is not a bundle, or cannot be written.
    """
    parent = next(folder for folder in directory.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ConfigurationError(f"{directory}: nothing can be written in {parent}; choose another folder with --out")
    if directory.exists() and not (directory.is_dir() and (directory / "bundle.yaml").is_file()):
        empty = directory.is_dir() and not any(directory.iterdir())
        if not empty:
            raise ConfigurationError(
                f"{directory}: holds something that is not a bundle and would be lost; choose another folder with --out"
            )
