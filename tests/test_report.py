"""The report of a small study worked by hand: successive halving over 4, 2 and 1 trials, one of which fails."""

import csv
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from conftest import colours
from matplotlib.figure import Figure
from scipy import stats

import halving
from halving.config.commands import read
from halving.environment import environment
from halving.errors import UserError
from halving.history import Chosen, Confirm, Confirmed, Ended, Halted, Header, History, Ladder
from halving.report import derived, figures, selection, tables
from halving.report.canvas import ACCENT
from halving.report.conclusion import conclusion
from halving.report.dimensions import draw_dimensions
from halving.report.explanation import explanation
from halving.report.html import plan_rows, report_html, shown_figures
from halving.report.importance import Importance, Importances
from halving.report.learning_curves import by_time
from halving.report.next_steps import next_steps, resuming
from halving.report.selection import selected
from halving.report.story import story
from halving.report.summary import summary
from halving.report.workers import Bar, bars, busy, idle
from halving.tracking.wording import digits, measure
from halving.trial import Configuration, Epoch, Finished, Outcome, Restarted, Resume, Start, Verdict

FIGURES = (
    figures.rung_scatter, figures.learning_curves, figures.incumbent, figures.hyperparameters, figures.parallel,
    figures.timeline, figures.over_time,
)  # fmt: skip
SETTINGS = {"overrides": ["scheduler=sha", "eta=2"], "environment": {"python": "3.11"}}
HEADER = Header(
    "small", "sha", "random", 7, 4, full_cost=4.0, dimensions=("optimizer.lr", "model.activation"),
    plan=(Ladder((1, 2, 4), (4, 2, 1)),), settings=SETTINGS,
)  # fmt: skip
NASTY = "<script>alert(1)</script>"


def metrics(error: float) -> dict[str, float]:
    return {
        "lr": 0.5, "train_loss": 2.0, "train_error": 0.25, "val_loss": 1.5, "val_error": error, "seconds": 0.5,
    }  # fmt: skip


def study(header: Header = HEADER, activation: str = "tanh") -> History:
    """Errors 0.5, (failed), 0.4, 0.6 after one epoch; trials 2 and 0 go on, 0 wins with 0.2 after four."""
    history = History()
    history.apply(header, 0.0)
    configurations: list[Configuration] = [
        {"optimizer.lr": 0.1, "model.activation": "relu"},
        {"optimizer.lr": 9.0},
        {"optimizer.lr": 0.01, "model.activation": activation},
        {"optimizer.lr": 0.001, "model.activation": "relu"},
    ]
    for trial, configuration in enumerate(configurations):
        history.apply(Start(trial, configuration, 1), 0.0)
    for at, (trial, error) in enumerate([(0, 0.5), (1, math.nan), (2, 0.4), (3, 0.6)], start=1):
        failed = math.isnan(error)
        history.apply(Epoch(trial, 1, {"lr": 9.0, "val_loss": math.inf} if failed else metrics(error)), at)
        cause = "Traceback:\n  line 1\nFloatingPointError: the loss is <nan>" if failed else ""
        history.apply(Finished(Outcome(trial, 0 if failed else 1, error, failed), 1.5, None, cause, 1.0), at)
    history.apply(Verdict(1, "failed", "the loss is nan"), 4.0)
    history.apply(Verdict(3, "stopped", "rank 3 of 4"), 4.0)
    for trial, error in [(2, 0.35), (0, 0.3)]:
        history.apply(Resume(trial, 1, 2, 1, "rank 2 of 4"), 4.0)
        history.apply(Epoch(trial, 2, {"val_error": 0.99}), 5.0)  # lost with its worker, and trained again
        history.apply(Epoch(trial, 2, {"val_error": error}), 5.0)
        history.apply(Finished(Outcome(trial, 2, error), 1.5, None, "", 1.0), 5.0)
    history.apply(Verdict(2, "stopped", "rank 2 of 2"), 5.0)
    history.apply(Resume(0, 2, 4, 2, "rank 1 of 2"), 5.0)
    history.apply(Epoch(0, 3, {"val_error": 0.25}), 6.0)
    history.apply(Epoch(0, 4, {"val_error": 0.2}), 7.0)
    history.apply(Finished(Outcome(0, 4, 0.2), 3.0, None, "", 2.0), 7.0)
    history.apply(Verdict(0, "completed", "reached 4"), 7.0)
    history.apply(Ended(0, {"test_error": 0.22, "test_loss": 0.7}, "python train.py trial=0 optimizer.lr=0.1"), 8.0)
    return history


