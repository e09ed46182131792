"""`rlfp report`: writes `report.html` into a run folder, one file that needs nothing else.

It shows the learning curves of every stage, the success under each profile and in each room that was played, failures
by their cause, and some episodes as animations. Everything is read from the run folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rlfp_ros.contract import Bundle
from rlfp_ros.evaluation.album import KeptEpisode, KeptSeries, read_album
from rlfp_ros.evaluation.episodes import count
from rlfp_ros.evaluation.failures import FailureMode
from rlfp_ros.evaluation.statistics import wilson95
from rlfp_ros.files import write_whole
from rlfp_ros.learning.report.html import Markup, data_uri, element, page, table
from rlfp_ros.learning.report.stage_curves import curve_section
from rlfp_ros.learning.runs.history import ProgressRow, read_history
from rlfp_ros.schema import ConfigurationError

FILE = "report.html"
MARKERS = ("recipe.json", "plan.json")  # one of them describes the training of a run folder
LARGEST_ANIMATIONS = 3_300_000  # bytes of all animations in the page, before their encoding as text
MODES = {
    FailureMode.DOMAIN_SHIFT: "The safety controller held the arm, because the images looked too unlike training.",
    FailureMode.CONTROLLER: "The safety controller held or stopped the arm for another reason than the images.",
    FailureMode.LOST: "The object fell.",
    FailureMode.PERCEPTION: "The object was perceived at a wrong position, by more than 3 cm in most images.",
    FailureMode.NEAR_SUCCESS: "The time was over close to success.",
    FailureMode.GRASP: "The tool was at the object, but did not lift it.",
    FailureMode.NO_PROGRESS: "Nothing moved that matters: the distance from success hardly changed.",
    FailureMode.WRONG_PLACE: "The episode ended at a wrong place, and did not come nearer to success any more.",
    FailureMode.TIMEOUT: "The time was over while the episode still came nearer to success.",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --back: #ffffff; --soft: #5d6b78; --line: #d5dce3; --bar: #2f86d6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaf0; --back: #14181d; --soft: #9aa7b4; --line: #333c46; }
}
body { margin: 0 auto; padding: 1rem; max-width: 72rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--back); }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 0.3rem; }
p, figcaption, .soft { color: var(--soft); margin: 0.3rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.films { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
figure { margin: 0; } figcaption { font-size: 0.85rem; line-height: 1.35; }
.films img { width: 100%; border-radius: 4px; display: block; }
.grid svg { width: 100%; height: auto; display: block; }
.share { display: inline-block; width: 6rem; height: 0.7rem; border-radius: 3px; overflow: hidden; }
.share { background: var(--line); }
.share span { display: block; height: 100%; background: var(--bar); }
label { margin: 0 1rem 0 0.3rem; }
#by-time:checked ~ .units, #by-units:checked ~ .minutes { display: none; }
pre { overflow-x: auto; font-size: 0.8rem; }
"""


