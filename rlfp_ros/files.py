"""Writes files completely or not at all, and reports a full disk in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from rlfp_ros.schema import ConfigurationError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
AGAIN = "run the command again"
RESUME = "continue with --resume"


def write_whole(path: Path, data: bytes | str, then: str = AGAIN) -> None:
    """Write a file so that a reader finds either the old or the new content, even after a crash or a power cut.

    Parameters
    ----------
    path
        The file; its folder is made if it is missing.
    data
        The content; text is written as UTF-8.
    then
        What to do after the disk is fixed; ends the message.

    Raises
    ------
    ConfigurationError
        If the file cannot be written: the disk is full, or the folder cannot be written to. The old file is unchanged.
    """
    with explained(path, then):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, data)


def replace_whole(path: Path, data: bytes | str) -> None:
    """Write a file as `write_whole` does, in a folder that exists. Raises OSError if it cannot be written."""
    content = data.encode("utf-8") if isinstance(data, str) else data
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check before long work that its result can be written to the file `path`. Nothing is made.

    Raises
    ------
    ConfigurationError
        If the path is a folder, or the folder cannot be written to or made.
    """
    if path.is_dir():
        raise ConfigurationError(f"{path}: is a folder, expected a file to write to; choose another name")
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path}: is not a file; choose another name")
    _check_folder(path, path.parent)


def check_writable_folder(path: Path) -> None:
    """Check before long work that its results can be written to the folder `path`. Nothing is made.

    Raises
    ------
    ConfigurationError
        If the path is a file, or the folder cannot be written to or made.
    """
    _check_folder(path, path)


def _check_folder(path: Path, folder: Path) -> None:
    """Check that files can be made in a folder, or in the closest folder above it that exists."""
    with explained(path):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise ConfigurationError(f"{path}: cannot be written ({folder} is not a folder); choose another folder")
        probe = folder / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()


@contextlib.contextmanager
def explained(path: Path, then: str = AGAIN) -> Iterator[None]:
    """Turn every OSError in the block that comes from writing `path`, or below it, into a ConfigurationError."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, then) from None


@contextlib.contextmanager
def full_disk_explained(folder: Path, then: str = AGAIN) -> Iterator[None]:
    """Turn an OSError about a full disk into a ConfigurationError; other errors pass.

    It is for long blocks that write through libraries. The message names the library's file, or `folder` if the
    error names none.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise unwritable(Path(error.filename) if error.filename else folder, error, then) from None


def unwritable(path: Path, error: OSError, then: str = AGAIN) -> ConfigurationError:
    """Return the error for a file that could not be written."""
    if error.errno in FULL:
        action = "free space on its disk"
    elif error.errno in FORBIDDEN:
        action = "make its folder writable or choose another folder"
    else:
        action = "correct that"
    return ConfigurationError(f"{path}: cannot be written ({error.strerror or error}); {action}, then {then}")


def reserve(path: Path, then: str = AGAIN) -> None:
    """Give a sparse file of a known size its disk blocks now.

    Without blocks, writing to a memory-mapped file kills the process with SIGBUS if the disk is full. Reserved first, a
    full disk raises an error that can be reported.
    """
    with explained(path, then), path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some network disks cannot reserve
                raise
