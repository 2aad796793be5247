"""Compare the methods of studies: `python scripts/compare.py <run dirs or a multirun's directory>`.

Or ask which settings would be best on recorded curves: `python scripts/compare.py --what-if <file.npz>`.
"""

import argparse
import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from halving import UserError, load
from halving.curves import Curves
from halving.curves import load as load_curves
from halving.curves.what_if import Result, Trust, deadline, half_width, replay_all, settings, trust
from halving.environment import expanded
from halving.history import History
from halving.report.derived import replace
from halving.report.drawing import drawing
from halving.report.methods import Table, methods_table, notes, pairs_table, ranks_table, too_few
from halving.report.tables import digits
from halving.review.comparison import (
    Axis,
    Pair,
    Run,
    band,
    by_method,
    by_task,
    common_end,
    grid,
    labelled,
    pairs,
    tables,
)
from halving.review.run_directories import run_directories
from halving.spreadsheet import line
from halving.terminal import one_line, printable
from halving.tracking.wording import count

BANDS = ("mean", "standard_error", "median", "lower_quartile", "upper_quartile")
CURVES = ("task", "axis", "spent", "method", "seeds", *BANDS)
TESTS = ("task", "first", "second", "pairs", "wins", "losses", "median_difference", "rank_biserial", "p", "p_holm")


def studies(paths: Sequence[Path]) -> dict[Path, History]:
    """Return the studies in directories, or anywhere below them."""
    found = {directory: load(directory).history for directory in run_directories(paths)}
    if not any(history.incumbents for history in found.values()):
        raise UserError("no study has a surviving trial: there is nothing to compare")
    return found


def compare(paths: Sequence[Path], out: Path) -> None:
    """Print the comparison as Markdown; write comparison.csv, tests.csv, comparison.png and comparison.svg."""
    histories = studies(paths)
    runs = labelled(histories, tables(histories.values()))
    tested = pairs(runs)
    for task, of_task in by_task(runs).items():
        print_task(task, of_task, [pair for pair in tested if pair.task == task])
    if len(by_task(runs)) > 1:
        print_ranks(runs)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_curves(runs, out / "comparison.csv")
        write_tests(tested, out / "tests.csv")
        files = (out / "comparison.csv", out / "tests.csv", *drawing("comparison").comparison_figure(runs, out))
    except OSError as error:
        raise UserError(f"cannot write into {out} ({error}); name another directory by --out") from error
    for file in files:
        print(file)


def print_task(task: str, runs: Sequence[Run], tested: Sequence[Pair]) -> None:
    print(f"\n## {task}: after {count(common_end(runs), runs[0].unit)}, which every study has spent\n")
    print_table(methods_table(runs))
    for note in notes(runs):
        print(f"\n{note}")
    if tested:
        print("\nPaired by seed (Wilcoxon; effect: matched-pairs rank-biserial, 1 where the first always wins):\n")
        print_table(pairs_table(tested, -1 if runs[0].maximize else 1))
        if text := too_few(tested):
            print(f"\n{text}")
    print()


def print_ranks(runs: Sequence[Run]) -> None:
    """Print each method's mean rank over the tasks that have all methods."""
    print(f"## Mean rank over {count(len(by_task(runs)), 'tasks')}, at the end\n")
    print_table(ranks_table(runs))
    print()


def print_table(table: Table) -> None:
    print_row(table.heads)
    print_row(["---"] * table.words + ["---:"] * (len(table.heads) - table.words))
    for row in table.rows:
        print_row(row)


def print_row(cells: Sequence[str]) -> None:
    shown = " | ".join(cell.replace("|", r"\|") for cell in cells)
    print(printable(f"| {shown} |"))


def write_curves(runs: Sequence[Run], path: Path) -> None:
    """Write one row per task, axis, point and method; NaN while a seed has no incumbent yet is left empty."""
    lines = [line(CURVES)]
    axes: tuple[Axis, ...] = ("resource", "seconds")
    for task, of_task in by_task(runs).items():
        sign = -1 if of_task[0].maximize else 1
        for axis in axes:
            for method, own in by_method(of_task).items():
                b = band(method, list(own.values()), grid(of_task, axis), axis)
                low, high = (b.lower, b.upper)[::sign]
                columns = (b.x, sign * b.mean, b.standard_error, sign * b.median, sign * low, sign * high)
                for x, *values in zip(*columns, strict=True):
                    cells = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
                    lines.append(line([task, axis, f"{x:.6g}", method, b.n, *cells]))
    replace(path, "".join(lines))


def write_tests(tested: Sequence[Pair], path: Path) -> None:
    """Write one row per task and pair of methods; errors are minimised."""
    rows = (list(vars(pair).values())[: len(TESTS)] for pair in tested)
    replace(path, line(TESTS) + "".join(map(line, rows)))