def many(trials: int) -> History:
    """Every trial runs one epoch, every third goes on to nine; the values are of every type, failures among them."""
    history = History()
    dimensions = ("lr", "batch", "act", "flag", "maybe", "$\\constant$")
    history.apply(Header("many", "asha", "random", 0, 9, full_cost=9.0, dimensions=dimensions), 0.0)
    for trial in range(trials):
        configuration: Configuration = {
            "lr": 10 ** (-4 + trial % 97 / 24), "batch": trial, "act": f"kind {trial % 20} & <b>",
            "flag": trial % 2 == 0, "maybe": None if trial % 3 else math.inf, "$\\constant$": 1.0,
        }  # fmt: skip
        history.apply(Start(trial, configuration, 1), trial)
        error = 1e6 if trial == 7 else math.inf if trial % 10 == 9 else 0.1 + trial % 89 / 100
        history.apply(Epoch(trial, 1, {"val_error": error}), trial)
        history.apply(Finished(Outcome(trial, 1, error), 1.0, None, "", 1.0), trial)
        if trial % 3 == 0:
            history.apply(Resume(trial, 1, 9, 1), trial)
            history.apply(Finished(Outcome(trial, 9, error / 2, failed=trial % 2 == 0), 8.0, None, "", 8.0), trial)
    return history


def alone(error: float) -> History:
    history = History()
    history.apply(HEADER, 0.0)
    history.apply(Start(0, {"optimizer.lr": 0.1}, 1), 0.0)
    history.apply(Finished(Outcome(0, 1, error), 1.0), 0.0)
    return history


def header_only() -> History:
    history = History()
    history.apply(HEADER, 0.0)
    return history


