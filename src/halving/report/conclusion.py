"""What a study came to, in a few lines for the terminal."""

import math
from pathlib import Path

from scipy.stats import binomtest

from halving.history import Ended, Evaluation, Header, History, Trial
from halving.report.confirmation import Row, confirmed_winner, cost, mean_text, reviewed
from halving.report.sensitivity import lines as sensitivity_lines
from halving.report.tables import is_rate, standard_error, tested_both, uncertainty, winner
from halving.tracking.wording import amount, count, digits, duration, measure, metric_label, setting

_VARIED = {"init": "initialisation", "order": "initialisation and order", "split": "initialisation, order and split"}


def conclusion(history: History, run_dir: Path | None = None, again: str = "") -> str:
    """Return the winner, its errors, what was spent and how to go on; one line each.

    `again` is the command that goes on with the study, where it has one.
    """
    header, best, ended = history.header, winner(history), history.ended
    assert header is not None
    if best is None:
        return "no trial survived"
    trial, evaluation = best
    single = header.single
    if found := sensitivity_lines(history):  # whose best is only the luckiest
        return "\n".join([*found, _spent(history, single), *([f"files: {run_dir}"] if run_dir is not None else [])])
    real = confirmed_winner(history)
    lines = [_errors(history, trial, evaluation, ended, single) if real is None else _mean(history, real)]
    if trial.configuration and not single:
        lines.append(setting(trial.configuration, "  "))
    lines.append(_spent(history, single))
    lines += confirmed(history)
    if (review := reviewed(history)) is None or not review.finished:
        lines += doubts(history, again)
    if ended is not None and ended.command and not single:
        lines.append(f"train it again: {ended.command}")
        if (header.provenance.config.get("executor") or {}).get("batch", 1) > 1:
            lines.append("(if it was trained together with others, alone its last digits differ, and may grow apart)")
        lines += [text] if (text := in_full(history)) else []
    if run_dir is not None:
        lines.append(f"files: {run_dir}")
    return "\n".join(lines)


def confirmed(history: History) -> list[str]:
    """Say what the best trials came to with fresh seeds, line by line; nothing where nobody asked."""
    review, header = reviewed(history), history.header
    if review is None or header is None:
        return []
    lines = [
        f"{'confirmed' if review.finished else 'so far confirmed'} with {review.seeds} fresh seeds each "
        f"({_VARIED[review.vary]}), trained for {count(review.until, header.unit)}:"
    ]
    for row in review.rows:
        lines.append(f"  trial {row.trial}: {_confirmed(row, header)}")
    if (difference := review.difference) is not None:
        first, second = difference.first, difference.second
        half = difference.high - difference.mean
        told = (
            f"  trial {second} is worse than {first} by {digits(difference.mean, half / 2)} ± {digits(half, half / 2)}"
            if difference.mean or half
            else f"  trial {second} came to the same as {first} with every seed"
        )
        needed = difference.seeds_needed
        apart = not difference.low <= 0 <= difference.high
        lines.append(told + (f": about {needed} seeds would tell them apart" if needed else "") * (not apart))
    if review.finished and review.chosen is None:
        lines.append("  none can be chosen: each failed with one of its seeds")
    if review.finished and review.chosen not in (None, review.own):
        lines.append(f"  the study's own choice was trial {review.own}")
    if (test := review.test) is not None:
        parts = [f"seeds {digits(test.seed_error, test.combined)}"]
        if test.sampling_error is not None:
            parts.append(f"size of the test set {digits(test.sampling_error, test.combined)}")
        name = measure(test.name)
        lines.append(
            f"  {name} of trial {review.chosen}: {digits(test.mean, test.combined)}, standard error "
            f"{digits(test.combined, test.combined)} ({', '.join(parts)})"
        )
        if test.ensemble is not None:
            mean = digits(test.ensemble, test.combined)
            lines.append(f"  {name} of its {len(test.errors)} seeds as an ensemble: {mean}")
    return lines