def what_if(file: Path, arguments: argparse.Namespace) -> None:
    """Print whether cheap rungs can be trusted, and which settings would have been best, with intervals."""
    curves = load_curves(file)
    resource = arguments.resource or 20 * float(curves.resource[-1])
    print(
        f"\n## {file.stem}: {count(len(curves), 'configurations')}, "
        f"levels {curves.resource[0]} to {curves.resource[-1]}"
    )
    print_trust(trust(curves, arguments.eta), arguments.eta)
    for workers in arguments.workers:
        tried = settings(curves, workers=workers)
        seeds = range(arguments.seeds)
        screened = sorted(
            replay_all(curves, tried, seeds, resource, arguments.processes), key=lambda result: result.mean
        )
        # The best of many looks better than it is: the intervals come from draws that did not choose it.
        again = dict.fromkeys(result.setting for result in screened[:5]) | {tried[0]: None}
        fresh = range(arguments.seeds, 3 * arguments.seeds)
        checked = replay_all(curves, again, fresh, resource, arguments.processes)
        print_settings(checked, len(tried), resource, curves.unit, workers, curves)


def print_trust(found: Sequence[Trust], eta: int) -> None:
    print(f"\nCan cheap rungs be trusted? (95 % intervals; by chance the recall is {1 / eta:.2f})\n")
    print_row(["rung", "against", "Kendall's tau", f"top 1/{eta} recall", "best row kept", "trust it"])
    print_row(["---:"] * 6)
    for pair in found:
        tau = f"{pair.tau:.2f} ({pair.tau_interval[0]:.2f} to {pair.tau_interval[1]:.2f})"
        recall = f"{pair.recall:.2f} ({pair.recall_interval[0]:.2f} to {pair.recall_interval[1]:.2f})"
        words = ["no", "yes"]
        print_row([str(pair.low), str(pair.high), tau, recall, words[pair.kept], words[pair.trusted]])
    last = [pair for pair in found if pair.high == found[-1].high]
    on = list(takewhile(lambda pair: pair.trusted, reversed(last)))  # a rung is as good as all that follow it
    first = on[-1].low if on else None
    if first is None:
        print("\nNo cheap rung tells the best from the others: train in full, or hedge with Hyperband.")
    else:
        print(f"\nDecisions can be trusted from {first} on: r_min={first} or more.")


def print_settings(
    results: Sequence[Result], tried: int, resource: float, unit: str, workers: int, curves: Curves
) -> None:
    results = sorted(results, key=lambda result: result.mean)
    best, n = results[0], len(results[0].regret)
    seconds = deadline(curves, resource, workers)
    those = count(workers, "workers")
    print(f"\nOf {tried} settings the best five and fifo, replayed on {n} fresh draws; {those}")
    print(f"with the time of {count(resource, unit)} ({seconds:g} s); mean regret with 95 % intervals:\n")
    print_row(["setting", "regret", "more than the best, paired"])
    print_row(["---", "---:", "---:"])
    equal: list[Result] = []
    for result in results:
        more = result.regret - best.regret
        width = half_width(more)
        if not more.mean() > width:
            equal.append(result)
        difference = "" if result is best else plus_minus(float(more.mean()), width)
        print_row([str(result.setting), plus_minus(result.mean, result.interval), difference])
    others = f", or as good: {'; '.join(str(each.setting) for each in equal[1:])}" if equal[1:] else ""
    print(f"\nRecommended: {best.setting.overrides} r_max={curves.resource[-1]}{others}\n")


def plus_minus(mean: float, half_width: float) -> str:
    """Return a mean with half the width of its 95 % interval, which is twice the standard error."""
    return f"{digits(mean, half_width / 2)} ± {digits(half_width, half_width / 2)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=expanded, nargs="*", help="run directories, or directories above them")
    parser.add_argument("--out", type=expanded, help="where the files go (default: the directory; of several, here)")
    parser.add_argument(
        "--what-if", type=expanded, metavar="FILE", help="a table of recorded curves to replay settings on"
    )
    parser.add_argument("--eta", type=int, default=3, help="of the rungs whose order is checked (default: 3)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="numbers of workers to try (default: 1)")
    parser.add_argument("--resource", type=float, help="units of resource to plan for (default: 20 full trainings)")
    parser.add_argument("--seeds", type=int, default=50, help="draws that choose; twice as many check (default: 50)")
    parser.add_argument("--processes", type=int, help="processes to replay in (default: one for each core)")
    with one_line():
        arguments = parser.parse_args()
        if bool(arguments.paths) == bool(arguments.what_if):
            parser.error("give either run directories to compare, or --what-if FILE")
        if min(arguments.workers) < 1 or arguments.seeds < 2:
            parser.error("--workers takes numbers of at least 1, --seeds a number of at least 2")
        if arguments.what_if:
            what_if(arguments.what_if, arguments)
        else:
            alone = arguments.paths[0] if len(arguments.paths) == 1 else Path()
            compare(arguments.paths, arguments.out or alone)


if __name__ == "__main__":
    main()
