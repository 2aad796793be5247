"""ConcordantASHA, worked by hand: eta 2, the levels 1, 2 and 4."""

import csv
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from halving.app.simulation import simulate
from halving.curves import Curves, save
from halving.errors import UserError
from halving.history import Header
from halving.journal import FILE, encode, read
from halving.schedulers import ConcordantASHA
from halving.schedulers.concordant_asha import tau
from halving.schedulers.leaders import concordance
from halving.searchers.table import RandomRows
from halving.trial import Configuration, Done, Outcome, Resume, Start
from halving.tuner import Budget


class Numbers:
    """Proposes {"x": t} for trial t."""

    def propose(self, trial: int) -> Configuration | None:
        return {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""


def run(scheduler: ConcordantASHA, errors: dict[tuple[int, int], float]) -> list[Start | Resume]:
    """Run one assignment after another until `errors`, by (trial, resource), does not know one; return all."""
    done: list[Start | Resume] = []
    while True:
        assignment = scheduler.suggest()
        assert isinstance(assignment, Start | Resume)
        done.append(assignment)
        key = (assignment.trial, assignment.until)
        if key not in errors:
            return done
        scheduler.update(Outcome(*key, errors[key], failed=math.isnan(errors[key])))


def test_tau_counts_pairs_and_takes_a_tie_for_neither() -> None:
    assert tau([1, 2, 3]) == 1 and tau([3, 2, 1]) == -1
    assert tau([1, 3, 2, 4]) == pytest.approx(4 / 6)  # five pairs ascend, one descends
    assert tau([1, 1, 2]) == pytest.approx(2 / 3)


FIRST = {(trial, 1): float(trial) for trial in range(40)}


def test_whoever_waits_goes_on_until_ranks_that_agree_are_enough() -> None:
    """Of three, four and five trials at rung 1 a tau above 1 is needed, which there is not; of six, 5/6."""
    done = run(
        ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), {(t, r): float(t) for t in range(14) for r in (1, 2, 4)}
    )
    # 0, 1 and 2 lead 2, 4 and 6 at rung 0, and as many at rung 1; 3, 4 and 5 are let through, and 6 leads 14.
    assert [(a.trial, a.rung) for a in done if isinstance(a, Resume)] == [
        (0, 1), (1, 1), (0, 2), (2, 1), (3, 1), (1, 2), (4, 1), (5, 1), (2, 2), (6, 1),
    ]  # fmt: skip
    doubts = [(a.trial, a.reason) for a in done if a.reason.startswith("rung 0 is not trusted")]
    needed = "rung 0 is not trusted: its Kendall's tau with the order of the {} at rung 1 is 1.00, not above 1.00"
    assert doubts == [(trial, needed.format(trial)) for trial in (3, 4, 5)]


def test_ranks_that_turn_keep_a_rung_open() -> None:
    errors = FIRST | {(t, 2): 40.0 - t for t in range(40)} | {(t, 4): 40.0 - t for t in range(40)}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), errors)
    assert [a.trial for a in done if isinstance(a, Resume) and a.rung == 1] == list(range(40))


def test_a_higher_rung_counts_more() -> None:
    """Rung 1 agrees with rung 0 and counts once, rung 2 contradicts both and counts twice: nobody is held back."""
    errors = FIRST | {(t, 2): float(t) for t in range(40)} | {(t, 4): -float(t) for t in range(40)}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), errors)
    # Ten are at rung 1 when five have been at rung 2, which it takes to tell.
    to_rung_1 = [(a.trial, a.reason) for a in done if isinstance(a, Resume) and a.rung == 1]
    assert [trial for trial, reason in to_rung_1 if "at rung 2 is -1.00" in reason] == list(range(10, 40))


def test_failed_trials_do_not_count_at_a_rung() -> None:
    errors = {(0, 1): 5.0, (1, 1): math.nan, (2, 1): math.nan, (3, 1): 4.0}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), errors)
    assert [a.trial for a in done] == [0, 1, 2, 3, 3]


def test_everybody_has_a_last_verdict() -> None:
    scheduler = ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4, max_trials=9)
    states: dict[int, str] = {}
    while not isinstance(assignment := scheduler.suggest(), Done):
        assert isinstance(assignment, Start | Resume)
        error = -float(assignment.trial) if assignment.until > 1 else float(assignment.trial)
        outcome = Outcome(assignment.trial, assignment.until, error, failed=assignment.trial == 2)
        states |= {verdict.trial: verdict.state for verdict in scheduler.update(outcome)}
    assert set(states) == set(range(9))
    assert states[2] == "failed"
    assert set(states.values()) == {"failed", "completed"}  # rung 0 misleads to the end


