"""One thing at a time around a winner: what is proposed, how it is judged, and the command as users type it."""

import math
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import Forks, colours
from scipy import stats

import halving
from halving.config.sensitivity import directory
from halving.config.trials import config_of
from halving.history import Header, History
from halving.report.canvas import ACCENT, INK, PAPER
from halving.report.html import report_html
from halving.report.sensitivity import lines, sensitivity, verdict
from halving.searchers import OneAtATimeSearcher
from halving.space import Space
from halving.study import Study
from halving.trial import Configuration, Finished, Outcome, Start, Verdict

SMALL = (
    *("model=softmax", "data.train_samples=100", "r_max=2", "tracker=none", "executor.threads=1", "device=cpu"),
    *("optimizer.lr=0.1", "scheduler=sha", "eta=2"),
)
SPACE = Space.from_config(
    {
        "lr": stats.loguniform(1e-4, 1.0),
        "units": stats.randint(1, 4),
        "depth": [1, 2, 4, 8, 16],
        "act": ["relu", "tanh", None],
        "optimizer": {
            "_choice_": {
                "sgd": {"momentum": [0.0, 0.9], "decay": stats.uniform(0, 1)},
                "adam": {"beta": stats.uniform(0, 1), "decay": stats.uniform(2, 2)},
                "none": {},
            }
        },
    }
)
BASE: Configuration = {
    "lr": 0.1, "units": 2, "depth": 4, "act": "tanh",
    "optimizer": "sgd", "optimizer.momentum": 0.9, "optimizer.decay": 0.25,
}  # fmt: skip
SGD = {"optimizer": "sgd", "optimizer.momentum": 0.9, "optimizer.decay": 0.25}
LISTED: list[Configuration] = [
    BASE,
    {**BASE, "lr": 1e-3},  # at 1/4 of four powers of ten; the other, at 3/4, is the base's own 0.1
    {**BASE, "units": 1},
    {**BASE, "units": 3},
    {**BASE, "depth": 2},
    {**BASE, "depth": 8},
    {**BASE, "act": "relu"},
    {**BASE, "act": None},
    {**{name: BASE[name] for name in ("lr", "units", "depth", "act")},
     "optimizer": "adam", "optimizer.beta": 0.5, "optimizer.decay": 3.0},
    {**{name: BASE[name] for name in ("lr", "units", "depth", "act")}, "optimizer": "none"},
    {**BASE, "optimizer.momentum": 0.0},
    {**BASE, "optimizer.decay": 0.75},
]  # fmt: skip


def test_the_proposals_are_as_listed_by_hand() -> None:
    searcher = OneAtATimeSearcher(SPACE, 3, BASE, points=2, seeds=2, streams=("trial", "order_seed"))
    proposed = [searcher.propose(trial) for trial in range(2 * len(LISTED) + 1)]
    assert len(searcher) == 2 * len(LISTED) and proposed.pop() is None
    streams: list[object] = []
    for i, found in enumerate(proposed):
        assert found is not None and found["trial"] == found["order_seed"]
        streams.append(found.pop("trial"))
        del found["order_seed"]
        expected = LISTED[i % len(LISTED)]
        assert list(found) == list(expected) and found == pytest.approx(expected, nan_ok=False), i
    # Each round, and nothing else, has its own stream: points compare in pairs.
    assert [len(set(half)) for half in (streams[: len(LISTED)], streams[len(LISTED) :], streams)] == [1, 1, 2]


def test_integers_have_no_duplicates_and_the_last_of_several_is_the_base() -> None:
    space = Space.from_config({"n": stats.randint(0, 9), "x": [5.0]})
    searcher = OneAtATimeSearcher(space, 0, [{"n": 1, "x": 5.0}, {"n": 4, "x": 5.0}], points=7, seeds=1)
    # Of nine values the quantiles 1/14, 3/14, ... are 0 1 3 4 5 7 8.
    assert [searcher.propose(trial) for trial in range(len(searcher))] == [
        {"n": n, "x": 5.0} for n in (4, 0, 1, 3, 5, 7, 8)
    ]


