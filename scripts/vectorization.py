"""One matrix product computed element by element, column by column, at once and in blocks: how fast each way is.

python scripts/vectorization.py --figure vectorization.png

The book's section on vectorization and caches: the arithmetic is the same, the calls and the ways of memory are not. A
way is timed several times after a warm-up, each time for as many products as take a twentieth of a second, and its
median counts. Means little while other programs use the cores.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halving import UserError
from halving.environment import expanded
from halving.errors import whole
from halving.report.drawing import drawing
from halving.tracking.terminal import one_line
from halving.tracking.wording import count

LEAST_SECONDS = 0.05  # that one timing takes: shorter ones measure the clock


def element(out: Tensor, left: Tensor, right: Tensor) -> None:
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            out[i, j] = torch.dot(left[i, :], right[:, j])


def column(out: Tensor, left: Tensor, right: Tensor) -> None:
    for j in range(right.shape[1]):
        out[:, j] = torch.mv(left, right[:, j])


def at_once(out: Tensor, left: Tensor, right: Tensor) -> None:
    torch.mm(left, right, out=out)


def blocks(out: Tensor, left: Tensor, right: Tensor, width: int) -> None:
    for j in range(0, right.shape[1], width):
        out[:, j : j + width] = torch.mm(left, right[:, j : j + width])


def ways(width: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], None]]:
    """Return the ways to compute a product by their names."""
    return {
        "element by element": element,
        "column by column": column,
        "at once": at_once,
        f"in blocks of {count(width, 'columns')}": partial(blocks, width=width),
    }


def seconds(product: Callable[[], None], repeats: int) -> list[float]:
    """Return what one product takes, ascending, each time measured over so many that the clock does not matter."""

    def timed(products: int) -> float:
        began = time.perf_counter()
        for _ in range(products):
            product()
        return time.perf_counter() - began

    products = 1
    timed(products)
    while (took := timed(products)) < LEAST_SECONDS:
        products = max(2 * products, round(products * LEAST_SECONDS / max(took, 1e-9)))
    return sorted(timed(products) / products for _ in range(repeats))


def write_figure(rates: dict[str, float], title: str, path: Path) -> None:
    """Draw the rates as bars on a logarithmic axis."""
    canvas = drawing("canvas")

    def draw(figure: Any) -> None:
        axes = canvas.place(figure, 190, 44, 430, 40 * len(rates))
        places = range(len(rates), 0, -1)
        axes.barh(places, rates.values(), height=0.62, color=canvas.ACCENT)
        axes.set_xscale("log")
        axes.set_xlim(min(rates.values()) / 4, max(rates.values()) * 3)
        axes.set_yticks(list(places), list(rates), color=canvas.INK, fontsize=12)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel("Gigaflop/s, logarithmic")
        axes.set_title(title, pad=14)
        for place, rate in zip(places, rates.values(), strict=True):
            axes.annotate(
                f"{rate:.3g}", (rate, place), (6, 0), textcoords="offset points", va="center", color=canvas.INK
            )

    try:
        canvas.png(path, 660, 100 + 40 * len(rates), draw)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written: {error.strerror}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="rows and columns of the matrices (default: 256)")
    parser.add_argument("--block", type=int, help="columns of a block (default: 64, or all of fewer)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each way (default: 5)")
    parser.add_argument("--threads", type=int, help="threads for torch (default: torch's own)")
    parser.add_argument("--figure", type=expanded, metavar="FILE.png", help="where to draw the rates as bars")
    given = parser.parse_args()
    with one_line():
        size = whole("--size", given.size, most=4096)
        width = whole("--block", min(64, size) if given.block is None else given.block, most=size)
        repeats = whole("--repeats", given.repeats)
        threads = whole("--threads", torch.get_num_threads() if given.threads is None else given.threads, most=1024)
        if given.figure is not None and (given.figure.suffix != ".png" or not given.figure.absolute().parent.is_dir()):
            raise UserError(f"--figure {given.figure}: give a file that ends in .png, in a directory that is there")
        torch.set_num_threads(threads)
        left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
        title = f"{size} x {size} product, float32, {count(threads, 'threads')}"
        print(f"{title}: median of {count(repeats, 'timings')}")
        print(f"{'way':<24}{'seconds':>12}{'Gigaflop/s':>12}{'slowest':>10}{'fastest':>10}{'times the first':>17}")
        rates: dict[str, float] = {}
        for name, way in ways(width).items():
            took = seconds(partial(way, torch.empty(size, size), left, right), repeats)
            slowest, rate, fastest = (2e-9 * size**3 / each for each in (took[-1], statistics.median(took), took[0]))
            rates[name] = rate
            times = rate / next(iter(rates.values()))
            shown = f"{statistics.median(took):>12.3g}{rate:>12.3g}{slowest:>10.3g}{fastest:>10.3g}{times:>17.0f}"
            print(f"{name:<24}{shown}", flush=True)
        if given.figure is not None:
            write_figure(rates, title, given.figure)
            print(given.figure)


if __name__ == "__main__":
    main()
