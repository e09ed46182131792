"""Tests of the report of a training: curves, episodes that are kept, failures by cause, and the page itself."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageSequence
from rich.console import Console

pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import figures

from rlfp_ros import cli
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation import album as album_module
from rlfp_ros.evaluation import rollout
from rlfp_ros.evaluation.album import Album, KeptEpisode, KeptSeries, read_album, series_folder, wanted, write_series
from rlfp_ros.evaluation.evaluate import evaluate
from rlfp_ros.evaluation.failures import FailureMode
from rlfp_ros.learning.export import export
from rlfp_ros.learning.report import training_report
from rlfp_ros.learning.report.curves import INK, Curve, Diagram, binned, draw_curves, inline
from rlfp_ros.learning.report.html import Markup, element, page, table
from rlfp_ros.learning.report.stage_curves import stage_diagram, stages_of
from rlfp_ros.learning.report.training_report import MODES, check_bundle_of_run, write_report
from rlfp_ros.learning.runs.history import HistoryWriter, read_history
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import load_task

SETTINGS = {"recipe": "ReinforcementRecipe", "task": "reach", "arm": "panda", "profile": "train", "seed": 3}


def animation(side: int = 8) -> bytes:
    frames = [Image.fromarray(np.full((side, side, 3), shade, np.uint8)) for shade in (0, 255)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def series(run: Path, profile: str, *modes: str | None, world: str = "pybullet") -> KeptSeries:
    """Episodes with these causes of failure; each is kept as an animation."""
    episodes = tuple(
        KeptEpisode(seed, mode is None, 30, 0.0 if mode is None else 0.05, mode, f"seed_{seed}.webp")
        for seed, mode in enumerate(modes)
    )
    return KeptSeries(series_folder(run, world, profile), world, profile, 30.0, episodes)


def write(kept: KeptSeries, data: bytes) -> None:
    write_series(kept, {each.animation: data for each in kept.episodes if each.animation})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two stages."""
    folder = tmp_path / "train_<reach>"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(SETTINGS | {"arm_file": {"name": "panda"}}))
    history = HistoryWriter(folder)
    for number in range(1, 601):
        figures = {"success_rate": number / 600, "critic_loss": 100.0 / number**2}
        history.add("expert", 400 * number, 240_000, 2.0 * number, figures, "decisions")
    history.add("expert", 240_000, 240_000, 1201.0, {}, "decisions")
    for number in range(1, 4):
        history.add("encoder", 20 * number, 60, 1201.0 + 60 * number, {"loss": 1.0 / number}, "gradient steps")
    history.close()
    return folder


