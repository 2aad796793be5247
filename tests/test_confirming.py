"""Confirmations: the best of a study trained again with fresh seeds, as a user asks for them and reads of them."""

import csv
import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import nll_loss

import halving
from halving.checkpoints import sweep
from halving.checkpoints.content import read as checkpoint
from halving.confirming import Confirming, job
from halving.data.base import split_data
from halving.executors import Process
from halving.history import Chosen, Confirm, Confirmed, Ended, Header, History
from halving.journal import read
from halving.report.conclusion import conclusion
from halving.report.confirmation import checkpoint as left
from halving.report.confirmation import half_width, reviewed, seeds_needed
from halving.report.wandb_report import Text, of_study
from halving.trial import Epoch, Finished, Outcome, Start, Verdict
from halving.tuner import Budget

SMALL = (
    *("model=softmax", "data.train_samples=100", "r_max=3", "tracker=none", "executor.threads=1", "device=cpu"),
    *("scheduler=sha", "scheduler.n=6"),
)
LR = {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.001, "b": 1.0}}
OLD = Path(__file__).parent / "golden/killed_0.2.0"


def told(errors: dict[int, list[float]], study: dict[int, float], **header: Any) -> History:
    """A study of one rung whose trials came to `study`, and to `errors` with fresh seeds."""
    history = History()
    history.apply(Header("told", "sha", "random", 0, 9, **header), 0.0)
    for trial, error in study.items():
        history.apply(Start(trial, {"lr": 0.1 * trial}, 9), 1.0)
        history.apply(Finished(Outcome(trial, 9, error)), 2.0)
        history.apply(Verdict(trial, "completed"), 2.0)
    number = 0
    for trial, each in errors.items():
        for repeat, error in enumerate(each, start=1):
            number += 1
            history.apply(Confirm(number, trial, repeat, 9, "order"), 3.0)
            history.apply(Confirmed(number, error, cost=9), 4.0)
    return history


def test_the_review_is_as_worked_by_hand() -> None:
    history = told({4: [0.20, 0.22, 0.24], 7: [0.25, 0.24, 0.26]}, {3: 0.4, 4: 0.19, 7: 0.18})
    review = reviewed(history)
    assert review is not None
    first, second = review.rows
    assert (first.trial, second.trial, review.chosen, review.own) == (4, 7, 4, 7), "the best mean, not the luckiest"
    # Means .22 and .25; standard deviations .02 and .01; t(.975; 2) = 4.3027; 4.3027 * .02 / sqrt(3) = .04968.
    assert (first.mean, first.spread, first.standard_error) == pytest.approx((0.22, 0.02, 0.0115470))
    assert (first.low, first.high) == pytest.approx((0.22 - 0.0496828, 0.22 + 0.0496828), abs=1e-6)
    assert (first.curse, second.curse) == pytest.approx((0.03, 0.07))
    # In pairs .05, .02, .02: mean .03, standard deviation .0173205, 4.3027 * .01 = .0430265.
    difference = review.difference
    assert difference is not None and (difference.first, difference.second) == (4, 7)
    assert (difference.mean, difference.high - difference.mean) == pytest.approx((0.03, 0.0430265), abs=1e-6)
    # With 4 seeds t(.975; 3) = 3.1824, 3.1824 * .0173205 / 2 = .02756 < .03: four are enough, and three are not.
    assert difference.seeds_needed == 4


def test_how_many_seeds_tell_two_apart() -> None:
    # t(.975; 17) = 2.1098: 2.1098 * 2 / sqrt(18) = .9946 < 1, and 2.1199 * 2 / sqrt(17) = 1.028 > 1.
    assert seeds_needed(1.0, 2.0, 5) == 18
    review = reviewed(told({4: [0.0] * 5, 7: [-1.0, -1.0, 1.0, 3.0, 3.0]}, {4: 0.1, 7: 0.2}))
    assert review is not None and review.difference is not None and review.difference.seeds_needed == 18
    assert seeds_needed(10.0, 2.0, 5) is None, "these do"
    assert seeds_needed(0.0, 2.0, 5) is None, "nothing would"
    assert math.isnan(half_width([0.1]))


