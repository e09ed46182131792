"""Tests of `rlfp inspect` and `rlfp doctor`."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from conftest import load_or_skip
from python_process import run_python
from rlfp_command import ROOT, rlfp

from rlfp_ros import cli
from rlfp_ros.cli import doctor
from rlfp_ros.contract import load_bundle

BUNDLES = sorted(path.parent for path in (ROOT / "models").glob("*/bundle.yaml"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_inspect_shows_a_shipped_bundle_and_that_it_holds_together(bundle: Path) -> None:
    load_or_skip(load_bundle(bundle).contract.arm.name)
    done = rlfp("inspect", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "repeat training's golden frames" in done.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        ("torch", ["train", "reach"], r"'train'; run: .* 'torch==2.13.0'"),
        ("rclpy", ["demo"], r"'ros-wheels'; run: .*'ros-rclpy\[fastrtps\]=="),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    module: str, arguments: list[str], named: str, tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "from rlfp_ros import cli\n"
        f"sys.modules[{module!r}] = None\n"  # Python refuses to import it, as if it were not installed
        f"sys.exit(cli.main({arguments!r}))\n"
    )
    done = run_python("-P", "-c", program, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.search(named, done.stderr)


def test_two_bundles_of_one_task_have_a_run_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlfp_ros.learning.recipes import train

    folders = []
    monkeypatch.setattr(train, "main", lambda recipe, out, run, **_: folders.append((str(out), str(run))))
    for out in ([], ["--out", "mine/first"], ["--out", "mine/second"]):
        assert cli.main(["train", "reach", *out]) == 0
    assert folders == [
        ("models/reach_panda", "runs/train_reach_panda"),
        ("mine/first", "runs/train_first"),
        ("mine/second", "runs/train_second"),
    ]


def test_bench_alone_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench"]) == 0
    assert re.search(r"^safety +\S", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("bundle", BUNDLES[:1], ids=lambda bundle: bundle.name)
def test_inspect_refuses_an_altered_network_with_one_sentence(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / bundle.name))
    with open(copy / "policy.onnx", "ab") as file:
        file.write(b"x")
    done = rlfp("inspect", str(copy))
    assert done.returncode == 2
    assert "policy.onnx: sha256 is" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_doctor_finds_this_environment_healthy(tmp_path: Path) -> None:
    import json

    done = rlfp("doctor", "--json", str(tmp_path / "findings.json"))
    findings = {row["part"]: row for row in json.loads((tmp_path / "findings.json").read_text())}
    assert findings["ROS 2"]["health"] == "ok", findings["ROS 2"]
    assert "hears itself over rmw_fastrtps_cpp" in findings["ROS 2"]["text"]
    assert findings["core"]["health"] == "ok", findings["core"]
    assert done.returncode == 0, done.stdout


def test_doctor_does_not_advise_a_new_installation_if_a_variable_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_STATIC_PEERS", "127.0.0.1:7400")
    peers, ros = [f for f in doctor.examine() if f.part in ("ROS_STATIC_PEERS", "ROS 2")]
    assert peers.health is ros.health is doctor.Health.BAD
    assert "Unable to resolve peer 127.0.0.1:7400" in ros.text
    assert ros.fix == "correct the environment as said above, then run ./rlfp doctor again"


def test_doctor_names_a_plugin_file_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLFP_PLUGINS", f"{__file__}:/no/such/plugin.py")
    (plugin,) = doctor.plugin_findings()
    assert plugin.health is doctor.Health.BAD
    assert plugin.text == "RLFP_PLUGINS has /no/such/plugin.py, and there is no such file"


def test_file_that_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Path | None) -> int:
        raise PermissionError(13, "Permission denied", "/somewhere/run")

    monkeypatch.setattr(doctor, "run", refuse)
    assert cli.main(["doctor"]) == 2
    assert (
        capsys.readouterr().err == "rlfp: /somewhere/run: Permission denied; correct that, then run the command again\n"
    )


@pytest.mark.parametrize("name", ["x" * 300, "~no_such_user/bundle", "/proc/1/root/../x\0y"])
def test_a_name_that_cannot_be_a_path_gives_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_doctor_names_the_missing_package_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "daqp" else real(name))
    core = next(finding for finding in doctor.requirement_findings() if finding.part == "core")
    assert core.health is doctor.Health.BAD
    assert "daqp is not there" in core.text
    assert "-m pip install 'daqp" in core.fix


def test_doctor_names_a_version_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.9" if name == "pydantic" else real(name))
    core = next(finding for finding in doctor.requirement_findings() if finding.part == "core")
    assert "pydantic is 1.9" in core.text


def test_doctor_takes_the_other_builds_of_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "opencv-python":
            return "4.10.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert doctor.installed_version("opencv-python-headless") == "4.10.0"


def test_doctor_reports_every_problem_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    wrong = {
        "ROS_DOMAIN_ID": "500",
        "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF",
        "ROS_SECURITY_ENABLE": "true",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    done = rlfp("doctor", "--json", str(tmp_path / "findings.json"))
    findings = {row["part"]: row for row in json.loads((tmp_path / "findings.json").read_text())}
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    for name in wrong:
        assert findings[name]["health"] == "missing"
        assert name in findings[name]["text"]
        assert findings[name]["fix"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--algorithm", "ppo", "--work", "0.1"], "--algorithm ppo does not use --work; leave that out"),
        (["--steps", "100", "--set", "a=1"], "only --algorithm uses --steps, --set; leave that out"),
    ],
)
def test_train_refuses_options_that_it_would_not_use(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "reach", *arguments]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
