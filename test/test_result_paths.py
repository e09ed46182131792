"""Tests that every command and benchmark checks the paths of its results before it begins its work."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlfp_ros import cli
from rlfp_ros.cli import parsing
from rlfp_ros.cli.parsing import amount, duration
from rlfp_ros.evaluation.results import read_json
from rlfp_ros.files import check_writable, check_writable_folder
from rlfp_ros.schema import ConfigurationError

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
INPUTS = {
    "bag",
    "image",
    "images",
    "intrinsics",
    "extrinsics",
    "plugins",
    "command_plugins",
    "source",
    "runs",
    "report",
    "bags",
    "data",
    "from_lerobot",
    "mapping",
}  # paths that are read


@pytest.fixture(params=["a folder", "below a file", "a folder that cannot be written to"])
def bad_path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A path that no result can be written to, and words of the error."""
    (tmp_path / "file").write_text("")
    return {
        "a folder": (tmp_path, "is a folder, expected a file"),
        "below a file": (tmp_path / "file" / "x" / "result.json", "is not a folder); choose another folder"),
        "a folder that cannot be written to": (Path("/proc/result.json"), "cannot be written"),
    }[request.param]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_refuses_a_file_that_it_cannot_write_before_it_measures(
    name: str, bad_path: tuple[Path, str]
) -> None:
    path, words = bad_path
    with pytest.raises(ConfigurationError, match=re.escape(words)) as refused:
        importlib.import_module(f"benchmarks.{name}").main(["--json", str(path)])
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["algorithms", "baselines", "representations", "transfer", "trust"])
def test_a_benchmark_refuses_a_page_without_its_marks_before_it_measures(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n")
    main = importlib.import_module(f"benchmarks.{name}").main
    with pytest.raises(ConfigurationError, match="add both lines where the table belongs"):
        main(["--document", str(page)])
    with pytest.raises(ConfigurationError, match="no such file"):
        main(["--document", str(tmp_path / "missing.md")])


@pytest.mark.parametrize(
    ("name", "option"), [("fault_matrix", "--json"), ("safety", "--progress"), ("transfer", "--json")]
)
def test_a_benchmark_refuses_earlier_results_that_are_damaged(name: str, option: str, tmp_path: Path) -> None:
    damaged = tmp_path / "earlier.json"
    damaged.write_text('{"rows": [')
    with pytest.raises(ConfigurationError, match=f"{damaged}"):
        importlib.import_module(f"benchmarks.{name}").main([option, str(damaged)])
    assert damaged.read_text() == '{"rows": ['


@pytest.mark.parametrize("command", ["evaluate reach_panda", "demo", "doctor", "gap --bag nowhere"])
def test_a_command_refuses_a_file_that_it_cannot_write_in_one_line(
    command: str, bad_path: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, words = bad_path
    assert cli.main([*command.split(), "--json", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "demo --out",
        "align --out",
        "train reach --out",
        "train reach --run",
        "export models/reach_panda --out",
        "learn-on-arm reach --goal 0.5 0 0.2 --out",
    ],
)
def test_a_command_refuses_a_folder_that_it_cannot_write_to_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, Path("/proc/folder")):
        assert cli.main([*command.split(), str(path)]) == 2
        error = capsys.readouterr().err
        assert f"{path}: cannot be written" in error
        assert len(error.splitlines()) == 1


def test_every_path_that_an_option_names_is_read_or_is_checked_as_a_result() -> None:
    for command, parser in _commands(cli.build_parser(), "rlfp"):
        checked = {name for name, _, _ in parser.get_default("result_paths") or ()}
        for action in parser._actions:
            if action.type is Path:
                assert action.dest in checked | INPUTS, f"{command} {action.dest}"


def test_every_path_that_a_benchmark_s_option_names_is_checked_as_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    class ParsedError(Exception):
        """Raised instead of the measurement."""

    def parsed(parser: argparse.ArgumentParser, arguments: Any) -> None:
        checked = {name for name, _, _ in parser.get_default("result_paths") or ()}
        for action in parser._actions:
            if action.type is Path:
                assert action.dest in checked | INPUTS, f"{parser.prog} {action.dest}"
        raise ParsedError

    for name in BENCHMARKS:
        module = importlib.import_module(f"benchmarks.{name}")
        monkeypatch.setattr(parsing, "parse_benchmark", parsed)  # of those that import it in main()
        monkeypatch.setattr(module, "parse_benchmark", parsed, raising=False)
        with pytest.raises(ParsedError):
            module.main([])


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from _commands(command, f"{name} {word}")


def test_the_check_makes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "result.json")
    check_writable_folder(tmp_path / "c" / "d")
    assert list(tmp_path.iterdir()) == []


def test_the_check_leaves_an_earlier_result_as_it_is(tmp_path: Path) -> None:
    earlier = tmp_path / "result.json"
    earlier.write_text("{}")
    check_writable(earlier)
    assert earlier.read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(("text", "words"), [("[1]", "is a JSON list"), ("{", "cannot be read as JSON")])
def test_results_to_continue_with_have_to_be_an_object(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "result.json"
    assert read_json(path) == {}
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        read_json(path)


@pytest.mark.parametrize("parse", [amount, duration])
@pytest.mark.parametrize("text", ["nan", "-1", "-inf"])
def test_numbers_of_seconds_have_bounds(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)