def test_the_test_error_has_two_sources_that_add_up() -> None:
    history = told({4: [0.2, 0.2]}, {4: 0.19}, metric="val_error")
    tests = {"1": {"test_error": 0.18, "test_samples": 400.0}, "2": {"test_error": 0.22, "test_samples": 400.0}}
    history.apply(Chosen(4, tests, {"test_error": 0.17}), 5.0)
    review = reviewed(history)
    assert review is not None and review.test is not None
    # Over seeds: .0282843 / sqrt(2) = .02. Of a rate of .2 over 400: sqrt(.16 / 400) = .02. Together .0282843.
    assert (review.test.seed_error, review.test.sampling_error) == pytest.approx((0.02, 0.02))
    assert (review.test.combined, review.test.ensemble) == pytest.approx((0.0282843, 0.17), abs=1e-6)


def test_a_failed_seed_cannot_be_chosen_and_a_maximised_metric_reads_as_it_is() -> None:
    history = told({4: [-0.9, math.inf], 7: [-0.8, -0.7]}, {4: -0.95, 7: -0.85}, metric="accuracy", maximize=True)
    history.apply(Chosen(7), 5.0)
    history.apply(Ended(7), 6.0)
    review = reviewed(history)
    assert review is not None and review.chosen == 7
    text = conclusion(history)
    assert "trial 4: 1 of 2 seeds failed" in text
    assert re.search(r"trial 7: 0\.7\d* ± 0\.\d+ \(95 %; in the study 0\.8\d*, -0\.10* with fresh seeds", text), text
    (row,) = [each for each in halving.Study(history).summary["confirmed"]["trials"] if each["trial"] == 7]
    assert row["mean"] == pytest.approx(0.75) and row["low"] < 0.75 < row["high"]


def test_a_single_seed_is_not_chosen_and_what_is_no_number_is_null() -> None:
    history = told({4: [0.1], 7: [0.3, 0.2], 3: [0.2, math.inf]}, {4: 0.3, 7: 0.2, 3: 0.1})
    review = reviewed(history)
    assert review is not None and review.chosen == 7, "one of a single seed is the luckiest again"
    assert reviewed(told({4: [0.1], 7: [0.3]}, {4: 0.3, 7: 0.2})).chosen is None  # pyright: ignore
    rows = {each["trial"]: each for each in halving.Study(history).summary["confirmed"]["trials"]}
    assert rows[3]["mean"] is rows[3]["low"] is rows[4]["spread"] is None


def test_confirmations_take_nothing_of_a_budget_of_seconds() -> None:
    history = told({4: [0.1, 0.2]}, {4: 0.3})  # until 2 s, and the confirmations until 4 s
    history.apply(Chosen(4), 64.0)
    assert history.confirming == 62.0 and history.seconds == 64.0
    assert not Budget(seconds=5).reached(history, 0.0, 66.0)
    assert Budget(seconds=4).reached(history, 0.0, 66.0) == "budget.seconds=4 reached"


def test_what_is_fresh_is_what_was_asked_for() -> None:
    history = told({}, {4: 0.19})
    streams = {vary: job(history, 0, Confirm(1, 4, 2, 9, vary)).streams for vary in ("init", "order", "split")}
    assert [set(each) for each in streams.values()] == [
        {"trial"},
        {"trial", "order_seed"},
        {"trial", "order_seed", "seed"},
    ]
    assert len({seed for each in streams.values() for seed in each.values()}) == 1
    assert (
        job(history, 0, Confirm(9, 4, 3, 9, "init")).streams
        != streams["init"]
        != job(history, 1, Confirm(1, 4, 2, 9, "init")).streams
    )
    inputs, targets = torch.arange(40, dtype=torch.float32).view(-1, 1), torch.arange(40) % 2
    one = split_data(inputs, targets, inputs, targets, batch_size=4)
    other = halving.data.base.replace(one, order_seed=1)
    assert (
        one.order(1).tolist() != other.order(1).tolist()
        and other.order(1).tolist() == halving.data.base.replace(one, seed=1).order(1).tolist()
    )
    assert one.subset(9).train.inputs.tolist() == other.subset(9).train.inputs.tolist()


