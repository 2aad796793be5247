"""What a study came to, in sentences for a reader who has not run it."""

from collections.abc import Sequence

from scipy.stats import binomtest

from halving.history import History
from halving.report.confirmation import confirmed_winner
from halving.report.importance import Importances
from halving.report.tables import header_of, is_rate, shown_error, tested, uncertainty, winner
from halving.report.workers import busy
from halving.tracking.wording import count, digits, metric_label, number

CHOSEN = ", which leaves out that the same examples chose it among others"


def story(history: History, importance: Sequence[Importances] | str) -> str:
    """Return one paragraph: what was tried, what it cost, how far the result may be trusted, what mattered."""
    header, best = header_of(history), winner(history)
    if best is None:
        return ""
    sentences = [_tried(history)]
    test = history.ended.test if history.ended is not None else {}
    real = confirmed_winner(history) is not None  # and the headline has its mean
    if is_rate(header.metric) and (samples := test.get("val_samples")) and not real:
        rate = min(max(shown_error(header, best[1]) or 0.0, 0.0), 1.0)
        ends = binomtest(round(rate * samples), int(samples)).proportion_ci(method="wilson")
        low, high = (digits(end, uncertainty(history)) for end in ends)
        sentences.append(
            f"Measured on {number(samples)} examples, the winner's true {metric_label(header)} lies between {low} "
            f"and {high} (95 % interval{'' if len(history.trials) == 1 else CHOSEN})."
        )
    if tested(history) and not _validated_on_test(history):
        own = history.incumbent is not None and history.incumbent[0] is best[0]  # another may have been tested before
        sentences.append(f"The test examples were used in the end only{', and for this trial alone' if own else ''}.")
    if not isinstance(importance, str) and (telling := [each for each in importance if each.telling]):
        said = (f"{each.dimensions[0].dimension} after {count(each.resource, header.unit)}" for each in telling)
        was = "was" if all(each.clear for each in telling) else "may have been"
        sentences.append(f"What mattered most {was} {', and '.join(said)}.")
    if text := busy(history):
        sentences.append(text)
    return " ".join(sentences)


def _validated_on_test(history: History) -> bool:
    match header_of(history).provenance.config:
        case {"data": {"validation": "test"}}:
            return True
        case _:
            return False


def _tried(history: History) -> str:
    header = header_of(history)
    if len(history.trials) == 1:
        return f"One configuration was trained for up to {count(header.r_max, header.unit)}."
    full = sum(trial.state == "completed" for trial in history.trials.values())
    failed = sum(trial.state == "failed" for trial in history.trials.values())
    values = [[trial.configuration.get(name) for name in header.dimensions] for trial in history.trials.values()]
    different = len(set(map(repr, values))) if header.dimensions else len(values)
    tried = f"{len(values)} configurations were tried"
    if different < len(values):
        tried = f"{count(different, 'configurations')} came to {len(values)} trainings"
    text = f"{tried} with up to {count(header.r_max, header.unit)} each"
    text += f"; {full or 'none'} went all the way" if full < len(history.trials) else ""
    return f"{text}{f', {failed} failed' if failed else ''}."