def test_unknown_evidence_is_refused() -> None:
    with pytest.raises(UserError, match=r"scheduler.evidence=rank: unknown; did you mean ranks\?"):
        ConcordantASHA(Numbers(), evidence="rank")  # pyright: ignore


# The rule of earlier studies.


def test_concordance_counts_pairs_and_halves_ties() -> None:
    assert concordance([1, 4], [2, 3, 5]) == pytest.approx(4 / 6)  # 1 leads thrice, 4 once
    assert concordance([2], [2, 3]) == pytest.approx(3 / 4)
    assert concordance([9], [1, 2]) == 0
    assert concordance([1], [1]) == 0.5


def test_leaders_who_led_keep_the_best_one_in_eta() -> None:
    errors = {key: error for key, error in FIRST.items() if key[0] < 8} | {(t, 2): float(t) for t in range(4)}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4, evidence=None), errors)
    # 0 leads from 2 trials on, 1 from 4 on, 2 from 6 on, 3 from 8 on; at rung 1, 0 goes on once 2 are there.
    went_on = [(a.trial, a.until) for a in done if isinstance(a, Resume)]
    assert went_on == [(0, 2), (1, 2), (0, 4)]


def test_leaders_who_did_not_lead_let_everybody_go_on() -> None:
    errors = FIRST | {(t, 2): 10.0 - t for t in range(8)} | {(t, 4): 10.0 - t for t in range(8)}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4, evidence=None), errors)
    # Trials 0 to 3 are at rung 1 after the eighth start; its leaders 3 and 2 were behind 0 and 1 at rung 0.
    released = [a for a in done if isinstance(a, Resume) and "misleads" in a.reason]
    assert [a.trial for a in released][:2] == [4, 5]
    assert released[0].reason == "rung 0 misleads: the leaders of rung 1 were ahead here in only 0% of pairs"


def test_a_study_of_the_earlier_rule_goes_on_by_it(fork: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    """Its config says no evidence; on these curves, whose order turns at once, the rules soon differ."""
    rows = np.arange(40.0)[:, None]
    curves = Curves(np.hstack([rows, 40 - rows, rows * 7 % 40, rows * 11 % 40]), np.arange(1, 5))
    save(curves, tmp_path / "turning.npz")
    run_dir = tmp_path / "run"
    typed = [
        "experiment=simulated",
        f"executor.curves={tmp_path / 'turning.npz'}",
        "scheduler=concordant_asha",
        "eta=2",
    ]
    done = fork(*typed, "scheduler.evidence=null", "budget.resource=60", f"hydra.run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    journal = read(run_dir)
    header = journal[0][0]
    assert isinstance(header, Header)
    for config in ("unresolved", "config"):
        del header.settings[config]["scheduler"]["evidence"]
    header.settings["overrides"].remove("scheduler.evidence=null")
    (run_dir / FILE).write_bytes(b"".join(encode(event, seq, at) for seq, (event, at) in enumerate(journal)))
    done = fork(f"resume={run_dir}", "budget.resource=120")
    assert done.returncode == 0, done.stderr
    own, other = (
        simulate(curves, ConcordantASHA, budget=Budget(resource=120), eta=2, r_max=4, evidence=evidence).finished
        for evidence in (None, "ranks")
    )
    retyped = fork(f"resume={run_dir}", "scheduler=concordant_asha")
    assert retyped.returncode == 1
    assert "scheduler.evidence: None in the study, ranks on the command line" in retyped.stderr
    found = [(int(row["trial"]), int(row["resource"])) for row in csv.DictReader((run_dir / "results.csv").open())]
    assert found == [(trial.trial, evaluation.resource) for trial, evaluation in own]
    assert found != [(trial.trial, evaluation.resource) for trial, evaluation in other]


def test_the_ablation_runs_studies_as_simulate_does(monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    """One run tells the winners at several budgets; a study that diverges pays for what came before."""
    monkeypatch.syspath_prepend(repo / "scripts/bench")
    ablation = importlib.import_module("ablation")
    rng = np.random.default_rng(0)
    error = rng.random((60, 9))
    error[rng.random(60) < 0.3, 4:] = np.nan
    error[:5] = np.nan
    curves = Curves(error, np.arange(1, 10))
    names = list[str]()
    for name, build in ablation.methods(curves, 3, 7):
        names.append(name)
        found = list(ablation.winners(curves, build(RandomRows(curves, 7, reuse=True)), [18, 60, 200]))
        studies = [simulate(curves, build, seed=7, reuse=True, budget=Budget(resource=end)) for end in (18, 60, 200)]
        assert found == [study.incumbent and study.incumbent[0].configuration["row"] for study in studies], name
    assert names[:4] == ["random", "ranks", "leaders", "coin"]
