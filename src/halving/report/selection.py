"""What is drawn and listed of a study that has more trials than a page can hold."""

from dataclasses import replace

from halving.history import History, order
from halving.report.tables import winner

MOST = 2_000  # trials; each takes 2 kB of the page, and 5 ms


def selected(history: History) -> History:
    """Return a study with at most MOST of its trials: half of them the best, and the others spread evenly.

    Those that were once the best, that won, and that were confirmed are always there.
    """
    if len(history.trials) <= MOST:
        return history
    best = sorted(history.finished, key=lambda pair: order(*pair))
    named = [trial.trial for trial, _ in history.incumbents] + [
        each.asked.trial for each in history.confirmations.values()
    ]
    if (won := winner(history)) is not None:
        named.append(won[0].trial)
    kept = dict.fromkeys([*named, *(trial.trial for trial, _ in best)])
    kept = set(list(kept)[: MOST // 2]) | set(named)
    rest = [number for number in history.trials if number not in kept]
    room = MOST - len(kept)
    kept |= {rest[i * len(rest) // room] for i in range(room)}
    return replace(
        history,
        trials={number: trial for number, trial in history.trials.items() if number in kept},
        finished=[pair for pair in history.finished if pair[0].trial in kept],
    )