@dataclass(frozen=True)
class Run:
    """Everything that a run folder holds for the report."""

    folder: Path
    settings: dict[str, Any]  # recipe.json or plan.json
    rows: list[ProgressRow]
    album: list[KeptSeries]
    evaluations: list[dict[str, Any]]  # figures of `--algorithm` without episodes


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a training, finished or not.

    Parameters
    ----------
    run
        The run folder of `rlfp train`.
    out
        The file; by default `report.html` in the run folder.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ConfigurationError
        If `run` is not such a folder or holds a damaged file, or if the report cannot be written.
    """
    found = read_run(run)
    file = out or run / FILE
    write_whole(file, report_page(found))
    return file


def read_run(run: Path) -> Run:
    """Read a run folder; see `write_report`."""
    wanted = "expected a run folder of `rlfp train`; give one, such as runs/train_NAME"
    if not run.is_dir():
        raise ConfigurationError(f"{run}: {'is a file' if run.exists() else 'no such folder'}, {wanted}")
    marker = next((run / name for name in MARKERS if (run / name).is_file()), None)
    if marker is None and (run / "bundle.yaml").is_file():
        raise ConfigurationError(f"{run}: is a bundle, expected the run folder in which it was trained; give that one")
    if marker is None:
        raise ConfigurationError(f"{run}: holds neither {' nor '.join(MARKERS)}, {wanted}")
    rows, album = read_history(run), read_album(run)
    result = run / "result.json"
    evaluations = _document(result).get("evaluation", []) if result.is_file() and not album else []
    return Run(run, _document(marker), rows, album, evaluations)


def check_bundle_of_run(bundle: Bundle, run: Path) -> None:
    """Check that a bundle was exported from a run folder. Raises ConfigurationError if it was not."""
    file = run / "trained" / "trained.json"
    if not file.is_file():
        raise ConfigurationError(f"{file}: no such file, so no bundle comes from {run} yet; let its training end")
    trained = _document(file).get("contract", {})
    contract = bundle.contract
    for name, there, here in (
        ("name", trained.get("name"), contract.name),
        *((key, value, contract.provenance.get(key)) for key, value in trained.get("provenance", {}).items()),
    ):
        if there != here:
            raise ConfigurationError(
                f"{bundle.directory}: its {name} is {here!r}, but the training in {run} has {there!r}; give the run "
                "folder in which the bundle was trained"
            )


def report_page(run: Run) -> str:
    """Return the report as HTML."""
    settings, chosen = run.settings, _chosen(run.album)
    title = f"{settings.get('task', '?')} on {_name(settings.get('arm', '?'))}"
    return page(
        f"{title}: training report",
        STYLE,
        element("h1", f"{title}: training report"),
        _facts(run),
        *_results(run),
        *curve_section(run.rows),
        *_failures(run.album, chosen),
        *_successes(run.album, chosen),
        element("h2", "Settings"),
        element(
            "details", element("summary", "everything that determines the training"), element("pre", _settings(run))
        ),
    )


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{file}: cannot be read as JSON ({error}), the file is damaged; train again"
        ) from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{file}: is a JSON {type(document).__name__}, expected an object; train again")
    return document


def _name(text: object) -> str:
    """Return a name; of a file's path, its stem."""
    return Path(str(text)).stem if "/" in str(text) else str(text)


def _facts(run: Run) -> Markup:
    settings, rows = run.settings, run.rows
    way = settings.get("algorithm") or f"recipe {str(settings.get('recipe', '?')).removesuffix('Recipe').lower()}"
    minutes = max((row.seconds for row in rows), default=0.0) / 60
    facts = [f"{way}, profile {_name(settings.get('profile', '?'))}, seed {settings.get('seed', '?')}"]
    facts.append(f"{minutes:.1f} minutes of training in {max((row.session for row in rows), default=0) + 1} session(s)")
    return element("p", ", ".join(facts), f". Run folder: {run.folder}.")


def _settings(run: Run) -> str:
    return json.dumps({name: value for name, value in run.settings.items() if not name.endswith("_file")}, indent=1)


# --- success ---------------------------------------------------------------------------------------------------------


def _results(run: Run) -> Iterator[Markup]:
    yield element("h2", "Success")
    if run.album:
        header = (
            "profile or room",
            "success",
            "",
            "95 % interval",
            "episodes",
            "mean time of a success",
            "most frequent failure",
        )
        yield table(header, [_result(series) for series in run.album])
    elif run.evaluations:
        short = ("profile", "success", "", "95 % interval", "episodes")
        yield table(short, [_rate(each["profile"], each["successes"], each["episodes"]) for each in run.evaluations])
    else:
        yield element("p", "The policy has not been evaluated.")
    if run.album and all(series.world == "pybullet" for series in run.album):
        command = f"./rlfp evaluate BUNDLE --world mujoco --profile twin_near --report {run.folder}"
        yield element("p", "Not played in a room of the other simulator yet: ", element("code", command))