def test_results_csv_is_the_study_in_order_of_finishing(tmp_path: Path) -> None:
    derived.write_all(study(), tmp_path)
    assert (tmp_path / "results.csv").read_text() == (
        "trial,bracket,rung,resource,error,status,verdict,seconds,optimizer.lr,model.activation\n"
        "0,0,0,1,0.5,ok,promoted,1.5,0.1,relu\n"
        "1,0,0,0,,failed,failed,1.5,9.0,\n"
        "2,0,0,1,0.4,ok,promoted,1.5,0.01,tanh\n"
        "3,0,0,1,0.6,ok,stopped,1.5,0.001,relu\n"
        "2,0,1,2,0.35,ok,stopped,1.5,0.01,tanh\n"
        "0,0,1,2,0.3,ok,promoted,1.5,0.1,relu\n"
        "0,0,2,4,0.2,ok,completed,3.0,0.1,relu\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "curves.csv", "summary.json", "report.html"}


def test_curves_csv_has_each_epoch_once_and_leaves_missing_metrics_empty() -> None:
    assert derived.curves_csv(study()) == (
        "trial,resource,epoch,lr,train_loss,train_error,val_loss,val_error,seconds\n"
        "0,1,1,0.5,2.0,0.25,1.5,0.5,0.5\n"
        "0,2,2,,,,,0.3,\n"
        "0,4,3,,,,,0.25,\n"
        "0,4,4,,,,,0.2,\n"
        "1,1,1,9.0,,,,,\n"
        "2,1,1,0.5,2.0,0.25,1.5,0.4,0.5\n"
        "2,2,2,,,,,0.35,\n"
        "3,1,1,0.5,2.0,0.25,1.5,0.6,0.5\n"
    )


def test_summary_counts_what_was_spent_against_full_training() -> None:
    assert json.loads(derived.summary_json(study())) == {
        "best_trial": 0,
        "best_error": 0.2,
        "best_resource": 4,
        "best_configuration": {"optimizer.lr": 0.1, "model.activation": "relu"},
        "test_error": 0.22,
        "trials": 4,
        "evaluations": 7,
        "resource_spent": 8,
        "full_resource": 16,
        "wall_seconds": 8.0,
        "train_seconds": 12.0,
        "scheduler": "sha",
        "searcher": "random",
        "seed": 7,
        "command": "python train.py trial=0 optimizer.lr=0.1",
        "name": "small",
        "unit": "epochs",
        "metric": "error",
        "maximize": False,
        "failed": 1,
        "end": "finished",
    }
    assert '"resource_spent": 8,' in derived.summary_json(study())


def test_summary_is_strict_json_without_a_survivor_and_with_infinite_values() -> None:
    history = alone(math.nan)
    history.apply(Halted("budget.seconds=10 was reached"), 1.0)
    assert (summary(history)["best_error"], summary(history)["end"]) == (
        None, "budget.seconds=10 was reached",
    )  # fmt: skip
    history = many(4)
    json.dumps(summary(history), allow_nan=False)
    assert summary(history)["best_configuration"]["maybe"] == "inf"
    assert summary(history)["end"] == "running"


def test_results_csv_tells_null_and_booleans_from_what_a_trial_lacks() -> None:
    header = Header("n", "fifo", "random", 0, 1, dimensions=("decay", "nesterov", "beta"))
    history = History()
    history.apply(header, 0.0)
    history.apply(Start(0, {"decay": None, "nesterov": False}, 1), 0.0)
    history.apply(Finished(Outcome(0, 1, 0.5)), 1.0)
    (row,) = csv.DictReader(derived.results_csv(history).splitlines())
    assert (row["decay"], row["nesterov"], row["beta"]) == ("null", "false", "")
    assert row["verdict"] == "paused"  # its rung is still open


def test_a_maximised_metric_is_shown_unflipped_and_recorded_flipped() -> None:
    """Only reasons, which schedulers wrote, hold it flipped: that is said wherever they are shown."""
    header = Header("acc", "fifo", "random", 0, 1, metric="accuracy", maximize=True)
    history = History()
    history.apply(header, 0.0)
    history.apply(Start(0, {}, 1), 0.0)
    history.apply(Finished(Outcome(0, 1, -0.875)), 1.0)
    history.apply(Start(1, {}, 1), 1.0)
    history.apply(Finished(Outcome(1, 1, math.nan)), 2.0)
    assert summary(history)["best_error"] == 0.875
    assert [row["error"] for row in tables.results_rows(history)] == [0.875, None]
    note = "Reasons hold accuracy with its sign flipped"
    assert any(note in line for line in explanation(history, 0)) and "accuracy 0.875" in "".join(
        explanation(history, 0)
    )
    assert not any("flipped" in line for line in explanation(study(), 0))
    page = report_html(history)
    assert note in page and "flipped" not in report_html(study())
    assert "0.875" in page
    assert "-0.875" not in page and "\N{MINUS SIGN}0.875" not in page


def test_the_plan_sets_what_was_planned_beside_what_happened() -> None:
    columns = ("bracket", "level", "planned", "trials", "promoted", "failed", "best")
    assert [tuple(row[name] for name in columns) for row in plan_rows(study())] == [
        (0, 1, 4, 4, 2, 1, "0.400"),
        (0, 2, 2, 2, 1, 0, "0.300"),
        (0, 4, 1, 1, 0, 0, "0.200"),
    ]


class Page(HTMLParser):
    """The text of a page, the words of its scripts, and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.scripts, self.loads, self._open = "", list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass


def test_the_page_loads_nothing_and_tells_the_result() -> None:
    text = report_html(study())
    page = Page(text)
    assert all(value.startswith("#") for value in page.loads)
    assert not re.search(r"@import|url\((?!#)|https?:(?!//www\.w3\.org/(2000/svg|1999/xlink)\")", text)
    assert "8 epochs instead of 16" in page.text
    assert report_html(study()) == text, "equal histories give equal pages"
    assert "python train.py trial=0 optimizer.lr=0.1" in page.text
    assert "FloatingPointError: the loss is <nan>" in page.text
    assert "scheduler=sha\neta=2" in page.text


def test_nothing_that_a_study_holds_can_run_in_the_page() -> None:
    header = Header(
        NASTY, NASTY, NASTY, 0, 4, unit=NASTY, metric=NASTY, full_cost=4.0,
        dimensions=("optimizer.lr", "model.activation"), settings={NASTY: [NASTY]},
    )  # fmt: skip
    text = report_html(study(header, activation=NASTY))
    assert NASTY not in text
    assert len(Page(text).scripts) == 1
    assert Page(text).text.count(NASTY) > 5


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize(
    "history",
    [header_only(), alone(0.5), alone(0.0), alone(-3.0), alone(math.nan), study(), many(300)],
    ids=["empty", "single", "zero", "negative", "failed", "study", "many"],
)
def test_every_figure_is_drawn_whatever_happened(draw, history: History) -> None:
    drawing = draw(history)
    root = ElementTree.fromstring(drawing)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert "nan" not in " ".join(element.get("d", "") for element in root.iter())
    assert draw(history) == drawing


@pytest.mark.parametrize("draw", FIGURES)
def test_what_a_user_has_set_for_matplotlib_is_no_matter(draw) -> None:
    drawing = draw(study())
    mine = {"text.usetex": True, "font.size": 40, "svg.fonttype": "path", "axes.grid": True, "figure.autolayout": True}
    with matplotlib.rc_context(mine):
        assert draw(study()) == drawing
        assert matplotlib.rcParams["text.usetex"], "theirs are as they were"


def test_a_study_is_told_where_matplotlib_cannot_read_its_settings(repo: Path, tmp_path: Path) -> None:
    halving.tune(lambda c, r: c["x"] / r, {"x": [1.0, 2.0, 3.0]}, r_max=3, run_dir=tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    broken = {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(tmp_path / "mine")}
    wrong = b"text.usetex: True\nfont.family: Nowhere\nbackend: none at all\nfigure.dpi: 1e9\n"
    for settings, words in ((b"\xff\xfe", ("rebuild", "run")), (wrong, ("picture", "run", "figure.png"))):
        (tmp_path / "mine").write_bytes(settings)
        (tmp_path / "matplotlibrc").write_bytes(settings)  # where one types it comes first
        command = [sys.executable, str(repo / "scripts/study.py"), *words]
        result = subprocess.run(command, cwd=tmp_path, env={**os.environ, **broken}, capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert (tmp_path / "run/report.html").read_text("utf-8").count("<svg") == 6
    assert (tmp_path / "figure.png").is_file()


def test_a_long_text_in_the_table_is_folded_and_a_number_is_not() -> None:
    """So that the reason, in the last column, stays in sight."""
    space = {"lr": [0.1, 0.2], "name": ["a text of several words"]}
    page = report_html(halving.tune(lambda c, r: c["lr"], space, halving.FIFO, r_max=1, max_trials=2).history)
    assert '<td class="n text" data-v="a text of several words">' in page and '<td class="n" data-v="0.1">' in page
    assert "td.text { white-space: normal; overflow-wrap: anywhere;" in page


def test_figures_on_one_page_have_no_id_in_common() -> None:
    ids = re.findall(r'\bid="([^"]+)"', report_html(study()))
    assert ids and len(ids) == len(set(ids))


def test_the_rung_scatter_names_the_winner_and_the_failure() -> None:
    words = "".join(ElementTree.fromstring(figures.rung_scatter(study())).itertext())
    assert "trial 0" in words and "0.2" in words
    assert "1 failed" in words


def test_a_hopeless_error_does_not_flatten_the_others() -> None:
    words = "".join(ElementTree.fromstring(figures.rung_scatter(many(300))).itertext())
    assert "1 worse than" in words and "1000000" not in words


def test_there_is_no_half_an_epoch() -> None:
    history = header_only()
    for trial in range(9):
        history.apply(Start(trial, {}, 1), 0.0)
        history.apply(Epoch(trial, 1, {"val_error": 0.5 + trial / 100}), 1.0)
        history.apply(Finished(Outcome(trial, 1, 0.5 + trial / 100)), 1.0)
    words = [word.strip() for word in ElementTree.fromstring(figures.learning_curves(history)).itertext()]
    assert [word for word in words[: words.index("epoch")] if word][1:] == ["1"]


def test_curves_over_time_have_each_epoch_when_it_had_ended() -> None:
    label, maximize, curves = by_time(study())
    assert (label, maximize) == ("validation error", False)
    assert curves[0] == [(1.0, 0.5), (5.0, 0.99), (5.0, 0.3), (6.0, 0.25), (7.0, 0.2)] and curves[2][-1] == (5.0, 0.35)
    assert 1 not in curves  # it failed before it could be measured
    assert "no learning curves" in figures.over_time(alone(0.5))


def test_a_page_does_not_call_test_examples_unseen_that_were_validated_on() -> None:
    def told(validation: object) -> str:
        return story(study(replace(HEADER, settings={"config": {"data": {"validation": validation}}})), ())

    assert "test examples were used in the end only" in told(0.2)
    assert "test examples" not in told("test")


def test_curves_come_from_the_objective_where_no_epochs_were_recorded() -> None:
    history = alone(0.5)
    assert "no learning curves" in figures.learning_curves(history)
    history.apply(Resume(0, 1, 3), 1.0)
    history.apply(Finished(Outcome(0, 3, 0.3, curve=(0.4, 0.3))), 2.0)
    assert "no learning curves" not in figures.learning_curves(history)


def test_the_picture_is_twice_its_size_in_pixels(tmp_path: Path) -> None:
    figures.figure_png(study(), tmp_path / "study.png")
    figures.figure_png(alone(math.nan), tmp_path / "lost.png")
    drawn, lost = colours(tmp_path / "study.png"), colours(tmp_path / "lost.png")
    assert sum(drawn.values()) == sum(lost.values()) == 4 * 2 * figures.WIDTH * figures.HEIGHT
    assert ACCENT not in lost
    for left in (0, 2 * figures.WIDTH):
        half = colours(tmp_path / "study.png", (left, 0, left + 2 * figures.WIDTH, 2 * figures.HEIGHT))
        assert half[ACCENT] > 300, "the winner among the rungs, and its curve"


def test_a_study_without_a_survivor_says_so() -> None:
    assert "No trial has survived: its only evaluation failed" in report_html(alone(math.nan))
    assert "No trial has finished yet" in report_html(header_only())


def test_an_empty_journal_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="journal is empty"):
        summary(History())


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.09722, 0.018, "0.097"), (0.1, 0.018, "0.100"), (0.23456, 0.04, "0.23"), (-0.0004, 0.018, "0.000"),
        (12345.6, 300.0, "12350"), (1.23456e-7, 2e-9, "1.235e-07"), (3.2e9, 1e8, "3.20e+09"), (0.3, 0.0, "0.3"),
        (1.7e308, 1e308, "1.7e+308"), (1.0, 1e308, "0"), (5e-324, 5e-324, "0.000000000000"),
        (0.123456, None, "0.1235"), (7.0, None, "7"), (math.inf, 0.1, "-"), (0.5, math.nan, "0.5"),
    ],
)  # fmt: skip
def test_a_number_has_the_digits_that_its_standard_error_allows(value: float, error: float | None, text: str) -> None:
    assert digits(value, error) == text


@pytest.mark.parametrize(
    ("metric", "words"),
    [("val_error", "validation error"), ("averaged_val_loss", "averaged validation loss"), ("lr", "learning rate"),
     ("train_loss", "training loss"), ("interval_score", "interval score")],
)  # fmt: skip
def test_metrics_have_names_in_words(metric: str, words: str) -> None:
    assert measure(metric) == words


def test_the_standard_error_of_a_metric_is_the_binomial_one_or_follows_from_the_spread_of_trials() -> None:
    history = many(40)
    assert tables.uncertainty(history) == pytest.approx(0.065 / 25)
    assert tables.uncertainty(alone(0.5)) is None and tables.uncertainty(header_only()) is None
    assert tables.standard_error(0.1, 100) == pytest.approx(0.03, rel=0.1)
    assert 0 < (tables.standard_error(0.0, 100) or 0) < 0.011
    assert tables.standard_error(0.1, None) is None and tables.standard_error(3.0, 100) is None


def test_whole_numbers_lie_on_their_ticks_and_names_keep_their_end() -> None:
    names = ("model.layers", "model.width", "model.heads", "optimizer.weight_decay", "a.lr", "b.lr", "a.b" * 20 + ".lr")
    history = History()
    history.apply(Header("n", "fifo", "random", 0, 1, dimensions=names), 0.0)
    for trial in range(24):
        layers, width, heads = 1 + trial % 3, 1 + trial, 2 ** (trial % 12)
        values = dict(zip(names, (layers, width, heads, 0.1 * trial, 0.1 * trial, 0.1, 0.2), strict=True))
        history.apply(Start(trial, values, 1), 0.0)
        history.apply(Finished(Outcome(trial, 1, 0.5 + trial / 100)), 1.0)
    figure = Figure(figsize=(15, 8))
    draw_dimensions(figure, history)
    titles = [axes.get_title() for axes in figure.axes[: len(names)]]
    assert titles[:6] == ["layers", "width", "heads", "weight_decay", "a.lr", "b.lr"]
    assert len(titles[6]) == 30 and titles[6].startswith("\N{HORIZONTAL ELLIPSIS}") and titles[6].endswith("b.lr")
    for axes in figure.axes[:3]:
        points = {float(x) for dots in axes.collections for x, _ in dots.get_offsets()}
        assert points and all(x.is_integer() for x in points)
        low, high = axes.get_xlim()
        shown = [
            label.get_text()
            for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            if low <= at <= high
        ]
        assert len(shown) >= 3 and all(text.isdigit() for text in shown)


def test_captions_hold_on_light_and_on_dark_paper() -> None:
    text = Page(report_html(study()).partition("</style>")[2]).text
    assert "stronger points were promoted" in text
    assert not re.search(r"\b(dark|light|black|white|grey|blue)", text)


@pytest.mark.parametrize(
    ("distribution", "scale"),
    [
        (stats.loguniform(0.01, 1), "log"),
        (stats.loguniform(1e-6, 0.1), "log"),
        (stats.uniform(0.01, 0.98), "linear"),
        (stats.randint(32, 256), "linear"),
    ],
)
def test_the_axis_of_a_dimension_is_logarithmic_where_it_was_drawn_so(distribution: Any, scale: str) -> None:
    """The book's learning rates span a little less than two powers of ten."""
    header = Header("n", "fifo", "random", 0, 1, dimensions=("lr",))
    history = History()
    history.apply(header, 0.0)
    for trial, u in enumerate(np.random.default_rng(0).random(27)):
        history.apply(Start(trial, {"lr": float(distribution.ppf(u))}, 1), 0.0)
        history.apply(Finished(Outcome(trial, 1, 0.5 + trial / 100)), 1.0)
    figure = Figure(figsize=(12, 5))
    draw_dimensions(figure, history)
    axes = figure.axes[0]
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    assert len([tick for tick in axes.get_xticks() if low <= tick <= high]) >= 2


def test_the_page_says_what_of_the_environment_differs_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    then = environment("cpu", 1) | {"python": "2.7.18", "diff": "-old line\n+new line"}
    header = replace(HEADER, settings={**SETTINGS, "environment": then | {"host": None}})
    text = Page(report_html(study(header)).partition("</style>")[2]).text
    assert re.search(rf"python\s*2\.7\.18\s*{re.escape(platform.python_version())}", text)
    assert "of these are different where this page was written" in text and "+new line" in text
    monkeypatch.setattr("halving.report.surroundings.environment", lambda device, threads: 1 / 0)
    page = report_html(study(header), problems := [])
    assert "what differs now could not be told: ZeroDivisionError" in page and "2.7.18" in page and problems == []


def test_commands_to_go_on_with_fit_the_state_and_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path with a space and a quote is read back by the shell and by Hydra as it is."""
    place = f"{tmp_path}/a study's (1)"
    typed = [
        "scheduler=asha",
        "seed=3",
        "trusted_packages=[mine]",
        "'+space.x=[1,2]'",
        "confirm.top=3",
        "scheduler.variant=stopping",
    ]
    header = replace(HEADER, scheduler="asha", settings={"unresolved": {}, "overrides": typed, "run_dir": place})
    history = study(header)
    steps = {step.what: shlex.split(step.command) for step in next_steps(history, place)}
    assert list(steps) == ["Train the winner again", "Compare it with another method over three seeds"]
    assert steps["Compare it with another method over three seeds"] == [
        "python", "train.py", "-m", "trusted_packages=[mine]", "'+space.x=[1,2]'", "scheduler=asha,fifo", "seed=7,8,9",
    ]  # fmt: skip
    program, script, resume, *more = shlex.split(resuming(history, place))
    assert (program, script, more) == ("python", "train.py", ["trusted_packages=[mine]"])
    assert read(resume) == place
    history.apply(Resume(2, 1, 4, 2, "more"), 9.0)
    history.apply(Halted("budget.resource=21 reached"), 9.0)
    steps = {step.what: step.command for step in next_steps(history, "/tmp/plain")}
    assert steps["Go on where it stopped"] == "python train.py resume=/tmp/plain 'trusted_packages=[mine]'"
    assert steps["Extend it to twice its budget"].endswith("'trusted_packages=[mine]' budget.resource=42")
    with monkeypatch.context() as installed:  # whose user has no train.py
        installed.setattr("sys.argv", ["/bin/halving", "study", "report"])
        assert resuming(history, "/tmp/plain") == "halving resume=/tmp/plain 'trusted_packages=[mine]'"
    header = replace(HEADER, settings={"unresolved": {}, "config": {"scheduler": {"rounds": 1}}})
    assert "python train.py resume=/tmp/plain scheduler.rounds=2" in {
        step.command for step in next_steps(study(header), "/tmp/plain")
    }
    assert not resuming(study(), place), "a Python function's study has no command"


def test_what_ran_side_by_side_lies_on_lanes_and_tells_how_busy_workers_were() -> None:
    history = study(replace(HEADER, settings={"config": {"executor": {"workers": 5}}}))
    found = bars(history)
    assert [(bar.lane, bar.trial, bar.started, bar.ended) for bar in found] == [
        (0, 0, 0.0, 1.0), (1, 1, 0.0, 2.0), (2, 2, 0.0, 3.0), (3, 3, 0.0, 4.0), (0, 0, 4.0, 5.0), (1, 2, 4.0, 5.0),
        (0, 0, 5.0, 7.0),
    ]  # fmt: skip
    assert [bar.trial for bar in found if bar.failed] == [1]
    assert busy(history) == "The 5 workers were busy 35 % of the time."
    assert idle(history) == pytest.approx(0.65, abs=0.005)
    together = study(replace(HEADER, settings={"workers": 3, "batch": 8}))
    assert together.train_seconds == 12 and together.seconds == 8, "of which each trial has its share"
    assert busy(together) == "The 3 workers were busy 50 % of the time."
    assert "trials at a time" in figures.timeline(together) and "trials at a time" not in figures.timeline(history)
    # Those that a cluster gives come and go: two of four were there only until 3 and 4 s, and none of a fifth is known.
    history = study(replace(HEADER, settings={"config": {"executor": {"workers": 5, "checkpoints": None}}}))
    assert busy(history) == "The 4 workers were busy 74 % of the time."
    history = header_only()
    history.apply(Start(0, {}, 4), 0.0)
    history.apply(Restarted(0, 0, "its worker died"), 3.0)
    history.apply(Epoch(0, 1, metrics(0.5)), 6.0)
    assert bars(history) == [Bar(0, 0, 0.0, 6.0, False, (3.0,))]
    assert "began again" in figures.timeline(history)


def test_the_page_of_very_many_trials_shows_the_best_and_some_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MOST", 20)
    history, few = header_only(), header_only()
    for number in range(100):
        for each in (history, few) if number < 20 else (history,):
            each.apply(Start(number, {"lr": 1.0}, 1), float(number))
            each.apply(Finished(Outcome(number, 1, float(number * 7 % 100)), 1.0), number + 1.0)
            each.apply(Verdict(number, "stopped"), number + 1.0)
    assert selected(few) is few
    kept = [*selected(history).trials]
    best = sorted(history.trials, key=lambda number: number * 7 % 100)[:10]
    assert kept == sorted(kept) and len(kept) == 20 and {*best} <= {*kept}
    assert {trial.trial for trial, _ in selected(history).finished} == {*kept} and min(kept) < 10 and max(kept) > 90
    page = report_html(history)
    assert "100; figures and tables show 20, half of them the best, the others spread evenly" in page
    assert page.count('<tr data-t="') == 20
    assert "timeline" in shown_figures(few) and "timeline" not in shown_figures(history)


def test_the_page_says_whether_the_winner_is_real() -> None:
    worse = study(replace(HEADER, settings={"unresolved": {}, "run_dir": "/tmp/run"}))
    worse.trials[0].evaluations[0].finished = Finished(Outcome(0, 1, 0.1), 1.5, None, "", 1.0)
    text = " ".join(Page(report_html(worse).partition("</style>")[2]).text.split())
    assert "The winner had 0.100 after 1 epoch, and got worse." in text
    assert "The winner's error is that of the luckiest of 4." in text
    assert "python train.py resume=/tmp/run confirm.top=3" in text
    assert "luckiest" not in report_html(study()), "a Python function's study has no command"

    for number, (trial, error) in enumerate([(0, 0.25), (0, 0.27), (2, 0.22), (2, math.inf), (3, 0.21), (3, 0.23)]):
        worse.apply(Confirm(number, trial, 1 + number % 2, 4, "order"), 9.0 + number)
        worse.apply(Confirmed(number, error, 1.0, 4.0), 10.0 + number)
    page = report_html(worse)
    text = " ".join(Page(page.partition("</style>")[2]).text.split())
    assert "So far confirmed with 2 fresh seeds each (initialisation and order), trained for 4 epochs." in text
    assert "luckiest" not in text and "Trial 0 has the best validation error: 0.200 after 4 epochs" in text
    worse.apply(Chosen(3), 16.0)
    worse.apply(Ended(3, {"val_samples": 100.0}), 17.0)
    page = report_html(worse)
    text = " ".join(Page(page.partition("</style>")[2]).text.split())
    assert (
        "Trial 3 has the best mean validation error: 0.220 ± 0.127 (95 %) over 2 fresh seeds. The study spent" in text
    )
    assert ", and 24 epochs to confirm." in text and "lies between" not in text
    assert ", and 24 epochs to confirm, in " in conclusion(worse)
    rows = re.findall(r'<tr(?: class="best")?><td class="n">(\d)</td>(.*?)</tr>', page)[:3]
    cells = {trial: re.findall(r'<td class="n">(.*?)</td>', rest) for trial, rest in rows}
    assert list(cells) == ["3", "0", "2"]
    assert cells["0"] == ["0.200", "4", "2", "0.260", "0.010", "0.133 to 0.387", "0.014", "+0.060"]
    assert cells["2"][2:4] == ["1, 1 failed", ""]
    assert page.count("<svg") == 8


@pytest.mark.parametrize(
    ("found", "clear"),
    [
        ([(0.6, 0.4), (0.39, 0.33)], False),
        ([(0.9, 0.1), (0.3, 0.2)], True),
        ([(0.2, 0.3)], False),
        ([(0.5, 0.1)], True),
    ],
)
def test_what_mattered_most_is_said_flatly_only_where_it_is_clear(
    found: list[tuple[float, float]], clear: bool
) -> None:
    dimensions = tuple(Importance(f"x{i}", *each) for i, each in enumerate(found))
    importance = (Importances(3, 27, 0.5, dimensions),)
    said = story(study(HEADER), importance)
    assert f"What mattered most {'was' if clear else 'may have been'} x0 after 3 epochs." in said
