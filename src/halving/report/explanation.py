"""Why a trial went on or stopped, rung by rung, in words."""

from collections.abc import Iterator

from halving.errors import UserError
from halving.history import Header, History
from halving.report.tables import header_of, uncertainty
from halving.tracking.wording import count, digits, setting


def explanation(history: History, trial: int) -> Iterator[str]:
    """Yield lines on one trial: its configuration, and at each rung its error, its verdict and the reason.

    Raises UserError for a trial that the study does not have.
    """
    header = header_of(history)
    found = history.trials.get(trial)
    if found is None:
        last = len(history.trials) - 1
        there = f"trials 0 to {last}" if last > 0 else "trial 0 only" if last == 0 else "no trial yet"
        raise UserError(f"trial {trial}: the study has {there}")
    values = setting(found.configuration) or "the configuration as it stands"
    yield f"trial {trial} of {header.scheduler}, bracket {found.bracket}: {values}"
    if note := flipped(header):
        yield f"  {note}"
    for evaluation in found.evaluations:
        where = f"rung {evaluation.rung}, {evaluation.since} to {count(evaluation.until, header.unit)}"
        if evaluation.finished is None:
            yield f"  {where}: {'still running' if history.state(found) == 'running' else 'interrupted'}"
            continue
        error = evaluation.finished.outcome.error
        shown = f"{header.metric} {digits(header.sign * error, uncertainty(history))}"
        cause = f" ({evaluation.finished.cause})" if evaluation.finished.cause else ""
        yield f"  {where}: {shown}{cause}"
        if evaluation.verdict:
            yield f"    {evaluation.verdict}: {evaluation.verdict_reason or 'no reason given'}"
    yield f"  now {history.state(found)}"


def flipped(header: Header) -> str:
    """Say how the numbers in reasons are to be read, where that is not as they are; else nothing."""
    if not header.maximize:
        return ""
    return f"Reasons hold {header.metric} with its sign flipped, as schedulers minimise: -0.9 stands for 0.9."