class Reader(HTMLParser):
    """Checks that elements are nested, and collects their attributes and the text."""

    EMPTY = frozenset({"meta", "img", "input", "br", "path", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [str(attributes[name]) for found, attributes in self.elements if found == tag and name in attributes]


def read_page(file: Path) -> Reader:
    page = Reader(file.read_text(encoding="utf-8"))
    assert page.open == []
    return page


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_report_loads_nothing_and_reads_well_on_a_phone_and_in_the_dark(run: Path) -> None:
    write(series(run, "train", None, "perception"), animation())
    file = write_report(run)
    assert file == run / "report.html"
    page, text = read_page(file), file.read_text(encoding="utf-8")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    addresses = [
        str(value)
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert addresses
    assert [address for address in addresses if not address.startswith(("data:image/webp;base64,", "#"))] == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert "width=device-width" in page.attributes("meta", "content")[0]
    assert "prefers-color-scheme: dark" in text
    assert INK not in text  # axes and labels have the page's text colour
    assert "train_<reach>" in page.text  # escaped in the source
    assert "train_<reach>" not in text


def test_success_is_listed_by_profile_and_room_with_its_interval(run: Path) -> None:
    write(series(run, "train", *[None] * 9, "near_success"), animation())
    assert "--world mujoco" in read_page(write_report(run)).text  # says how rooms are measured
    write(series(run, "twin_dim", None, "lost", "lost", world="mujoco"), animation())
    page = read_page(write_report(run))
    assert "train90.0%59.6% to 98.2%101.0 snear success (1)" in page.text
    assert "room twin_dim33.3%6.1% to 79.2%31.0 slost (2)" in page.text
    assert "--world mujoco" not in page.text


def test_failures_are_sorted_by_cause_with_their_episodes(run: Path) -> None:
    write(series(run, "train", None, "perception", "grasp", "perception"), animation())
    write(series(run, "validation", "grasp"), animation())
    page = read_page(write_report(run))
    after = page.text.partition("Failures by cause")[2]
    assert after.startswith("causetrainvalidationperception20grasp11")
    assert MODES[FailureMode.PERCEPTION] in after
    assert after.index("train, seed 1, 1.0 s, ended 5.0 cm from success") < after.index("train, seed 2")
    assert after.index("train, seed 2") < after.index("validation, seed 0") < after.index("train, seed 0, 1.0 s")
    assert len(page.attributes("img", "src")) == 5
    assert all(alternative.startswith("animation: ") for alternative in page.attributes("img", "alt"))


def test_every_cause_is_explained() -> None:
    assert set(MODES) == set(FailureMode)


def test_the_page_stays_small_and_no_profile_goes_without_animations(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = animation(64)
    monkeypatch.setattr(training_report, "LARGEST_ANIMATIONS", 5 * len(data))
    for profile in ("none", "train", "validation"):
        write(series(run, profile, None, None, "grasp", "grasp"), data)
    captions = read_page(write_report(run)).attributes("img", "alt")
    assert Counter(caption.split()[1] for caption in captions) == {"none,": 2, "train,": 2, "validation,": 1}


def test_animations_fit_into_a_page_of_five_megabytes() -> None:
    assert 4 / 3 * training_report.LARGEST_ANIMATIONS < 4.5e6


def test_a_training_that_has_not_ended_has_a_report(run: Path) -> None:
    text = read_page(write_report(run)).text
    assert "The policy has not been evaluated." in text
    assert "expert: 240,000 of 240,000 decisions, success 100% at the end" in text
    assert "23.0 minutes of training" in text


def test_the_figures_of_one_algorithm_are_in_its_report(run: Path) -> None:
    (run / "recipe.json").rename(run / "plan.json")
    (run / "result.json").write_text(
        json.dumps({"evaluation": [{"profile": "none", "successes": 19, "episodes": 20}], "minutes": 3})
    )
    assert "none95.0%76.4% to 99.1%20" in read_page(write_report(run)).text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (None, "no such folder, expected a run folder of `rlfp train`; give one, such as runs/train_NAME"),
        ({}, r"holds neither recipe\.json nor plan\.json, expected a run folder"),
        ({"bundle.yaml": ""}, "is a bundle, expected the run folder in which it was trained"),
        ({"recipe.json": "{"}, r"recipe\.json: cannot be read as JSON"),
        ({"plan.json": "[]"}, r"plan\.json: is a JSON list, expected an object"),
        ({"plan.json": "{}", "episodes/a/episodes.json": "{}"}, r"episodes\.json: cannot be read \(KeyError"),
    ],
)
def test_a_folder_that_is_not_a_run_is_one_sentence(
    files: dict[str, str] | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if files == {}:
        folder.mkdir()
    assert cli.main(["report", str(folder)]) == 2
    assert re.search(expected, capsys.readouterr().err)


def test_the_command_writes_the_report_where_it_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "page.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert read_page(out).text.lstrip().startswith("reach on panda")


# --- HTML ------------------------------------------------------------------------------------------------------------


def test_text_is_escaped_once() -> None:
    inner = element("b", "a < b & c", title='"x"')
    assert inner == '<b title="&quot;x&quot;">a &lt; b &amp; c</b>'
    assert element("p", [inner, "<"], class_="soft") == f'<p class="soft">{inner}&lt;</p>'
    assert "<td>&lt;i&gt;</td><td><i>x</i></td>" in table(("a", "b"), [("<i>", Markup("<i>x</i>"))])
    assert page("<title>", "p > b { }", inner).count("<title>&lt;title&gt;</title>") == 1


# --- curves ----------------------------------------------------------------------------------------------------------


def test_a_curve_goes_over_units_and_over_minutes(run: Path) -> None:
    expert, encoder = stages_of(read_history(run))
    units, minutes = (stage_diagram(expert, "success_rate", kind) for kind in ("units", "minutes"))
    assert units.x_label == "decisions"
    assert units.curves[0].x[[0, -1]].tolist() == [400, 240_000]
    assert minutes.curves[0].x[[0, -1]].tolist() == pytest.approx([2 / 60, 20])
    assert units.curves[0].y.tolist() == minutes.curves[0].y.tolist()
    assert len(units.curves[0].x) == 600  # not the jump to the end, which has no figures
    assert stage_diagram(encoder, "loss", "units").x_label == "gradient steps"
    assert stage_diagram(encoder, "loss", "minutes").curves[0].x[0] == pytest.approx(1261 / 60)


def test_many_points_become_few_with_the_same_mean_and_none_that_is_not_finite() -> None:
    x = np.arange(4800.0)
    y = np.sin(x)
    few_x, few_y = binned(x, y)
    assert len(few_x) == len(few_y) <= 300
    assert few_x.mean() == pytest.approx(x.mean())
    assert few_y.mean() == pytest.approx(y.mean())
    assert [part.tolist() for part in binned(np.arange(3.0), np.array([1.0, math.nan, 2.0]))] == [[0, 2], [1, 2]]


def test_a_drawing_is_the_same_for_the_same_curves_and_fits_into_a_page() -> None:
    diagram = Diagram(
        [Curve("a & b", np.arange(5.0), np.arange(5.0)), Curve("c", np.array([]), np.array([]))], "x", "y"
    )
    svg = draw_curves([diagram, diagram], background="white")
    assert svg == draw_curves([diagram, diagram], background="white")
    ElementTree.fromstring(svg)
    shown = inline(draw_curves([diagram]))
    root = ElementTree.fromstring(shown.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    assert root.attrib["viewBox"].startswith("0 0 ")
    assert not {"width", "height"} & set(root.attrib)
    assert "a &amp; b" in shown
    assert shown.count("currentColor") > 5


def test_the_documentation_draws_the_same_curves_from_its_own_copy(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "IMAGES", run)
    monkeypatch.setattr(figures, "RECIPE_CURVES", run / "recipe_curves.json")
    assert figures.main(["recipe_curves", "--run", str(run)]) == 0
    image = run / f"recipe_curves_{run.name}.svg"
    drawn = image.read_bytes()
    kept = json.loads((run / "recipe_curves.json").read_text())[run.name]["curves"]
    assert list(kept) == ["expert"]  # the encoder has no success
    assert kept["expert"][0][-1] == pytest.approx(20, abs=0.1)
    image.unlink()
    assert figures.main(["recipe_curves"]) == 0
    assert image.read_bytes() == drawn


# --- episodes --------------------------------------------------------------------------------------------------------


def test_the_first_successes_and_the_first_failures_of_each_cause_are_kept() -> None:
    kept: Counter[str | None] = Counter()
    modes = [None, "grasp", "grasp", None, "grasp", None, "lost", "timeout", "timeout", "lost", "perception"]
    chosen = []
    for number, mode in enumerate(modes):
        if wanted(kept, mode):
            kept[mode] += 1
            chosen.append(number)
    assert chosen == [0, 1, 2, 3, 6, 7, 8, 9]


def short_task(name: str) -> Any:
    task = load_task(name)
    task.settings = task.settings.model_copy(update={"time_limit": 0.5})
    return task


def test_an_evaluation_keeps_the_episodes_that_it_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "load_task", short_task)
    monkeypatch.setattr(album_module, "FAILURES", 1)
    told: list[int] = []
    plain = evaluate("push_panda", profile="none", episodes=2, seed=5)
    result = evaluate(
        "push_panda",
        profile="none",
        episodes=2,
        seed=5,
        play=Album(tmp_path).play,
        report=lambda number, outcome: told.append(number),
    )
    assert told == [0, 1]
    assert {name for name in plain if plain[name] != result[name]} <= {"wall_s"}
    assert sum(result["failures"].values()) == 2
    (kept,) = read_album(tmp_path)
    assert (kept.world, kept.profile, kept.rate_hz) == ("pybullet", "none", 30.0)
    assert [episode.seed for episode in kept.episodes] == [5, 6]
    assert [episode.animation for episode in kept.episodes] == ["seed_5.webp", None]
    with Image.open(kept.folder / "seed_5.webp") as film:
        assert film.size == (192, 192)
        assert len(list(ImageSequence.Iterator(film))) == 6  # every third of 15 images, and the last
        assert np.asarray(film.convert("RGB")).std() > 10
    Album(tmp_path).clear()
    assert read_album(tmp_path) == []


def test_the_evaluation_of_a_new_bundle_is_shown_and_its_episodes_replace_older_ones(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollout, "load_task", short_task)
    monkeypatch.setattr(export, "PROFILES", ("none", "train"))
    write(series(run, "twin_dim", None, world="mujoco"), animation())  # of an older policy
    console = Console(file=io.StringIO())
    found = export.measured(load_bundle("reach_panda"), 1, console, Album(run))
    assert [(each.profile, each.episodes, each.success_rate) for each in found] == [("none", 1, 0.0), ("train", 1, 0.0)]
    assert re.findall(r"^(?:none|train) +1/1 .* 0 won$", capsys.readouterr().out, re.MULTILINE)
    assert [kept.profile for kept in read_album(run)] == ["none", "train"]


def test_an_older_series_of_the_same_profile_is_replaced(tmp_path: Path) -> None:
    write(series(tmp_path, "train", None, "lost"), animation())
    write(series(tmp_path, "train", None), animation())
    (kept,) = read_album(tmp_path)
    assert len(kept.episodes) == 1
    assert sorted(file.name for file in kept.folder.iterdir()) == ["episodes.json", "seed_0.webp"]


def test_only_the_bundle_of_the_run_is_added_to_its_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = load_bundle("reach_panda")
    with pytest.raises(ConfigurationError, match=r"trained\.json: no such file, so no bundle comes from"):
        check_bundle_of_run(bundle, run)
    (run / "trained").mkdir()
    contract = {"name": "reach_panda", "provenance": {"seed": bundle.contract.provenance["seed"]}}
    (run / "trained" / "trained.json").write_text(json.dumps({"contract": contract}))
    check_bundle_of_run(bundle, run)
    assert cli.main(["evaluate", "push_panda", "--report", str(run)]) == 2
    assert "its name is 'push_panda', but the training in" in capsys.readouterr().err
    assert cli.main(["evaluate", "reach_panda", "--graph", "--report", str(run)]) == 2
    assert "cannot be used with --graph" in capsys.readouterr().err
