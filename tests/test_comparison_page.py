"""comparison.html: several studies side by side, those that run, failed or were killed among them."""

import fcntl
import math
import re
import shutil
from collections.abc import Callable, Generator
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import halving
from halving.config.multirun import compared, write_comparison
from halving.errors import UserError
from halving.history import Chosen, Confirm, Confirmed, Ended, History
from halving.report.comparison_page import comparison_html
from halving.report.jobs import Job
from halving.report.methods import mean_and_error
from halving.review.inspection import main as inspect
from halving.schedulers import Hyperband

NASTY = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The words of each row of a table, the links, and what was left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: dict[str, str] = {}
        self._open: list[str] = []
        self._link = ""
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "wbr", "path", "use", "rect", "image"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._link = dict(attrs).get("href") or "" if tag == "a" else self._link

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            assert self._open.pop() == tag
        self._link = "" if tag == "a" else self._link

    def handle_data(self, data: str) -> None:
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        if self._link:
            self.links[data] = self._link

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


def page(directory: Path) -> str:
    assert write_comparison(directory, compared(directory)) == []
    return (directory / "comparison.html").read_text("utf-8")


def study(run_dir: Path, scheduler: Callable[..., halving.schedulers.Scheduler], seed: int, **options: int) -> None:
    def quadratic(configuration: halving.trial.Configuration, resource: int) -> float:
        return float(configuration["x"] or 0) ** 2 + 1 / resource

    space = {"x": {"_target_": "scipy.stats.uniform"}}
    halving.tune(quadratic, space, scheduler, seed=seed, r_max=9, run_dir=run_dir, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of three methods; it is copied before anything is changed in it."""
    directory = tmp_path_factory.mktemp("sweeps") / "sweep"
    for seed in range(3):
        study(directory / f"fifo{seed}", halving.FIFO, seed, max_trials=3)
        study(directory / f"sha{seed}", halving.SuccessiveHalving, seed, n=9)
        study(directory / f"hyperband{seed}", Hyperband, seed)
    return directory


@pytest.fixture
def sweep(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "sweep"))


def test_methods_are_compared_with_what_the_tests_rest_on(sweep: Path) -> None:
    text = page(sweep)
    found = Page(text)
    best = np.array([min(t.last.error for t in halving.load(sweep / f"fifo{seed}").trials) for seed in range(3)])
    assert found.row("FIFO")[:3] == ["FIFO", "3", mean_and_error(best)] and found.row("FIFO")[4] == "9"
    assert "after 27 units, which every study has spent" in text
    assert "FIFO with seed 0 ended there; others went on to 78." in text and "never below 0.25" in text
    pair = next(row for row in found.rows if row[:2] == ["FIFO", "SuccessiveHalving"])
    assert pair[2:4] == ["error at 9 units after 27 units", "3"] and sum(map(int, pair[4:7])) == 3
    assert [row[:2] for row in found.rows].count(["method", "mean rank, ± standard error over seeds"]) == 1
    assert re.search(
        r"Of 3 methods <b>[\w, ]+</b> (has|have) the( same)? best mean validation error: <b>[\d.]+ ± [\d.]+</b> after",
        text,
    )
    assert found.links["sha2"] == "sha2/report.html" and len(found.links) == 9
    assert {row[-1] for row in found.rows if row and row[0] in found.links} == {"finished"}
    # It needs nothing from elsewhere, and no script.
    assert "<script" not in text and "default-src 'none'" in text and "script-src" not in text
    assert not re.search(r'(src|href)="(?!#|[\w%]+/report.html")', text.replace('xlink:href="#', 'href="#'))
    assert len(text) < 1_000_000 and len(re.findall("<svg role=", text)) == 5
    assert not [path for path in sweep.iterdir() if path.name.endswith(".tmp")]


def test_ended_running_killed_and_failed_jobs_are_told_apart(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = (sweep / "fifo0" / "journal.jsonl").read_bytes()
    for name in ("running", "killed"):
        (sweep / name).mkdir()
        (sweep / name / "journal.jsonl").write_bytes(journal[: len(journal) // 2])
    (sweep / "damaged").mkdir()
    (sweep / "damaged" / "journal.jsonl").write_bytes(journal[:100] + b"?" + journal[101:])
    (sweep / "failed" / ".hydra").mkdir(parents=True)
    (sweep / "failed" / "failure.txt").write_text(f"{NASTY} was wrong\n")
    for name, content in (("overrides", f"- seed=0\n- +notes={NASTY}\n"), ("config", "seed: 0\n")):
        (sweep / "failed" / ".hydra" / f"{name}.yaml").write_text(content)
    with pytest.raises(UserError, match="no trial survived"):
        halving.tune(lambda c, r: math.nan, {"x": [1, 2]}, halving.FIFO, max_trials=2, r_max=1, run_dir=sweep / "lost")
    running = sweep / "running" / "journal.jsonl"
    with (sweep / "running" / "journal.lock").open("w") as lock:
        lock.write("host here, pid 1\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        inspect(["report", str(sweep)])
    written = [*(sweep / name / "report.html" for name in ("killed", "running")), sweep / "comparison.html"]
    assert capsys.readouterr() == ("".join(f"{path}\n" for path in written), "")
    assert running.read_bytes() == journal[: len(journal) // 2]
    assert (sweep / "running" / "journal.lock").read_text() == "host here, pid 1\n"

    text = (sweep / "comparison.html").read_text("utf-8")
    found = Page(text)
    assert found.links["killed"] == "killed/report.html" and "failed" not in found.links
    assert "<dd>running</dd>" in (sweep / "running" / "report.html").read_text("utf-8")
    states = {row[0]: row[-1] for row in found.rows if row and len(row) == 7}
    assert (states["killed"], states["running"], states["lost"]) == (
        "interrupted", "running", "failed: no trial survived",
    )  # fmt: skip
    assert states["failed"] == f"failed: {NASTY} was wrong" and states["damaged"].startswith("failed: ")
    assert found.row("failed")[1] == f"seed=0 +notes={NASTY}"
    assert "<script" not in text
    named = re.findall(r"<li>(\w+): ", text)
    assert sorted(named) == ["damaged", "failed", "killed", "running"], "lost came to its end, and counts as worst"
    assert found.row("FIFO")[1] == "3"


def test_without_a_winner_the_page_says_so_and_without_a_study_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no journal\.jsonl there or below"):
        compared(tmp_path / "nowhere")
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    with pytest.raises(UserError, match=r"0: no journal\.jsonl there or below"):
        compared(tmp_path / "0")
    text = page(tmp_path)
    assert "No study has ended with a winner yet" in text and Page(text).row("0")[-1] == "interrupted"


def test_many_methods_make_no_thousands_of_tests_and_two_that_are_one_are_named(finished: Path) -> None:
    history = halving.load(finished / "fifo0").history
    assert history.header is not None

    def job(i: int, *overrides: str) -> Job:
        header = replace(history.header, settings={"overrides": overrides})
        return Job(str(i), finished / str(i), overrides, "finished", replace(history, header=header))

    text = comparison_html(finished, [job(i, f"eta={i}") for i in range(40)], {})
    assert "So many methods make too many pairs" in text and "median difference" not in text
    assert len(text) < 1_000_000 and "may be chance" not in text
    assert "with fresh seeds" not in text
    again = deepcopy(history)
    for repeat, error in enumerate((0.3, 0.4, 0.5), start=1):
        again.apply(Confirm(repeat, again.incumbents[-1][0].trial, repeat, 9, "order"), 9.0)
        again.apply(Confirmed(repeat, error), 9.0)
    again.apply(Chosen(again.incumbents[-1][0].trial), 9.0)
    again.apply(Ended(again.incumbents[-1][0].trial), 9.0)
    # .1 * 4.3027 / sqrt(3) = .248
    confirmed = comparison_html(finished, [Job("0", finished / "0", (), "finished", again)], {})
    assert re.search(r"with fresh seeds, 95 %.*trial \d: 0\.40 ± 0\.25<", confirmed, re.DOTALL)
    twice = comparison_html(finished, [job(i, "eta=3") for i in range(2)], {})
    assert "They cannot be compared." in twice and "with seed 0" in twice and len(Page(twice).rows) == 3


def test_over_several_tasks_methods_are_tested_over_tasks(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving wins every seed of every task, which is more than chance only from six tasks on."""
    monkeypatch.setattr("halving.report.comparison_page._Drawing.__call__", lambda *of: [])
    studies = [halving.load(finished / f"{name}{seed}").history for name in ("fifo", "sha") for seed in range(3)]

    def told(*tasks: str) -> tuple[list[str], str]:
        jobs: list[Job] = []
        for task in tasks:
            for i, history in enumerate(studies):
                assert history.header is not None
                header = replace(history.header, settings={"overrides": [f"data={task}"]})
                jobs.append(Job("", finished / f"{task}{i}", (), "finished", replace(history, header=header)))
        text = comparison_html(finished, jobs, {})
        return Page(text).rows[-len(jobs) - 2], re.sub(r"\s+", " ", text)

    row, text = told(*"abc")
    assert row == ["FIFO", "SuccessiveHalving", "3", "0", "3", "-1.00", "0.25", "0.25"]
    assert "SuccessiveHalving</b> has the best mean rank over 3 tasks: <b>1.00 ± 0.00" in text
    assert "better than the others may be chance" in text and "With 3 tasks p is never below 0.25: that it is" in text
    row, text = told(*"abcdef")
    assert row[2:] == ["6", "0", "6", "-1.00", "0.031", "0.031"] and "With 6 tasks" not in text
    assert "better than FIFO is more than chance" in text


def test_a_page_tells_nothing_of_chance_with_one_seed(tmp_path: Path) -> None:
    study(tmp_path / "a", halving.FIFO, 0, max_trials=3)
    study(tmp_path / "b", halving.SuccessiveHalving, 0, n=9)
    text = page(tmp_path)
    assert "may be chance" in text and "Paired by seed" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_it_fits_a_phone_and_anybody_can_read_it(finished: Path, scheme: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    page(finished)
    address, said = (finished / "comparison.html").as_uri(), list[str]()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url) if request.url != address else None)
        opened.goto(address)
        assert opened.evaluate("document.documentElement.scrollWidth") == 360
        found = axe.Axe().run(opened)
        opened.get_by_role("link", name="sha2").click()
        assert opened.title().endswith("SuccessiveHalving")
        browser.close()
    assert found.response["violations"] == []
    assert [line for line in said if not line.endswith("/sha2/report.html")] == []


