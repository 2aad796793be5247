"""What a researcher notes of a study is kept as written, wherever the study is shown, and can be added to."""

import html
import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Forks
from test_tracking import header, play, runs, study

import halving
from halving.errors import UserError
from halving.journal import read, replay
from halving.redaction import Secrets
from halving.report.wandb_report import Heading, Text, of_study
from halving.review.rebuilding import rebuild
from halving.tracking.wandb import Wandb

SMALL = ("model=softmax", "data.train_samples=100", "r_max=3", "tracker=none", "executor.threads=1", "scheduler=sha")
ODD = 'wider net, it\'s "fine" a=b, é 漢 <b>&amp;</b> {x: [1} #1\n second\tline \\${x} \\'


def shown(run_dir: Path, page: str = "report.html") -> list[tuple[str, str]]:
    """Return the notes of a page, each with what stands beside it."""
    found = re.findall(
        r'<p class="note">(.*?)(?: <span class="muted">(.*?)</span>)?</p>', (run_dir / page).read_text("utf-8"), re.S
    )
    return [(html.unescape(text), beside) for text, beside in found]


def noted(run_dir: Path) -> list[str]:
    return list(replay(read(run_dir)).notes)


def test_a_note_is_one_text_whatever_is_in_it(fork: Forks, tmp_path: Path) -> None:
    result = fork(*SMALL, f"notes={ODD}", "tracker=wandb", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    known = ODD.replace("\\${x}", "${x}")
    assert noted(tmp_path) == [known]
    ((text, when),) = shown(tmp_path)
    assert text == known and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", when)
    mirrored = runs(tmp_path)
    assert len(mirrored) == 4 and {run["run"]["notes"] for run in mirrored.values()} == {known}
    # What trains the winner again is another run.
    assert "notes=" not in json.loads((tmp_path / "summary.json").read_text())["command"]
    assert "notes:" not in (tmp_path / "best.yaml").read_text()


@pytest.mark.parametrize("end", ["finished", "budget"])
def test_a_note_is_added_to_a_study_that_has_ended_and_it_stays_ended(end: str, fork: Forks, tmp_path: Path) -> None:
    ended = () if end == "finished" else ("budget.evaluations=2",)
    assert fork(*SMALL, "notes=first", *ended, "tracker=wandb", f"hydra.run.dir={tmp_path}").returncode == 0
    before, tables = replay(read(tmp_path)), [(tmp_path / name).read_bytes() for name in ("results.csv", "best.yaml")]
    added = fork(f"resume={tmp_path}", "notes=it was the seed, I think\x1b[2J")
    assert added.returncode == 0, added.stderr
    assert "noted: it was the seed, I think\\x1b[2J" in added.stdout
    after = replay(read(tmp_path))
    assert (after.ended, after.halted, len(after.finished)) == (before.ended, before.halted, len(before.finished))
    assert tables == [(tmp_path / name).read_bytes() for name in ("results.csv", "best.yaml")]
    assert [text for text, _ in shown(tmp_path)] == ["first", "it was the seed, I think\\x1b[2J"]
    journal = (tmp_path / "journal.jsonl").read_bytes()
    refused = fork(f"resume={tmp_path}", "notes=for ${x}")
    assert (refused.returncode, refused.stderr) == (1, "error: notes: needs x, which this config does not have\n")
    for again in ((), ("notes=first",), ("notes=",)):
        assert fork(f"resume={tmp_path}", *again).returncode == 0
    assert (tmp_path / "journal.jsonl").read_bytes() == journal

    rebuild(tmp_path)
    (text,) = {run["run"]["notes"] for run in runs(tmp_path).values()}
    assert re.fullmatch(r"\d.* UTC: first\n\n\d.* UTC: it was the seed, I think\x1b\[2J", text)
    if end == "budget":  # and it goes on with a third
        assert fork(f"resume={tmp_path}", "notes=more", "budget.evaluations=3", "tracker=none").returncode == 0
        assert len(replay(read(tmp_path)).finished) == 3
        assert [text for text, _ in shown(tmp_path)][2:] == ["more"]
    (finding,) = {
        line.split()[0] for line in fork("check", str(tmp_path), program="scripts/study.py").stdout.splitlines()
    }
    assert finding == "ok"


def test_a_single_trial_has_its_note_in_wandb(tmp_path: Path) -> None:
    alone = header(tmp_path, scheduler="single")
    play([alone, *study(tmp_path)[1:5]], Wandb())
    (run,) = runs(tmp_path).values()
    assert run["run"]["notes"] == "a note"


def test_a_note_is_looked_through_in_time_that_grows_as_it_does() -> None:
    long, began = f"notes={'x' * 50_000}, my_token: hidden-hidden", time.process_time()
    assert Secrets.of({}, [long]).redact(long) == long.replace("hidden-hidden", "<redacted>")
    assert time.process_time() - began < 5


def test_a_secret_in_a_note_is_not_kept_and_the_study_goes_on(fork: Forks, tmp_path: Path) -> None:
    secret = {"MY_API_KEY": "hunter2-hunter2"}
    first = fork(*SMALL, "notes=with hunter2-hunter2, of course", f"hydra.run.dir={tmp_path}", **secret)
    assert first.returncode == 0, first.stderr
    plain = fork(*SMALL, f"hydra.run.dir={tmp_path / 'plain'}")
    assert plain.returncode == 0 and noted(tmp_path / "plain") == [] == shown(tmp_path / "plain")
    hashes = [read(run_dir)[0][0].settings["config_hash"] for run_dir in (tmp_path, tmp_path / "plain")]
    assert hashes[0] == hashes[1]
    second = fork(f"resume={tmp_path}", "notes=still hunter2-hunter2", **secret)
    assert second.returncode == 0 and "noted: still <redacted>" in second.stdout, second.stderr
    third = fork(f"resume={tmp_path}", "notes=gone", "scheduler.rounds=2")
    assert third.returncode == 0, third.stderr
    assert noted(tmp_path) == ["with <redacted>, of course", "still <redacted>", "gone"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_multirun_shows_its_notes_once_and_an_experiment_may_have_one(fork: Forks, tmp_path: Path) -> None:
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/experiment/mine.yaml").write_text("# @package _global_\nnotes: |\n  of the file: a,\n  <i>b</i>\n")
    words = ("-m", *SMALL[:-1], "scheduler=fifo", "scheduler.max_trials=1,2", "--config-dir", "own", "experiment=mine")
    begun = fork(*words, "hydra.sweep.dir=swept", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    swept, file = tmp_path / "swept", "of the file: a,\n<i>b</i>\n"
    assert shown(swept, "comparison.html") == [(file, "")]
    for more in (("resume=swept/1", "notes=of one, typed"), (*words, "resume=swept", "notes=of both, typed")):
        assert fork(*more, cwd=tmp_path).returncode == 0
    both, one = "of both, typed", "of one, typed"
    assert [noted(swept / str(i)) for i in range(2)] == [[file, both], [file, one, both]]
    assert fork("report", str(swept), program="scripts/study.py").returncode == 0
    assert shown(swept, "comparison.html") == [(file, ""), (both, ""), (one, "job 1")]
    assert "notes=" not in (swept / "comparison.html").read_text("utf-8")


def test_tune_and_ask_and_tell_keep_notes(tmp_path: Path) -> None:
    def study(notes: object, **options: object) -> halving.Study:
        return halving.tune(
            lambda c, r: c["x"] / r, {"x": [3.0, 2.0, 1.0]}, r_max=3, run_dir=tmp_path, notes=notes, **options
        )

    with pytest.raises(UserError, match="notes=3: must be a text"):
        study(3)
    assert list(study("one").history.notes) == ["one"]
    assert list(study("two", resume=True).history.notes) == ["one", "two"]
    assert list(study("", resume=True).history.notes) == list(halving.load(tmp_path).history.notes) == ["one", "two"]
    assert [text for text, _ in shown(tmp_path)] == ["one", "two"]
    blocks = of_study(halving.load(tmp_path).history, tmp_path, "study", "project").blocks
    told = next(after for heading, after in pairwise(blocks) if heading == Heading("Notes"))
    assert isinstance(told, Text) and re.fullmatch(r"\d.* UTC: one\n\n\d.* UTC: two", told.text)
    with halving.AskTell({"x": [1.0]}, halving.FIFO, max_trials=1, r_max=1, notes="by hand") as asking:
        assert list(asking.study.history.notes) == ["by hand"]