def _rate(place: str, successes: int, episodes: int) -> list[str]:
    share = successes / max(1, episodes)
    low, high = wilson95(successes, episodes)
    bar = element("span", element("span", style=f"width: {share:.1%}"), class_="share")
    return [place, f"{share:.1%}", bar, f"{low:.1%} to {high:.1%}", str(episodes)]


def _result(series: KeptSeries) -> list[str]:
    score = count(series.episodes)
    won = [episode.steps / series.rate_hz for episode in series.episodes if episode.success]
    modes = Counter(episode.mode for episode in series.episodes if episode.mode)
    often = modes.most_common(1)
    return [
        *_rate(place_of(series), score.successes, score.episodes),
        f"{sum(won) / len(won):.1f} s" if won else "",
        f"{_words(often[0][0])} ({often[0][1]})" if often else "",
    ]


def place_of(series: KeptSeries) -> str:
    """Return what the report calls a profile or room."""
    return series.profile if series.world == "pybullet" else f"room {series.profile}"


def _words(mode: str | None) -> str:
    return (mode or "success").replace("_", " ")


# --- episodes --------------------------------------------------------------------------------------------------------


Place = tuple[KeptSeries, KeptEpisode]


def _chosen(album: list[KeptSeries]) -> set[Path]:
    """Return the animations that the page has room for, in turn from all profiles and rooms."""
    kept = [[series.folder / each.animation for each in series.episodes if each.animation] for series in album]
    room, chosen = LARGEST_ANIMATIONS, set[Path]()
    for file in (file for turn in zip_longest(*kept) for file in turn):
        size = file.stat().st_size if file is not None and file.is_file() else room + 1
        if size <= room:
            room -= size
            chosen.add(file)
    return chosen


def _film(place: Place, caption: str) -> Markup:
    series, episode = place
    assert episode.animation is not None
    uri = data_uri("image/webp", (series.folder / episode.animation).read_bytes())
    image = element("img", src=uri, alt=f"animation: {caption}", loading="lazy")
    return element("figure", image, element("figcaption", caption))


def _caption(series: KeptSeries, episode: KeptEpisode) -> str:
    caption = f"{place_of(series)}, seed {episode.seed}, {episode.steps / series.rate_hz:.1f} s"
    return caption if episode.success else f"{caption}, ended {100 * episode.distance_m:.1f} cm from success"


def _films(places: Iterable[Place], chosen: set[Path]) -> Iterator[Markup]:
    films = [
        _film((series, episode), _caption(series, episode))
        for series, episode in places
        if episode.animation and series.folder / episode.animation in chosen
    ]
    if films:
        yield element("div", films, class_="films")


def _failures(album: list[KeptSeries], chosen: set[Path]) -> Iterator[Markup]:
    """Failures by cause: a table, then the animations of each cause."""
    failed = [(series, episode) for series in album for episode in series.episodes if not episode.success]
    if not album:
        return
    yield element("h2", "Failures by cause")
    if not failed:
        yield element("p", "All episodes succeeded.")
        return
    counted = Counter((place_of(series), episode.mode) for series, episode in failed)
    present = [mode for mode in MODES if any(episode.mode == mode for _, episode in failed)]
    rows = [[_words(mode), *(str(counted[place_of(series), mode]) for series in album)] for mode in present]
    yield table(("cause", *(place_of(series) for series in album)), rows)
    for mode in present:
        yield element("h3", _words(mode).capitalize())
        yield element("p", MODES[mode])
        yield from _films(((series, each) for series, each in failed if each.mode == mode), chosen)


def _successes(album: list[KeptSeries], chosen: set[Path]) -> Iterator[Markup]:
    won = [(series, each) for series in album for each in series.episodes if each.success and each.animation]
    if won:
        yield element("h2", "Successes")
        yield element(
            "p",
            "The images are those that the policy received, in real time. Coloured dots are feature points, the axes "
            "are the perceived pose of the object, the ring is the goal, the bar at the bottom is the domain shift.",
        )
        yield from _films(won, chosen)
