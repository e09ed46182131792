"""Tests of the documentation: the site builds without a warning, and every link outside it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from source_copy import copy_source

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import page_tables

from rlfp_ros.cli.plugin_list import entries, registries_of, registry_modules

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file()


def test_generated_parts_are_those_of_the_code_and_of_the_measurements() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"  # names the pages that are out of date


def test_a_page_that_is_out_of_date_is_named_and_not_changed(tmp_path: Path) -> None:
    copy_source(tmp_path / "clone")
    page = tmp_path / "clone" / "docs" / "reference" / "reason-codes.md"
    changed = page.read_text(encoding="utf-8").replace("| `estop` |", "| `stop` |")
    page.write_text(changed, encoding="utf-8")
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=tmp_path / "clone", capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "docs/reference/reason-codes.md: out of date; run docs/generate.py\n"
    assert page.read_text(encoding="utf-8") == changed


SHIPPED = ("rlfp_ros.", str(ROOT / "rlfp_ros"), str(ROOT / "config"))  # plugins of other tests may be there too


def test_the_page_of_names_lists_every_registry() -> None:
    text = (ROOT / "docs" / "reference" / "names.md").read_text(encoding="utf-8")
    for module, _ in registry_modules():
        for registry in registries_of(module):
            assert text.count(f"\n## {registry.kind.capitalize()}s\n") == 1
            shipped = [entry.name for entry in entries(registry) if entry.origin.startswith(SHIPPED)]
            assert shipped
            assert [name for name in shipped if f"\n| `{name}` |" not in text] == []


def test_cells_of_tables_show_angle_brackets_and_bars() -> None:
    cells = page_tables.table(["a"], [["models/<task>_<arm> or `<name>` | none"]]).splitlines()[-1]
    assert cells == r"| models/\<task>_\<arm> or `<name>` \| none |"


def test_images_of_the_documentation_are_small() -> None:
    """A page loads quickly, and a clone stays small although images are drawn anew now and then."""
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 300_000} == {}


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_outside_the_site_lead_somewhere(path: Path) -> None:
    targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    missing = [target for target in targets if not (path.parent / target.partition("#")[0]).exists()]
    assert missing == []


def test_every_test_that_the_page_of_reports_names_is_there() -> None:
    page = (ROOT / "docs" / "explanation" / "reports.md").read_text(encoding="utf-8")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "test").glob("test_*.py")]
    functions = {name for text in texts for name in re.findall(r"def (test_\w+)", text)}
    files = {path.stem for path in (ROOT / "test").glob("test_*.py")}
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert [name for name in named if name not in functions | files] == []
    for row in page.splitlines():
        if row.startswith("| ") and "](http" in row:
            assert "`test_" in row.rsplit("|", 2)[1], row
