"""Compare the methods of studies: `python scripts/compare.py <run dirs or a multirun's directory>`.

Or ask which settings would be best on recorded curves: `python scripts/compare.py --what-if <file.npz>`.
"""

import argparse
import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from halving import UserError, load
from halving.comparison import (
    Array,
    Axis,
    Pair,
    Run,
    across,
    band,
    by_method,
    by_task,
    common_end,
    grid,
    labelled,
    pairs,
    tables,
)
from halving.curves import Curves
from halving.curves import load as load_curves
from halving.environment import expanded
from halving.history import History
from halving.journal.run_directories import run_directories
from halving.report.derived import replace
from halving.report.drawing import drawing
from halving.report.methods import (
    Table,
    across_table,
    across_words,
    methods_table,
    notes,
    pairs_table,
    ranks_table,
    too_few,
)
from halving.review.what_if import Agreement, Judged, Result, agreements, deadline, judged, middle, settings
from halving.spreadsheet import line
from halving.tracking.terminal import one_line, printable
from halving.tracking.wording import amount, count, digits, number

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
    overall = across(tested)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_curves(runs, out / "comparison.csv")
        write_tests([*tested, *overall], out / "tests.csv")
        files = (out / "comparison.csv", out / "tests.csv", *drawing("comparison").comparison_figure(runs, out))
    except OSError as error:
        raise UserError(f"cannot write into {out} ({error}); name another directory by --out") from error
    for task, of_task in by_task(runs).items():  # at last, as a reader may leave before the end
        print_task(task, of_task, [pair for pair in tested if pair.task == task])
    if len(by_task(runs)) > 1:
        print_across(runs, overall)
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


def print_across(runs: Sequence[Run], overall: Sequence[Pair]) -> None:
    """Print each method's mean rank over the tasks that have all methods, and every two of them tested over tasks."""
    print(f"## Over {count(len(by_task(runs)), 'tasks')}, at the end\n")
    print_table(ranks_table(runs))
    if overall:
        print(f"\n{across_words(overall)}\n")
        print_table(across_table(overall))
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
    """Write one row per task and pair of methods, and without a task that over all; errors are minimised."""
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
    print_agreements(agreements(curves, arguments.eta), arguments.eta)
    for workers in arguments.workers:
        tried = settings(curves, workers=workers)
        found = judged(curves, tried, arguments.seeds, resource, arguments.processes)
        print_settings(found, len(tried), resource, workers, curves)


def print_agreements(found: Sequence[Agreement], eta: int) -> None:
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


def print_settings(found: Judged, tried: int, resource: float, workers: int, curves: Curves) -> None:
    best, (samples, seeds) = found.best[0], found.best[0].regret.shape
    each = f"{count(seeds, 'draws')} each, {count(workers, 'workers')}"
    time = f"{count(resource, curves.unit)} ({deadline(curves, resource, workers):g} s)"
    print(f"\nOf {tried} settings the best five by {samples} bootstrap samples of the rows, and fifo, replayed on the")
    print(f"rows that each sample left out: {each}, with the time of {time}.")
    print("Mean regret, with the interval that holds 95 % of the samples: other tables of such rows would differ so.\n")
    print_row(["setting", "regret", "more than the first, paired"])
    print_row(["---", "---:", "---:"])
    equal: list[Result] = []
    for result in found.best:
        more = result.by_table - best.by_table
        if middle(more)[0] <= 0:
            equal.append(result)
        print_row([str(result.setting), interval(result.by_table), "" if result is best else interval(more)])
    print(f"\nWhat a sample alone would have chosen comes to {interval(found.chosen)} on the rows that it left out,")
    print(f"and to {number(float(found.apparent.mean()))} on its own.")
    others = f", or as good, as far as such tables tell: {'; '.join(str(each.setting) for each in equal[1:])}"
    typed = f"{best.setting.overrides} r_max={curves.resource[-1]} budget.resource={amount(resource)}"
    print(f"\nRecommended: {typed}{others if equal[1:] else ''}\n")


def interval(values: Array) -> str:
    """Return a mean over samples, and between what the middle 95 % of them lie."""
    error = float(values.std(ddof=1))
    low, high = (digits(value, error) for value in middle(values))
    return f"{digits(float(values.mean()), error)} ({low} to {high})"


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
    parser.add_argument("--seeds", type=int, default=5, help="draws on each of 20 samples of the rows (default: 5)")
    parser.add_argument("--processes", type=int, help="processes to replay in (default: one for each core)")
    with one_line():
        arguments = parser.parse_args()
        if bool(arguments.paths) == bool(arguments.what_if):
            parser.error("give either run directories to compare, or --what-if FILE")
        if arguments.what_if and arguments.out:
            parser.error("--out is for what a comparison writes; --what-if only prints")
        if min(arguments.workers) < 1 or arguments.seeds < 1:
            parser.error("--workers and --seeds take numbers of at least 1")
        if arguments.what_if:
            what_if(arguments.what_if, arguments)
        else:
            alone = arguments.paths[0] if len(arguments.paths) == 1 else Path()
            compare(arguments.paths, arguments.out or alone)


if __name__ == "__main__":
    main()
