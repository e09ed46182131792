"""Tests that files are written completely or not at all, and that a full disk is reported in one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rlfp_ros.files import full_disk_explained, reserve, write_whole
from rlfp_ros.schema import ConfigurationError


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "plan.json"
    write_whole(file, "old")
    monkeypatch.setattr(os, "fsync", full)
    expected = r"plan\.json: cannot be written \(No space left on device\); free space on its disk, then continue"
    with pytest.raises(ConfigurationError, match=expected):
        write_whole(file, "new", "continue with --resume")
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]
    monkeypatch.undo()
    write_whole(file, b"new")
    assert file.read_text() == "new"


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigurationError, match=r"plan\.json: cannot be written \(.*exists\)"):
        write_whole(tmp_path / "run" / "plan.json", "")


def test_other_peoples_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_only_a_full_disk_is_explained_in_a_long_block(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}: cannot be written"), full_disk_explained(tmp_path):
        full()
    with pytest.raises(FileNotFoundError), full_disk_explained(tmp_path):
        (tmp_path / "missing").read_text()


def test_reserved_files_have_all_of_their_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "images.npy"
    with file.open("wb") as stream:
        stream.truncate(1_000_000)
    reserve(file)
    assert file.stat().st_blocks * 512 >= 1_000_000
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigurationError, match=r"images\.npy: cannot be written \(No space left on device\)"):
        reserve(file)