def test_few_values_are_all_tried_however_seldom_and_each_round_has_its_stream() -> None:
    space = Space.from_config({"w": stats.rv_discrete(values=([1, 2, 3], [0.98, 0.01, 0.01]))})
    searcher = OneAtATimeSearcher(space, 0, {"w": 1}, points=3, seeds=40, streams=("trial",))
    proposed = [searcher.propose(trial) or {} for trial in range(len(searcher))]
    assert [each["w"] for each in proposed] == [1, 2, 3] * 40
    assert len({each["trial"] for each in proposed}) == 40


def told(rows: dict[tuple[int, int], Sequence[float]], maximize: bool = False, **header: object) -> History:
    """A study of dimensions a and b, by seeds: the first row is the base; NaN is a failure, a short row still runs."""
    history = History()
    history.apply(
        Header("told", "fifo", "one_at_a_time", 0, 9, maximize=maximize, dimensions=("a", "b"), full_cost=9.0), 0.0
    )
    number = 0
    for seed in range(max(map(len, rows.values()))):
        for (a, b), errors in rows.items():
            if seed < len(errors):
                history.apply(Start(number, {"a": a, "b": b, "trial": seed}, 9), 1.0)
                history.apply(Finished(Outcome(number, 9, errors[seed], failed=math.isnan(errors[seed]))), 2.0)
                history.apply(Verdict(number, "failed" if math.isnan(errors[seed]) else "completed"), 2.0)
                number += 1
    return history


def test_the_verdicts_are_as_worked_by_hand() -> None:
    found = sensitivity(told({(0, 0): (0.10, 0.12, 0.14), (1, 0): (0.31, 0.32, 0.36), (0, 1): (0.11, 0.11, 0.14)}))
    assert found is not None
    # From their means .12, .33, .12 they deviate by -2 0 2, -2 -1 3 and -1 -1 2 hundredths: squares 8, 14 and 6. In
    # common are the medians -2 -1 2, with a mean of -1/3, and -1/3 -1/3 2/3 is left of each: squares 2/3.
    # The median of chi-squared over 2 degrees of freedom is 2 ln 2.
    assert found.spread == pytest.approx(0.01 * math.sqrt(8 / (2 * math.log(2))))
    assert found.noise == pytest.approx(0.01 * math.sqrt(2 / 3 / (2 * math.log(2))))
    # For two means Tukey's quantile is t's times sqrt(2): two-sided, at 5 % over two dimensions. The density of
    # chi-squared at its median is 1/4: 8 * 3 points * (2 ln 2 / 4)^2 degrees of freedom.
    quantile = math.sqrt(2) * stats.t.isf(0.05 / 2 / 2, 24 * (math.log(2) / 2) ** 2)
    a, b = found.effects
    assert a.limit == b.limit == pytest.approx(quantile * found.noise / math.sqrt(3))
    assert (a.range, b.range) == pytest.approx((0.21, 0.0)) and 0.02 < a.limit < 0.03
    assert (verdict(a), verdict(b)) == ("matters", "within noise")


def test_a_better_value_is_named_where_the_metric_is_maximised_too() -> None:
    rows = {(0, 0): (0.70, 0.72, 0.74), (2, 0): (0.91, 0.92, 0.96), (0, 1): (0.71, 0.71, 0.74)}
    history = told({key: [-error for error in row] for key, row in rows.items()}, maximize=True)
    found = sensitivity(history)
    assert found is not None and [*map(verdict, found.effects)] == ["matters: better at 2", "within noise"]
    assert [" ".join(line.split()) for line in lines(history)][2].startswith("a 0 2: 0.930 0: 0.720 0.210 ")


def test_failures_matter_and_enter_no_mean() -> None:
    nan = math.nan
    history = told({(0, 0): (0.1, 0.1, 0.12), (1, 0): (0.1, nan, 0.1), (2, 0): (nan,) * 3, (0, 1): (0.1, 0.11, 0.12)})
    found = sensitivity(history)
    assert found is not None
    assert [*map(verdict, found.effects)] == ["matters: fails at 1 (1 of 3 seeds), 2", "within noise"]
    assert [point.value for point in found.effects[0].known] == [0], "of three seeds, none can stand for another"
    page = report_html(history)
    assert "fails at 1 (1 of 3 seeds), 2" in page and "What matters: a. Within noise: b." in page


