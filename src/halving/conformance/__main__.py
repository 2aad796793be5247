"""What schedulers, searchers, executors and trainings keep: `python -m halving.conformance my_package.schedulers:Mine`.

A scheduler is built as `Mine(searcher, **options)` and driven through random schedules of workers, arrivals, failures
and sizes of the space; a searcher (it has `propose`) as `Mine(space, seed=0, **options)`, over spaces of 1 to 20
dimensions, finite and conditional ones too. Options are given as `--option r_max=27`; r_max=9 and the like are supplied
where there is no default. An executor (it has `submit`), built as `Mine(objective, **options)`, is given jobs that end,
raise, kill their worker and hang, a full disk, and a study that stops. A training, which is a function of one trial, is
trained from `--configuration lr=0.1` straight and in pieces, here, in another process and after a kill, bit for bit.
One line per check; the exit status is 1 if any failed.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from inspect import isclass
from typing import Any

from halving.conformance.suite import SCHEDULES, conform, digests, supplied
from halving.conformance.training import compare
from halving.errors import UserError
from halving.targets import locate
from halving.tracking.terminal import one_line
from halving.training.own import is_training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite from the command line; return the exit status."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser("python -m halving.conformance", description=description, epilog=details)
    parser.add_argument("target", help="module:Name or a dotted name")
    parser.add_argument("--option", type=_option, action="append", default=[], help="name=value, any number of times")
    parser.add_argument("--configuration", type=_option, action="append", default=[], help="name=value of a training")
    parser.add_argument("--epochs", type=int, default=4, help="epochs to train a training")
    parser.add_argument("--schedules", type=int, default=SCHEDULES, help="random schedules or spaces to go through")
    parser.add_argument("--digests", action="store_true", help="only print a digest of each schedule's decisions")
    asked = parser.parse_args(arguments)
    try:
        subject = locate(asked.target)
        if callable(subject) and not isclass(subject) and is_training(subject):
            report = compare(subject, dict(asked.configuration), asked.epochs, 0)
            print(report)
            return int(not report.exact)
        if asked.digests:
            print(*digests(asked.target, dict(asked.option), asked.schedules), sep="\n")
            return 0
        if given := supplied(asked.target, dict(asked.option)):
            print(f"built with {', '.join(f'{name}={value}' for name, value in given.items())}; --option gives others")
        results = conform(asked.target, dict(asked.option), asked.schedules)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*results, sep="\n")
    return int(any(result.complaint for result in results))


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: an option is name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    with one_line():
        sys.exit(main())