@pytest.fixture(scope="module")
def confirmed(fork: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study whose best three were trained again with three seeds, and what was printed."""
    run_dir = tmp_path_factory.mktemp("confirmed") / "run"
    done = fork(*SMALL, f"hydra.run.dir={run_dir}", "confirm.top=3", "confirm.seeds=3")
    assert done.returncode == 0, done.stderr
    assert "then the best 3 again, each with 3 fresh seeds: 27 epochs at most\n" in done.stdout
    return run_dir, done.stdout


def events(run_dir: Path, *kinds: type) -> list[Any]:
    return [event for event, _ in read(run_dir) if isinstance(event, kinds)]


def test_a_study_is_the_same_with_confirmations_and_without(
    fork: Any, confirmed: tuple[Path, str], tmp_path: Path
) -> None:
    done = fork(*SMALL, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0 and re.search(
        r"luckiest of 6, a choice that its interval leaves out; confirm it: .* resume=\S+ confirm.top=3\n", done.stdout
    )
    kinds = (Start, Epoch, Verdict)
    plain = [
        [replace_seconds(each) for each in events(run_dir, *kinds)] for run_dir in (tmp_path / "run", confirmed[0])
    ]
    assert plain[0] == plain[1]
    alone, both = (json.loads((run_dir / "summary.json").read_text()) for run_dir in (tmp_path / "run", confirmed[0]))
    for name in ("trials", "evaluations", "resource_spent", "full_resource"):
        assert alone[name] == both[name]
    assert (tmp_path / "run/results.csv").read_text().count("\n") == (confirmed[0] / "results.csv").read_text().count(
        "\n"
    )

    (tmp_path / "link").symlink_to(tmp_path / "run")
    later = fork(f"resume={tmp_path / 'link'}", "confirm.top=3", "confirm.seeds=3")  # after it has ended
    assert later.returncode == 0, later.stderr
    found = [[each.error for each in events(run_dir, Confirmed)] for run_dir in (tmp_path / "run", confirmed[0])]
    assert found[0] == found[1] and len(found[0]) == 9
    assert "again, fresh seed 3 of 3: val_error 0." in later.stdout
    assert halving.load(tmp_path / "run").history.header.settings["run_dir"] == str(tmp_path / "run"), (
        "names W&B's runs"
    )
    assert events(tmp_path / "run", Chosen)[-1] == events(confirmed[0], Chosen)[-1]
    again = fork(f"resume={tmp_path / 'run'}", "confirm.top=3", "confirm.seeds=3")
    assert again.returncode == 0 and len(events(tmp_path / "run", Confirm)) == 9, "there is nothing left to do"
    more = fork(f"resume={tmp_path / 'run'}", "confirm.seeds=4")
    assert more.returncode == 0 and len(events(tmp_path / "run", Confirm)) == 12, "one seed more for each"


def replace_seconds(event: Any) -> Any:
    if isinstance(event, Epoch):
        return event.trial, event.epoch, {name: value for name, value in event.metrics.items() if name != "seconds"}
    return event


def test_the_chosen_trial_alone_is_tested_and_its_ensemble_is_the_mean_of_its_seeds(
    confirmed: tuple[Path, str],
) -> None:
    run_dir, out = confirmed
    (chosen,) = events(run_dir, Chosen)
    asked = {each.number: each for each in events(run_dir, Confirm)}
    errors: dict[int, list[float]] = {}
    for each in events(run_dir, Confirmed):
        errors.setdefault(asked[each.number].trial, []).append(each.error)
    assert chosen.trial == min(errors, key=lambda trial: fmean(errors[trial]))
    own = [number for number, each in asked.items() if each.trial == chosen.trial]
    kept = {path.name for path in (run_dir / "checkpoints").glob("-*")}
    assert kept == {f"-{number}" for number in own}, "what nobody needs any more is deleted"
    data = halving.instantiate({"_target_": "halving.data.scikit_digits.digits", "batch_size": 1, "train_samples": 100})
    probabilities = []
    for number in own:
        weights = checkpoint(run_dir / f"checkpoints/-{number}/3.pt")["state"]["model"]
        ((inputs, targets),) = data.batches(data.test, size=1000)
        (weight, bias) = weights.values() if len(weights) == 2 else (None, None)
        probabilities.append((inputs.flatten(1) @ weight.T + bias).double().softmax(1))
    mean = torch.stack(probabilities).mean(0)
    assert chosen.ensemble["test_error"] == pytest.approx(float((mean.argmax(1) != targets).double().mean()))
    assert chosen.ensemble["test_loss"] == pytest.approx(float(nll_loss(mean.log(), targets)), rel=1e-4)
    each = [float((one.argmax(1) != targets).double().mean()) for one in probabilities]
    assert [test["test_error"] for test in chosen.tests.values()] == pytest.approx(each)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["best_trial"] == chosen.trial and summary["test_error"] == pytest.approx(fmean(each))
    assert f"trial {chosen.trial} wins" in out and "seeds as an ensemble" in out
    assert isinstance(halving.load(run_dir).best_model(), torch.nn.Module)


def test_a_confirmation_is_a_training_that_one_can_type(fork: Any, confirmed: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = confirmed
    study = halving.load(run_dir)
    asked, ended = events(run_dir, Confirm)[0], events(run_dir, Confirmed)[0]
    streams = job(study.history, 0, asked).streams
    values = {**study.trials[asked.trial].configuration, **streams}
    words = [*SMALL[:6], *(f"{name}={value}" for name, value in values.items())]
    done = fork(*words, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["best_error"] == ended.error
    assert (tmp_path / "run/best.yaml").read_text().count(f"order_seed: {streams['order_seed']}") == 1


def test_a_study_of_an_earlier_version_can_be_confirmed(fork: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(OLD, run_dir, ignore=shutil.ignore_patterns("results.csv", "winner.pt"))
    done = fork(
        f"resume={run_dir}", "device=cpu", "data_dir=/data", "confirm.top=1", "confirm.seeds=2", "confirm.vary=split"
    )
    assert done.returncode == 0, done.stderr
    assert "confirmed with 2 fresh seeds each (initialisation, order and split)" in done.stdout
    first, second = events(run_dir, Confirmed)
    assert first.error != second.error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("confirm.vary=all",), "confirm.vary=all: give init, order, split"),
        (("confirm.top=2", "confirm.seeds=1"), "confirm.seeds"),
        (("confirm.top=-1",), "confirm.top"),
        (("confirm=3",), "confirm=3: give the keys below it: confirm.top=..., confirm.seeds=..., confirm.vary=..."),
        (("confirm.tops=1",), "confirm.tops"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_trained(
    words: tuple[str, ...], says: str, fork: Any, tmp_path: Path
) -> None:
    done = fork(*SMALL, f"hydra.run.dir={tmp_path / 'run'}", *words)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "run/results.csv").exists()


def test_recorded_curves_have_no_fresh_seeds(fork: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", error=np.ones((3, 2)), resource=np.arange(1, 3))
    (tmp_path / "t.csv").write_text("lr\n0.1\n0.2\n0.3\n")
    words = ("experiment=simulated", "r_max=2", f"executor.curves={tmp_path / 't.npz'}", "tracker=none")
    done = fork(*words, "scheduler=sha", "confirm.top=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1 and "confirm.top=2: recorded curves have no fresh seeds" in done.stderr, done.stderr


def draws(trial: Any) -> Iterator[float]:
    """A training whose error is its learning rate, and luck."""
    luck = torch.nn.Parameter(torch.rand(()))
    trial.keep(luck=torch.nn.ParameterList([luck]))
    while True:
        yield trial.configuration["lr"] + float(luck.detach())


def test_trainings_of_ones_own_are_confirmed_by_any_executor(tmp_path: Path) -> None:
    plan = Confirming(top=2, seeds=3)
    tune = partial(halving.tune, draws, LR, eta=3, r_max=3, seed=2, confirm=plan, test=measured)
    alone = tune(run_dir=tmp_path / "alone")
    together = tune(run_dir=tmp_path / "together", executor=partial(Process, workers=2))
    rows = [[(row.trial, row.errors) for row in study.confirmed.rows] for study in (alone, together)]
    assert rows[0] == rows[1] and {len(errors) for _, errors in rows[0]} == {3}
    for trial, errors in rows[0]:
        assert len({error - alone.trials[trial].configuration["lr"] for error in errors}) == 3, (
            "each with luck of its own"
        )
    assert alone.best.trial == rows[0][0][0] == alone.confirmed.chosen
    assert alone.confirmed.test.errors == (rows[0][0][1]) and "luck" in alone.best_state()
    assert halving.load(tmp_path / "alone").confirmed == alone.confirmed


@pytest.mark.parametrize("confirm", [3, True, {"top": 3}])
def test_a_call_that_confirms_by_something_else_is_refused_before_it_trains(confirm: Any, tmp_path: Path) -> None:
    with pytest.raises(halving.UserError, match=r"confirm=.*: give halving.Confirming\(top=3\), or None"):
        halving.tune(draws, LR, eta=3, r_max=3, confirm=confirm, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def measured(trial: Any) -> dict[str, float]:
    luck = torch.nn.ParameterList([torch.zeros(())])
    trial.keep(luck=luck)
    return {"test_error": trial.configuration["lr"] + float(luck[0])}


def test_the_winner_is_what_its_newest_confirmations_left(tmp_path: Path) -> None:
    """Trials that an earlier kind of confirmation did not choose have lost its checkpoints."""
    values = {"init": {1: [0.1, 0.1], 2: [0.2, 0.2]}, "order": {1: [0.3, 0.3], 2: [0.2, 0.2]}}
    history = told({}, {1: 0.2, 2: 0.3})
    number = 0
    for vary, errors in values.items():
        for trial, each in errors.items():
            for repeat, error in enumerate(each, start=1):
                number += 1
                name = f"checkpoints/-{number}/9.pt"
                history.apply(Confirm(number, trial, repeat, 9, vary), 3.0)
                history.apply(Confirmed(number, error, checkpoint=name), 4.0)
                (tmp_path / name).parent.mkdir(parents=True)
                (tmp_path / name).touch()
        chosen = reviewed(history).chosen  # pyright: ignore
        history.apply(Chosen(chosen), 5.0)
        sweep(tmp_path, history)
    assert chosen == 2
    assert left(history, 2, tmp_path) == (-7, "checkpoints/-7/9.pt")
    (tmp_path / "checkpoints/-7/9.pt").unlink()
    assert left(history, 2, tmp_path) == (-8, "checkpoints/-8/9.pt")
    assert left(history, 1, tmp_path) == (1, None), "no confirmation's, as it was not chosen"


def test_a_winner_of_the_first_rung_is_what_was_trained_in_full(tmp_path: Path) -> None:
    study = halving.tune(
        draws, LR, eta=3, r_max=9, seed=2, confirm=Confirming(top=2), budget=Budget(evaluations=4), run_dir=tmp_path
    )
    assert study.best.last.resource == 1
    luck = float(study.best_state()["luck"]["0"])
    assert study.best.configuration["lr"] + luck == pytest.approx(study.confirmed.rows[0].errors[0])


def test_an_accuracy_is_tested_of_the_ensemble_too(fork: Any, tmp_path: Path) -> None:
    words = ("metric=max:val_accuracy", "confirm.top=1", "confirm.seeds=2", "budget.evaluations=2")
    done = fork(*SMALL, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    (chosen,) = events(tmp_path / "run", Chosen)
    assert chosen.ensemble["test_accuracy"] == 1 - chosen.ensemble["test_error"]
    assert "test accuracy of its 2 seeds as an ensemble" in done.stdout


def test_what_was_confirmed_is_not_said_to_have_been_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tune = partial(halving.tune, draws, LR, eta=3, r_max=3, run_dir=tmp_path, budget=Budget(evaluations=100))
    tune()
    tune(resume=True, confirm=Confirming(top=1, seeds=2))
    assert "nothing is left to do" not in caplog.text
    tune(resume=True, confirm=Confirming(top=1, seeds=2))
    assert "nothing is left to do" in caplog.text


def test_jobs_are_compared_by_their_studies_own_errors(fork: Any, tmp_path: Path) -> None:
    """A trial that fresh seeds chose may have been left at a low rung, whose error says nothing beside the others'."""
    words = ("confirm.top=6", "confirm.seeds=2", "confirm.vary=split", f"hydra.sweep.dir={tmp_path}")
    done = fork("-m", *SMALL, *words, "seed=0,1")
    assert done.returncode == 0, done.stderr
    history = halving.load(tmp_path / "0").history
    own, chosen = history.incumbent, history.chosen
    assert own is not None and chosen is not None and chosen.trial not in (None, own[0].trial)
    row, _ = csv.DictReader((tmp_path / "jobs.csv").open())
    assert float(row["error"]) == own[1].error
    assert f"trial {own[0].trial} at 3" in (tmp_path / "comparison.html").read_text("utf-8")


def test_the_winner_is_among_the_finalists_of_a_report(tmp_path: Path) -> None:
    study = {trial: 0.1 * trial for trial in range(1, 9)}
    history = told({1: [0.5, 0.6], 8: [0.2, 0.1]}, study, metric="val_error", settings={"config": {}})
    history.apply(Chosen(8), 5.0)
    history.apply(Ended(8), 6.0)
    said = " ".join(
        block.text for block in of_study(history, tmp_path, "told", "told").blocks if isinstance(block, Text)
    )
    assert "in the study's order: 1, 2, 3, 4, 5, 8, the last chosen by its fresh seeds." in said


def test_what_is_asked_for_last_chooses_and_what_was_trained_for_it_is_not_trained_again(tmp_path: Path) -> None:
    tune = partial(halving.tune, draws, LR, eta=3, r_max=3, seed=2, run_dir=tmp_path)
    first = tune(confirm=Confirming(top=2, seeds=2, vary="init")).confirmed
    other = tune(resume=True, confirm=Confirming(top=2, seeds=3)).confirmed
    assert first is not None and other is not None and (first.vary, other.vary) == ("init", "order")
    again = tune(resume=True, confirm=Confirming(top=2, seeds=2, vary="init")).confirmed
    assert again == first and len(events(tmp_path, Confirm)) == 4 + 6
    assert halving.load(tmp_path).best.trial == first.chosen


def test_confirmations_that_were_broken_off_are_said_to_be_no_choice() -> None:
    history = told({4: [0.20, 0.22], 7: [0.25]}, {4: 0.19, 7: 0.18})
    history.apply(Ended(7), 5.0)
    text = conclusion(history)
    assert "so far confirmed with 2 fresh seeds each" in text and "trial 7: 0.25 with one fresh seed" in text
    assert text.startswith("trial 7 wins after 9 epochs")