def test_what_cannot_be_told_is_not() -> None:
    one = sensitivity(told({(0, 0): (0.1,), (1, 0): (0.9,)}))
    assert one is not None and [*map(verdict, one.effects)] == ["one seed cannot tell"]
    # Of a third round only the base has ended yet: two seeds count.
    going = sensitivity(told({(0, 0): (0.1, 0.1, 9.0), (1, 0): (0.9, 0.9), (0, 1): (0.1, 0.11)}))
    assert going is not None and (going.seeds, going.base.mean, verdict(going.effects[0])) == (2, 0.1, "matters")
    assert sensitivity(told({(0, 0): ()} | {(1, 0): ()})) is None


@pytest.mark.parametrize("unstable", [0, 3])
def test_of_studies_without_any_effect_one_in_twenty_finds_one(unstable: int) -> None:
    rng, keys = np.random.default_rng(0), [(0, 0), *((a, 0) for a in range(1, 8)), *((0, b) for b in range(1, 4))]
    found = 0
    for _ in range(200):
        errors = rng.normal(0.0, 1.0, (len(keys), 3))
        errors[1 : 1 + unstable] *= 20.0  # whose means are really far off, by what is not the base's noise
        errors += rng.normal(0.0, 5.0, 3)  # a seed's own, for all
        result = sensitivity(told(dict(zip(keys, errors.tolist(), strict=True))))
        assert result is not None
        found += any(effect.matters for effect in result.effects[unstable > 0 :])
    assert found <= 18  # of 200 at 5 %: more has a probability of 0.5 %


@pytest.fixture(scope="module")
def study(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("study") / "run"
    done = fork(*SMALL, f"hydra.run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    return run_dir


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def came_to(study: Study) -> list[object]:
    return [(trial.configuration, trial.last.error, trial.state) for trial in study.trials]


def test_the_command_begins_goes_on_and_draws(fork: Forks, study: Path, tmp_path: Path) -> None:
    original, copy = content(study), tmp_path / "run"
    shutil.copytree(study, copy)
    words = ("--points", "2", "--seeds", "2")
    script = {"program": "scripts/study.py"}
    done = fork("sensitivity", str(study), *words, **script)
    assert done.returncode == 0, done.stderr
    assert content(study) == original, "it is left as it was"
    best, there = halving.load(study).best, study.with_name("run-sensitivity")
    whole = halving.load(there)
    base = whole.trials[0].configuration
    assert base == best.configuration | {name: base[name] for name in ("trial", "order_seed")}
    count = len(whole.trials)
    assert (
        f"{count // 2} points of 2 dimensions with 2 seeds each, {count} trainings, {2 * count} epochs" in done.stdout
    )
    table = [line for line in done.stdout.splitlines() if line.startswith(("optimizer.lr ", "data.batch_size "))]
    assert len(table) == 2 and all("matters" in line or "within noise" in line for line in table)
    drawn = colours(there / "sensitivity.png")
    assert drawn[ACCENT] > 500 and drawn[INK] > 100 and drawn[PAPER] > sum(drawn.values()) / 2
    assert "What matters around the base" in (there / "report.html").read_text("utf-8")

    # Interrupted and then killed in the middle, it goes on by the same command, and comes to the same.
    killed = tmp_path / "run-sensitivity"
    for number, status, trial in ((signal.SIGINT, 130, 1), (signal.SIGKILL, -9, 4)):
        process = fork.begin("sensitivity", str(copy), *words, **script)
        process.said(f"\ntrial {trial} (")
        process.send_signal(number)
        out, _ = process.communicate()
        assert process.returncode == status and ("go on with: python train.py resume=" in out) == (status == 130)
        assert trial <= len(halving.load(killed).history.finished) < count
    assert fork("sensitivity", str(copy), **script).returncode == 0
    assert came_to(halving.load(killed)) == came_to(whole)

    # A finished one is only drawn again; more seeds are added to it, and nothing else.
    journal = (killed / "journal.jsonl").read_bytes()
    (killed / "sensitivity.png").unlink()
    again = fork("sensitivity", str(copy), *words, **script)
    assert (again.returncode, (killed / "journal.jsonl").read_bytes()) == (0, journal), again.stderr
    assert table == [line for line in again.stdout.splitlines() if line.startswith(("optimizer.lr ", "data.batch_"))]
    assert colours(killed / "sensitivity.png") == drawn, "the same study, the same picture"
    for other in ("--points=3", "--seeds=1"):
        refused = fork("sensitivity", str(copy), other, **script)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1) and "was begun with" in refused.stderr
    assert fork("sensitivity", str(killed), "--seeds", "3", **script).returncode == 0
    more = halving.load(killed)
    assert len(more.trials) == count // 2 * 3 and came_to(more)[:count] == came_to(whole)


def test_what_has_no_sensitivity_says_so_in_one_line(fork: Forks, tmp_path: Path) -> None:
    halving.tune(lambda c, _: c["x"], {"x": [1.0, 2.0]}, halving.FIFO, r_max=1, max_trials=2, run_dir=tmp_path / "own")
    alone = fork(*SMALL, "scheduler=single", "space=none", f"hydra.run.dir={tmp_path / 'alone'}")
    lost = fork(*SMALL, "scheduler=fifo", "scheduler.max_trials=1", "fidelity=command", "fidelity.command=ls nowhere",
                f"hydra.run.dir={tmp_path / 'lost'}")  # fmt: skip
    assert alone.returncode == 0 and "no trial survived" in lost.stderr
    said = {
        "own": "a Python function", "alone": "searched nothing", "lost": "no trial of this study survived",
        "nowhere": "no journal.jsonl",
    }  # fmt: skip
    for name, words in said.items():
        refused = fork("sensitivity", str(tmp_path / name), program="scripts/study.py")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1) and words in refused.stderr
        assert not (tmp_path / f"{name}-sensitivity").exists()
    there = shutil.copytree(tmp_path / "own", tmp_path / "alone-sensitivity")
    refused = fork("sensitivity", str(tmp_path / "alone"), program="scripts/study.py")
    assert (refused.returncode, refused.stderr) == (
        1,
        f"error: sensitivity: {there} holds another study; move it away\n",
    )
    shutil.rmtree(there)
    varied = ("+space.optimizer.lr=[0.1,0.2]", "+space.data.batch_size=[64]", "--seeds", "1")
    done = fork("sensitivity", str(tmp_path / "alone"), *varied, program="scripts/study.py")
    assert done.returncode == 0 and "one seed cannot tell" in done.stdout, done.stderr
    assert "No other value has been tried of: data.batch_size." in done.stdout


