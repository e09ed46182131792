"""Tests of the wheel: what `pip install` installs, in an environment and a folder without the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from source_copy import copy_source

ROOT = Path(__file__).resolve().parents[1]
TOP_FOLDERS = ("launch", "config", "models", "sim")

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    foreign = ("PYTHONPATH", "RLFP_", "VIRTUAL_ENV", "_ROS_WHEELS_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return subprocess.run([str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a virtual environment with the wheel; dependencies come from the test's own environment."""
    folder = tmp_path_factory.mktemp("package")
    copy_source(folder / "source")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    built = run(*pip, "wheel", "-q", *offline, "-w", folder, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    shutil.rmtree(folder / "source")
    (wheel,) = folder.glob("*.whl")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder / "environment", cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "environment" / "bin" / "python"
    done = run(*pip, "--python", python, "install", "-q", *offline, wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    (Path(purelib) / "dependencies.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", encoding="utf-8"
    )
    return python.parent


def test_only_rlfp_lands_on_path(installed: Path) -> None:
    new = {path.name for path in installed.iterdir()} - {"python", "python3", f"python3.{sys.version_info.minor}"}
    assert {name for name in new if not name.lower().startswith("activate")} == {"rlfp"}


def test_wheel_holds_every_data_file_and_declares_its_types_and_python_versions(installed: Path) -> None:
    share = installed.parent / "share" / "rlfp_ros"
    for top in TOP_FOLDERS:
        expected = {
            path.relative_to(ROOT) for path in (ROOT / top).rglob("*") if path.is_file() and path.suffix != ".pyc"
        }
        found = {path.relative_to(share) for path in (share / top).rglob("*") if path.is_file()}
        assert {path for path in found if path.suffix != ".pyc"} == expected  # pip compiles the launch files
    (package,) = installed.parent.glob("lib/python3.*/site-packages/rlfp_ros")
    assert (package / "py.typed").is_file()
    (metadata,) = package.parent.glob("rlfp_ros-*.dist-info/METADATA")
    assert "Requires-Python: <3.13,>=3.11" in metadata.read_text().replace(">=3.11,<3.13", "<3.13,>=3.11")


def test_installed_command_works_in_any_folder(installed: Path, tmp_path: Path) -> None:
    inspected = run(installed / "rlfp", "inspect", "reach_panda", cwd=tmp_path)
    assert inspected.returncode == 0, inspected.stderr
    played = run(installed / "rlfp", "evaluate", "reach_panda", "--episodes", "1", cwd=tmp_path)
    assert played.returncode == 0, played.stderr
    assert "of 1 succeeded" in played.stdout
    drawn = run(installed / "rlfp", "preview", "--out", tmp_path / "sheet.png", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_installed_package_plays_an_episode_through_gymnasium(installed: Path, tmp_path: Path) -> None:
    program = (
        "import rlfp_ros, gymnasium\n"
        "env = gymnasium.make('rlfp_ros/Push-v0', profile='none', image_size=32)\n"
        "env.reset(seed=1)\n"
        "steps, ended = 0, False\n"
        "while not ended:\n"
        "    *_, terminated, truncated, info = env.step(0 * env.action_space.sample())\n"
        "    steps, ended = steps + 1, terminated or truncated\n"
        "print(steps, rlfp_ros.__file__)\n"
    )
    done = run(installed / "python", "-P", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps, file = done.stdout.strip().splitlines()[-1].split(maxsplit=1)
    assert steps == "300"  # ten seconds of 30 images each
    assert file.startswith(str(installed.parent))
