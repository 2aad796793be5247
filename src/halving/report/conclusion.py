"""What a study came to, in a few lines for the terminal."""

from pathlib import Path

from scipy.stats import binomtest

from halving.history import Ended, Evaluation, History, Trial
from halving.report.tables import tested
from halving.tracking.wording import count


def conclusion(history: History, run_dir: Path | None = None) -> str:
    """Return the winner, its errors, what was spent and how to go on; one line each."""
    header, best, ended = history.header, history.incumbent, history.ended
    assert header is not None
    if best is None:
        return "no trial survived"
    trial, evaluation = best
    single = header.scheduler == "single"
    lines = [_errors(history, trial, evaluation, ended, single)]
    if trial.configuration and not single:
        lines.append("  ".join(f"{name}={_short(value)}" for name, value in trial.configuration.items()))
    lines.append(_spent(history, single))
    if ended is not None and ended.command and not single:
        lines.append(f"train it again: {ended.command}")
        lines += [text] if (text := in_full(history)) else []
    if run_dir is not None:
        lines.append(f"files: {run_dir}")
    return "\n".join(lines)


def interval(error: float, samples: float | None) -> str:
    """Return the binomial 95 % interval (Wilson) of an error rate over a number of samples, in words."""
    if not samples or not 0 <= error <= 1:
        return ""
    low, high = binomtest(round(error * samples), int(samples)).proportion_ci(method="wilson")
    return f" (95 %: {low:.4f} to {high:.4f})"


def in_full(history: History) -> str:
    """Say how to train a winner to r_max whose command ends before that, where its study did."""
    header, best, ended = history.header, history.incumbent, history.ended
    if header is None or best is None or ended is None or f"until={best[1].resource}" not in ended.command.split():
        return ""
    had = f"{best[1].resource} of {count(header.r_max, header.unit)}"
    return f"that is to {had}, as it had here; until={header.r_max} at the end trains it in full"


def _errors(history: History, trial: Trial, evaluation: Evaluation, ended: Ended | None, single: bool) -> str:
    header = history.header
    assert header is not None
    test = ended.test if ended is not None else {}
    shown = -evaluation.error if header.maximize else evaluation.error
    samples = test.get("val_samples") if header.metric in ("val_error", "val_accuracy") else None
    kind = header.metric.removeprefix("val_")
    name = header.metric if kind == header.metric else f"validation {kind}"
    where = f" after {count(evaluation.resource, header.unit)}"
    text = f"{name} {shown:{'.4f' if abs(shown) < 1e6 else '.4g'}}{interval(shown, samples)}"
    if found := tested(history):
        samples = test.get("test_samples") if found[0] in ("test_error", "test_accuracy") else None
        text += f", {found[0].replace('_', ' ')} {found[1]:.4f}{interval(found[1], samples)}"
    return f"{text}{where}" if single else f"trial {trial.trial} wins{where}: {text}"


def _spent(history: History, single: bool) -> str:
    header = history.header
    assert header is not None
    seconds = f"{history.seconds:.1f} s"
    if single:
        return f"{count(history.spent, header.unit)} in {seconds}"
    full = len(history.trials) * header.full_cost
    instead = f" instead of {full:g}" if full > history.spent else ""
    failed = sum(trial.state == "failed" for trial in history.trials.values())
    failures = f", {failed} failed" if failed else ""
    paused = sum(trial.state == "paused" for trial in history.trials.values()) if history.halted else 0
    waiting = f", {paused} paused (a higher budget takes {'them' if paused > 1 else 'it'} up again)" if paused else ""
    halted = f"; {history.halted}" if history.halted else ""
    return (
        f"{count(len(history.trials), 'trials')}, {count(len(history.finished), 'evaluations')}{failures}{waiting}: "
        f"{count(history.spent, header.unit)}{instead} in {seconds}{halted}"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