def test_the_base_is_the_winner_whatever_has_become_of_the_config_files(fork: Forks, tmp_path: Path) -> None:
    own, run_dir, script = tmp_path / "own", tmp_path / "run", {"program": "scripts/study.py"}
    (own / "optimizer").mkdir(parents=True)
    text = "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\nmomentum: 0.5\n"
    (own / "optimizer" / "mine.yaml").write_text(text)
    (own / "averaging").mkdir()
    ema = "_target_: halving.training.averaging.EMA\ndecay: 0.9\n"
    (own / "averaging" / "mine.yaml").write_text(ema)
    (own / "mine.py").write_text(
        "def train(trial):\n"
        "    assert set(trial.configuration) == {'optimizer.lr', 'data.batch_size'}, dict(trial.configuration)\n"
        "    yield {'val_error': trial.configuration['optimizer.lr'] + trial.config['trial'] % 7 / 100}\n"
    )
    done = fork("--config-dir", str(own), "optimizer=mine", "averaging=mine", *SMALL, "r_max=1", "fidelity=training",
                "scheduler=fifo", "scheduler.max_trials=2", "fidelity.function=mine.train", "trusted_packages=[mine]",
                f"hydra.run.dir={run_dir}", PYTHONPATH=f"{os.environ.get('PYTHONPATH', '')}:{own}")  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (own / "optimizer" / "mine.yaml").write_text(text.replace("0.5", "0.9"))
    words = ("sensitivity", str(run_dir), "--points", "2", "--seeds", "2", "trusted_packages=[mine]")
    script["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}:{own}"
    refused = fork(*words, **script)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "optimizer.momentum was 0.5 and is 0.9; add optimizer.momentum=0.5" in refused.stderr
    (own / "averaging" / "mine.yaml").write_text(ema.replace("0.9", "0.8"))
    refused = fork(*words, "optimizer.momentum=0.5", **script)
    assert "averaging.decay was 0.9 and is 0.8; add averaging.decay=0.9" in refused.stderr
    done = fork(*words, "optimizer.momentum=0.5", "averaging.decay=0.9", **script)
    assert done.returncode == 0, done.stderr
    # The two errors of a point differ by its stream alone, and all points share the streams.
    study = halving.load(tmp_path / "run-sensitivity")
    count = len(study.trials) // 2
    for trial in study.trials:
        stream = trial.configuration["trial"]
        assert stream == study.trials[trial.trial // count * count].configuration["trial"]
        assert trial.last.error == pytest.approx(trial.configuration["optimizer.lr"] + stream % 7 / 100)


def test_what_only_an_option_has_stays_with_it(fork: Forks, tmp_path: Path) -> None:
    space = "++space.optimizer={_choice_:{sgd:{momentum:[0.5,0.9]},adamw:{weight_decay:[0.1,0.2]}}}"
    for option, value in (("sgd", "momentum=0.9"), ("adamw", "weight_decay=0.2")):
        run_dir = tmp_path / option
        done = fork(*SMALL[:-3], space, f"optimizer={option}", f"optimizer.{value}", "scheduler=fifo",
                    "scheduler.max_trials=1", f"hydra.run.dir={run_dir}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert fork("sensitivity", str(run_dir), "--seeds=1", program="scripts/study.py").returncode == 0
        varied = halving.load(run_dir.with_name(f"{option}-sensitivity"))
        assert varied.history.header is not None
        assert {trial.configuration["optimizer"] for trial in varied.trials} == {"sgd", "adamw"}
        for trial in varied.trials:
            own = config_of(varied.history.header, trial.configuration, 0)["optimizer"]
            if trial.configuration["optimizer"] == "sgd":
                assert own["momentum"] > 0 and own["weight_decay"] == 0
            else:
                assert "momentum" not in own and own["weight_decay"] > 0.05


def test_a_function_has_its_streams_too(fork: Forks, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import random\ndef error(configuration, resource):\n    assert set(configuration) == {'x'}\n"
        "    return configuration['x'] + random.random() / 100\n"
    )
    words = {"cwd": tmp_path, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"}
    trusted = "trusted_packages=[mine]"
    done = fork(*SMALL[2:-3], "fidelity=function", "fidelity.function=mine.error", trusted, "scheduler=fifo",
                "+fidelity.configuration.x=3.0", "~space", "+space.fidelity.configuration.x=[2.0,3.0,1.0,0.0]",
                "searcher=grid", "scheduler.max_trials=3", "hydra.run.dir=run", **words)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert halving.load(tmp_path / "run").best.trial == 2
    done = fork("sensitivity", "run", "--seeds", "2", trusted, program="scripts/study.py", **words)
    assert done.returncode == 0 and "base is" not in done.stderr, done.stderr
    errors = [trial.last.error for trial in halving.load(tmp_path / "run-sensitivity").trials]
    assert [round(error) for error in errors] == [1, 2, 3, 0] * 2
    assert len({round(error % 1, 9) for error in errors}) == 2, "all points of a round draw the same"
    # Its base stays what it is where the study finds another winner.
    assert fork("resume=run", "scheduler.max_trials=4", trusted, **words).returncode == 0
    refused = fork("sensitivity", "run", trusted, program="scripts/study.py", **words)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "lies around another trial than 3; move " in refused.stderr


def test_it_lies_beside_a_study_and_beside_a_whole_multirun(tmp_path: Path) -> None:
    (tmp_path / "sweep" / "a").mkdir(parents=True)
    (tmp_path / "sweep" / "multirun.yaml").touch()
    assert directory(tmp_path / "sweep" / "a" / "0") == tmp_path / "sweep-sensitivity" / "a" / "0"
    assert directory(tmp_path / "alone") == tmp_path / "alone-sensitivity"


def test_a_sensitivity_may_train_shorter_and_a_resumed_study_has_its_last_executor(
    study: Path, fork: Forks, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    begun = ("executor=process", "executor.workers=1", "budget.evaluations=1", f"hydra.run.dir={run_dir}")
    own = [word for word in SMALL if not word.startswith("executor.")]
    assert fork(*own, *begun).returncode == 0
    assert (done := fork(f"resume={run_dir}", "executor=serial", "budget.evaluations=9")).returncode == 0, done.stderr
    words = ("sensitivity", str(run_dir), "--points", "1", "--seeds", "2", "r_max=1")
    done = fork(*words, program="scripts/study.py")
    assert done.returncode == 0, done.stderr
    header = halving.load(tmp_path / "run-sensitivity").history.header
    assert header is not None and header.r_max == header.provenance.config["fidelity"]["epochs"] == 1