def training(run_dir: Path, rate: float, seed: int) -> None:
    def quadratic(trial: halving.training.own.Running) -> Generator[dict[str, float]]:
        x = 1.0
        for epoch in range(trial.since + 1, 4):
            x *= 1 - rate
            yield {"error": x * x + seed / 100, "lr": rate / epoch}

    halving.tune(quadratic, {"x": [0]}, halving.FIFO, seed=seed, r_max=3, max_trials=1, run_dir=run_dir)


def test_single_trainings_are_laid_over_each_other(tmp_path: Path) -> None:
    """A line each, those that differ in their seeds alike; nothing is tested on one pair."""
    jobs: list[Job] = []
    for name, rate, seed in (("slow", 0.1, 0), ("fast", 0.5, 0), ("fast", 0.5, 1)):
        directory = tmp_path / f"{name}{seed}"
        training(directory, rate, seed)
        overrides = (f"optimizer={name}", f"seed={seed}", "data=digits")
        history = halving.load(directory).history
        assert history.header is not None
        history.header = replace(history.header, settings={"overrides": overrides})
        jobs.append(Job(directory.name, directory, overrides, "finished", history))
    problems: list[str] = []
    text = comparison_html(tmp_path, jobs, {}, problems)
    assert problems == [] and "<h2>Learning curves</h2>" in text
    shown = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert "Of 2 trainings <b>optimizer=fast</b> has the best mean validation error" in text
    assert text.count("<h2>What they came to</h2>") == 1
    assert shown[:3] == ["error over epochs.", "error over seconds of training.", "learning rate over epochs."]
    legend = text[text.index("<h2>Learning curves</h2>") :].partition("</ul>")[0]
    assert re.findall(r"</svg>(.*?)</li>", legend) == ["optimizer=slow", "optimizer=fast"]
    curves = text[text.index("<h2>Learning curves</h2>") :].partition("</ul>")[2].partition("<h2>")[0]
    assert (curves.count("fill: none; stroke: var(--accent"), curves.count("fill: none; stroke: var(--method-1")) == (
        3,
        6,
    )
    assert "Learning curves" not in comparison_html(tmp_path, [*jobs, replace(jobs[0], history=several())], {})


def test_learning_curves_are_shown_from_their_start_but_for_what_diverges(tmp_path: Path) -> None:
    jobs: list[Job] = []
    errors = {"falls": [0.9, 0.5, *[0.0] * 20], "stays": [0.9, 0.9, *[0.01] * 20], "bursts": [0.9, 1e30, *[0.1] * 20]}
    for name, own in errors.items():
        halving.tune(
            lambda trial, own=own: ({"error": error} for error in own[trial.since :]),
            {"x": [0]}, halving.FIFO, r_max=22, max_trials=1, run_dir=tmp_path / name,
        )  # fmt: skip
        jobs.append(Job(name, tmp_path / name, (f"model={name}",), "finished", halving.load(tmp_path / name).history))
    text = comparison_html(tmp_path, jobs, {})
    curves = text[text.index("<h2>Learning curves</h2>") :].partition("</figure>")[0]
    assert ">0.8</text>" in curves and ">1 worse, drawn at the edge</text>" in curves


def several() -> History:
    """A study of more than one trial."""
    return halving.tune(lambda c, r: 1 / r, {"x": [1, 2]}, halving.FIFO, r_max=3, max_trials=2).history
