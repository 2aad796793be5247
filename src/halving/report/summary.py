"""The study in one mapping: summary.json."""

from typing import Any

from halving.history import History
from halving.report.tables import finite, header_of, json_value, shown_error, status, test_names, whole, winner
from halving.trial import AVERAGED


def summary(history: History) -> dict[str, Any]:
    """Return the study in one mapping of JSON values; `best_...` is None where no trial survived.

    `best_error` is the metric, the greatest with `maximize`. `test_error` is that of the weights which `best_model`
    returns: of the averaged ones where their metric is optimised; `averaged_test_error` stands beside it where weights
    were averaged. Resources are in the header's unit; `full_resource` is what the same trials cost without early
    stopping. Times are in seconds.
    """
    header = header_of(history)
    best = winner(history)
    ended = history.ended
    test = ended.test if ended is not None else {}
    values: dict[str, Any] = {
        "best_trial": best[0].trial if best else None,
        "best_error": shown_error(header, best[1]) if best else None,
        "best_resource": best[1].resource if best else None,
        "best_configuration": best[0].configuration if best else None,
        "test_error": finite(next((test[name] for name in test_names(header.metric)[1:] if name in test), None)),
        "trials": len(history.trials),
        "evaluations": len(history.finished),
        "resource_spent": whole(history.spent),
        "full_resource": whole(len(history.trials) * header.full_cost),
        "wall_seconds": history.seconds,
        "train_seconds": history.train_seconds,
        "scheduler": header.scheduler,
        "searcher": header.searcher,
        "seed": header.seed,
        "command": ended.command if ended else "",
        "name": header.name,
        "unit": header.unit,
        "metric": header.metric,
        "maximize": header.maximize,
        "failed": sum(status(evaluation) == "failed" for _, evaluation in history.finished),
        "end": history.halted or ("finished" if ended else "running"),
    }
    values |= {name: finite(test[name]) for name in (f"{AVERAGED}test_error",) if name in test}
    if history.confirmations:
        from halving.report.confirmation import summarised  # whose scipy nobody else waits for

        values["confirmed"] = summarised(history)
    return json_value(values)