def doubts(history: History, again: str = "") -> list[str]:
    """Say why the winner's error flatters it, as nobody has confirmed it; nothing where there is no reason to."""
    header, best = history.header, winner(history)
    if header is None or best is None:
        return []
    trial, evaluation = best
    survived = sum(each.resource == evaluation.resource for _, each in history.finished if math.isfinite(each.error))
    lines: list[str] = []
    earlier = [
        each for each in trial.evaluations if each.error < evaluation.error and each.resource < evaluation.resource
    ]
    if earlier:
        least = min(earlier, key=lambda each: each.error)
        error = header.sign * least.error
        lines.append(
            f"it had {digits(error, uncertainty(history))} after {count(least.resource, header.unit)}, and got worse"
        )
    if len(history.trials) > 1 and survived and again and header.provenance.by_command and header.full_cost:
        rate = is_rate(header.metric) and history.ended is not None and history.ended.test.get("val_samples")
        lines.append(
            f"its {metric_label(header).removeprefix('validation ')} is that of the luckiest of {len(history.trials)}"
            f"{', a choice that its interval leaves out' * bool(rate)}; confirm it: {again} confirm.top=3"
        )
    return lines


def _confirmed(row: Row, header: Header) -> str:
    if row.failed:
        return f"{row.failed} of {row.failed + len(row.errors)} seeds failed"
    if len(row.errors) < 2:
        return f"{mean_text(header, row)} with one fresh seed" if row.errors else "not begun"
    sign = header.sign
    curse = f" after {count(row.resource, header.unit)}"
    if row.curse is not None:
        worse = digits(sign * row.curse, row.standard_error)
        curse = f", {'' if worse.startswith('-') else '+'}{worse} with fresh seeds"
    return (
        f"{mean_text(header, row)} (95 %; in the study "
        f"{digits(sign * row.study_error, row.standard_error)}{curse}; spread {digits(row.spread, row.standard_error)})"
    )


def interval(error: float, samples: float | None) -> str:
    """Return the binomial 95 % interval (Wilson) of an error rate over a number of samples, in words."""
    if not samples or not 0 <= error <= 1:
        return ""
    ends = binomtest(round(error * samples), int(samples)).proportion_ci(method="wilson")
    low, high = (digits(end, standard_error(error, samples)) for end in ends)
    return f" (95 %: {low} to {high})"


def in_full(history: History) -> str:
    """Say how to train a winner to r_max whose command ends before that, where its study did."""
    header, best, ended = history.header, winner(history), history.ended
    if header is None or best is None or ended is None or best[1].resource == header.r_max:
        return ""
    if f"until={best[1].resource}" not in ended.command.split():
        return ""
    had = f"{best[1].resource} of {count(header.r_max, header.unit)}"
    return f"that is to {had}, as it had here; until={header.r_max} at the end trains it in full"


def _errors(history: History, trial: Trial, evaluation: Evaluation, ended: Ended | None, single: bool) -> str:
    header = history.header
    assert header is not None
    test = ended.test if ended is not None else {}
    shown = header.sign * evaluation.error
    samples = test.get("val_samples") if is_rate(header.metric) else None
    label = metric_label(header)
    name = label if "validation" in label and header.metric != "error" else header.metric
    where = f" after {count(evaluation.resource, header.unit)}"
    text = f"{name} {digits(shown, uncertainty(history))}{interval(shown, samples)}"
    for test_name, value in tested_both(history):
        samples = test.get("test_samples") if is_rate(test_name) else None
        rounded = digits(value, standard_error(value, samples) or uncertainty(history))
        text += f", {measure(test_name)} {rounded}{interval(value, samples)}"
    return f"{text}{where}" if single else f"trial {trial.trial} wins{where}: {text}"


def _mean(history: History, row: Row) -> str:
    """Say what a confirmed winner comes to in the mean."""
    assert history.header is not None
    metric = metric_label(history.header)
    return (
        f"trial {row.trial} wins with {len(row.errors)} fresh seeds: {metric} {mean_text(history.header, row)} (95 %)"
    )


def _spent(history: History, single: bool) -> str:
    header = history.header
    assert header is not None
    confirming = f", and {count(spent, header.unit)} to confirm," if (spent := cost(history)) else ""
    seconds = duration(history.seconds)
    if single:
        return f"{count(history.spent, header.unit)}{confirming} in {seconds}"
    full = len(history.trials) * header.full_cost
    instead = f" instead of {amount(full)}" if full > history.spent else ""
    failed = sum(trial.state == "failed" for trial in history.trials.values())
    failures = f", {failed} failed" if failed else ""
    paused = sum(trial.state == "paused" for trial in history.trials.values()) if history.halted else 0
    waiting = f", {paused} paused (a higher budget takes {'them' if paused > 1 else 'it'} up again)" if paused else ""
    halted = f"; {history.halted}" if history.halted else ""
    return (
        f"{count(len(history.trials), 'trials')}, {count(len(history.finished), 'evaluations')}{failures}{waiting}: "
        f"{count(history.spent, header.unit)}{instead}{confirming} in {seconds}{halted}"
    )
