"""The paper that figures are drawn on: colours, type, scales, and the way to SVG and PNG."""

import io
import math
import re
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from halving.report.derived import replace
from halving.tracking.wording import digits, number

ACCENT, INK, MUTED, FAINT, HAIR, PAPER = "#0a66c2", "#1f2429", "#626b74", "#a3abb3", "#dfe3e7", "#ffffff"
VARIABLES = {"accent": ACCENT, "ink": INK, "muted": MUTED, "faint": FAINT, "hair": HAIR, "paper": PAPER}

LARGEST = 1e250  # with what is beyond, the arithmetic of axes would leave the range of floats

# One unit of a figure is a point, and the page shows a point as a pixel: sizes below are pixels of the page.
# What else there is to set is as matplotlib comes, whatever a user's matplotlibrc says.
STYLE: dict[Any, Any] = {
    **{name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"},
    "figure.dpi": 72,
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titlecolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "svg.fonttype": "none",
}


def svg(name: str, description: str, width: int, height: int, draw: Callable[[Figure], None]) -> str:
    """Return what `draw` puts on a transparent figure of `width` x `height` pixels, as one <svg> element.

    Ids are prefixed with `name`, so that several figures share a page; colours are the page's variables of VARIABLES
    where it has them, so that a page in dark mode recolours them. Equal drawings give equal text.
    """
    with _style(name):
        figure = _figure(width, height, draw)
        FigureCanvasSVG(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue(), name, description)


def png(path: Path, width: int, height: int, draw: Callable[[Figure], None]) -> None:
    """Write what `draw` puts on a white figure of `width` x `height` pixels, at twice that resolution."""
    with _style():
        figure = _figure(width, height, draw)
        FigureCanvasAgg(figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=144, facecolor=PAPER, metadata={"Software": None})
    replace(path, drawn.getvalue())


@contextmanager
def _style(salt: str | None = None) -> Generator[None]:
    """Draw in our style, and without warnings, such as of glyphs that a font lacks; ids follow from `salt`."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _figure(width: int, height: int, draw: Callable[[Figure], None]) -> Figure:
    figure = Figure(figsize=(width / 72, height / 72))
    draw(figure)
    return figure


def link(artist: Artist, trials: Iterable[int]) -> None:
    """Let each mark of an artist, in the order in which they are drawn, carry its trial as `data-t` in the SVG."""
    if known := ",".join(map(str, trials)):
        artist.set_gid(f"trials:{known}")


def _linked(group: re.Match[str]) -> str:
    """Return a group of marks, each with its trial; if they are not as many as the trials, as it is."""
    indent, trials, marks = group[1], group[2].split(","), group[3]
    defined, end, drawn = marks.rpartition("</defs>")
    tag = "use" if "<use " in drawn else "path"
    if len(trials) == 1:
        drawn = re.sub("<(use|path) ", rf'<\1 data-t="{trials[0]}" ', drawn)
    elif drawn.count(f"<{tag} ") == len(trials):
        each = iter(trials)
        drawn = re.sub(f"<{tag} ", lambda _: f'<{tag} data-t="{next(each)}" ', drawn)
    return f"{indent}<g>{defined}{end}{drawn}{indent}</g>"


def _inline(document: str, name: str, description: str) -> str:
    text = document[document.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'^( *)<g id="trials:([\d,]+)">(.*?)^\1</g>', _linked, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r" font-family: [^;]+;", "", text)
    text = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', text)
    for variable, colour in VARIABLES.items():
        text = re.sub(rf"(fill|stroke): {colour}", rf"\1: var(--{variable}, {colour})", text)
    return text.replace(
        "<svg", f'<svg role="img" aria-label="{escape(description)}" font-family="system-ui, sans-serif"', 1
    )


def tick(value: float) -> str:
    """Return a number that has room beside an axis."""
    return number(value) if abs(value) < 1e5 else f"{value:.3g}"


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return axes whose frame lies at these pixels of the figure, from its upper left corner."""
    across, down = figure.get_size_inches() * 72
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


@dataclass(frozen=True, slots=True)
class Scale:
    """The vertical axis for errors, shown as people know them: unflipped where the metric is maximised.

    Logarithmic where the errors are positive and the largest is more than four times the smallest. Errors beyond
    `worst` (three interquartile ranges above the third quartile, or LARGEST) are drawn on the axis' edge.
    """

    label: str
    sign: int
    log: bool
    best: float
    worst: float
    uncertainty: float | None = None

    @classmethod
    def over(cls, errors: Iterable[float], label: str, maximize: bool, uncertainty: float | None = None) -> "Scale":
        finite = sorted(error for error in errors if math.isfinite(error)) or [0.0]
        values = [error for error in finite if abs(error) <= LARGEST] or [drawable(error) for error in finite]
        log = not maximize and values[0] > 0 and values[-1] > 4 * values[0]
        values = [drawable(value, log) for value in values]
        low, high = (values[len(values) * quarter // 4] for quarter in (1, 3))
        ratio = math.log10(high) - math.log10(low) if log else 0.0
        bound = high * 10 ** min(3 * ratio, 250) if log else high + 3 * (high - low)
        within = [value for value in values if value <= bound] if high > low else values
        return cls(label, -1 if maximize else 1, log, values[0], within[-1], uncertainty)

    def height(self, error: float) -> float:
        """Where an error is drawn, in the axis' own units."""
        return self.sign * min(max(error, self.best), self.worst)

    def beyond(self, errors: Iterable[float]) -> int:
        """How many finite errors lie beyond the axis."""
        return sum(self.worst < error < math.inf for error in errors)

    def number(self, error: float) -> str:
        return digits(self.sign * error, self.uncertainty)

    def apply(self, axes: Axes) -> None:
        """Set limits, ticks and the name above the axis."""
        if self.log:
            axes.set_yscale("log")
            low, high = limits(self.best, self.worst, log=True)
            axes.yaxis.set_major_locator(FixedLocator(round_numbers(low, high)))
        else:
            low, high = sorted((self.sign * self.best, self.sign * self.worst))
            low, high = limits(low, high)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_ylim(low, high)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.grid(axis="y", color=HAIR, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=3)

    @property
    def title(self) -> str:
        return f"{self.label} (log scale)" if self.log else self.label


def drawable(value: float, log: bool = False) -> float:
    """Return the number nearest to a value that an axis can show, on a logarithmic one above 0."""
    return min(max(value, 1 / LARGEST if log else -LARGEST), LARGEST)


def limits(low: float, high: float, log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that shows from `low` to `high`, with a margin."""
    if log:
        margin = 10 ** (0.05 * (math.log10(high) - math.log10(low)))
        return low / margin, high * margin
    margin = (high - low) * 0.05
    if not low - margin < low <= high < high + margin:
        margin = max(abs(low), abs(high)) * 0.1 or 1.0
    return low - margin, high + margin


def round_numbers(low: float, high: float) -> list[float]:
    """Return at most seven round numbers within positive limits, from the coarsest grid that has four."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    grids = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 8))
    ticks: list[float] = []
    for grid in grids:
        ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in grid]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: max(1, -(-len(ticks) // 7))]


def thinned(levels: Iterable[int], ratio: float) -> list[int]:
    """Return ascending levels, the highest among them, each at least `ratio` times the one before."""
    kept: list[int] = []
    for level in sorted(levels, reverse=True):
        if not kept or level * ratio <= kept[-1]:
            kept.append(level)
    return kept[::-1]
