"""report.html in a real browser: explored by mouse and keyboard, on a phone, in light and dark, by a screen reader."""

import math
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from test_report import NASTY, many, study
from test_sensitivity import told

from halving.history import Header, History, Ladder
from halving.report.html import report_html
from halving.trial import Epoch, Finished, Outcome, Restarted, Resume, Start, Verdict

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")

CONDITIONAL = Header(
    "hostile </script><!--", "asha", "random", 7, 9, metric="val_error", full_cost=9.0,
    dimensions=("optimizer", "optimizer.lr", "optimizer.momentum", "a\"b'c</script>"), plan=(Ladder((1, 3), (9, 3)),),
    settings={
        "unresolved": {}, "overrides": ["scheduler=asha", "name='a b'"], "run_dir": "/tmp/a study's",
        "environment": {"python": "2.7", "host": "</script>", "packages": {"halving": "0.1"}, "commit": None},
    },
)  # fmt: skip


def conditional() -> History:
    """Nine trials of two optimizers, one of which has a momentum; one fails, three go on, hostile words throughout."""
    history = History()
    history.apply(CONDITIONAL, 0.0)
    for trial in range(9):
        own = {"optimizer": "sgd", "optimizer.momentum": trial / 10} if trial % 2 else {"optimizer": "adam</script>"}
        value = f'"><img src=x onerror=alert(1)>{trial % 3}'
        history.apply(Start(trial, {**own, "optimizer.lr": 10.0 ** (-trial / 2), "a\"b'c</script>": value}, 1), trial)
        history.apply(Epoch(trial, 1, {"val_error": 0.1 + trial / 20}), trial + 0.5)
        history.apply(
            Finished(Outcome(trial, 1, 0.1 + trial / 20, failed=trial == 4), 1.0, None, NASTY, 1.0), trial + 1
        )
        history.apply(Verdict(trial, "failed" if trial == 4 else "paused", NASTY), trial + 1)
    for trial in range(3):
        history.apply(Resume(trial, 1, 3, 1, "among the best"), 10.0)
        history.apply(Restarted(trial, 1, "its worker died"), 10.5)
        history.apply(Epoch(trial, 3, {"val_error": 0.2 - trial / 50}), 12.0)
        history.apply(Finished(Outcome(trial, 3, 0.2 - trial / 50), 2.0, None, "", 2.0), 12.0)
    return history


def sensitivity() -> History:
    """One thing at a time: a matters, and one of its values fails; b does not."""
    return told(
        {(0, 0): (0.10, 0.12, 0.14), (1, 0): (0.31, 0.32, 0.36), (2, 0): (math.nan,) * 3, (0, 1): (0.11, 0.11, 0.14)}
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("pages")
    found: dict[str, str] = {}
    for name, history in {
        "conditional": conditional(),
        "many": many(40),
        "study": study(),
        "sensitivity": sensitivity(),
    }.items():
        path = directory / f"{name}.html"
        path.write_text(report_html(history), "utf-8")
        found[name] = path.as_uri()
    return found


@pytest.fixture
def opened(browser: Any, files: dict[str, str]) -> Iterator[Any]:
    """`opened(name, ...)` is a page that must leave the console empty and never ask for anything."""
    contexts: list[Any] = []
    said: list[str] = []

    def open_page(name: str, width: int = 1200, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: said.append(request.url) if request.url != files[name] else None)
        page.goto(files[name])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def rows(page: Any) -> list[str]:
    """The trials that the table shows, in its order."""
    return page.eval_on_selector_all("#trials tbody tr:not([hidden])", "rows => rows.map(row => row.dataset.t)")


def faint(page: Any, figure: str) -> set[str]:
    """The trials that a figure draws faintly, as they are not among the chosen."""
    return set(page.eval_on_selector_all(f"{figure} [data-t].off", "marks => marks.map(mark => mark.dataset.t)"))


def test_a_brush_by_mouse_chooses_trials_in_the_table_and_in_every_figure(opened: Any) -> None:
    page = opened("conditional")
    assert len(rows(page)) == 9
    track = page.locator(".parallel .track").nth(1)
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, box["y"] + box["height"] / 3)
    page.mouse.down()
    page.mouse.move(x, box["y"], steps=4)
    page.mouse.up()
    chosen = rows(page)
    assert chosen and len(chosen) < 9 and chosen == [str(t) for t in range(len(chosen))], "the largest learning rates"
    others = {str(trial) for trial in range(9)} - set(chosen)
    for figure in (".parallel", ".timeline", "svg[aria-label^=Learning]", "svg[aria-label^='Error of every']"):
        assert faint(page, figure) == others, figure
    assert page.locator("#shown").inner_text() == f"{len(chosen)} of 9 trials"
    page.mouse.click(x, box["y"] + box["height"] / 2)
    assert len(rows(page)) == 9 and not faint(page, "svg")


def test_a_brush_by_keyboard_moves_from_value_to_value_and_says_which(opened: Any) -> None:
    page = opened("conditional")
    low, high = (page.get_by_role("slider", name=f"optimizer.momentum: {end}") for end in ("lowest", "highest"))
    low.focus()
    assert (low.get_attribute("aria-valuetext"), high.get_attribute("aria-valuetext")) == ("not used", "0.7")
    page.keyboard.press("ArrowUp")
    assert (low.get_attribute("aria-valuetext"), rows(page)) == ("0.1", ["1", "3", "5", "7"])
    high.focus()
    page.keyboard.press("ArrowDown")
    assert (high.get_attribute("aria-valuetext"), rows(page)) == ("0.5", ["1", "3", "5"])
    page.keyboard.press("Escape")
    assert len(rows(page)) == 9
    error = page.get_by_role("slider", name="validation error: highest")
    error.focus()
    page.keyboard.press("Home")
    assert page.locator("#chosen").is_visible() and 0 < len(rows(page)) < 9
    page.get_by_role("button", name="show all").click()
    assert len(rows(page)) == 9 and not page.locator("#chosen").is_visible()


def test_words_and_comparisons_filter_and_heads_sort(opened: Any) -> None:
    page = opened("conditional")
    for text, expected in (
        ("failed", ["4"]), ("lr>=0.1 sgd", ["1"]), ("optimizer.lr<0.01", ["5", "6", "7", "8"]), ("nothing", []),
        ("momentum!=0.1", ["3", "5", "7"]), ("[*", []), ("", [str(trial) for trial in range(9)]),
    ):  # fmt: skip
        page.get_by_role("searchbox").fill(text)
        assert rows(page) == expected, text
    head = page.locator("#trials th", has_text="momentum")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert (head.get_attribute("aria-sort"), rows(page)[:4]) == ("ascending", ["1", "3", "5", "7"])
    page.keyboard.press("Enter")
    assert (head.get_attribute("aria-sort"), rows(page)[:4]) == ("descending", ["7", "5", "3", "1"])


def test_a_trial_is_named_everywhere_at_once(opened: Any) -> None:
    page = opened("conditional")
    figures = ("Learning", "Error of every", "Every trial", "Error against", "What the workers")

    def named() -> set[str]:
        return set(page.eval_on_selector_all(".on", "marks => marks.map(mark => mark.dataset.t)"))

    dot = page.locator("svg[aria-label^=Learning] use[data-t='2']").last
    dot.scroll_into_view_if_needed()
    mark = dot.bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2 + 2, mark["y"] + mark["height"] / 2)
    page.locator("#tip").wait_for(state="visible")
    assert named() == {"2"} and page.locator("#tip").inner_text().startswith("trial 2\n")
    assert all(page.locator(f"svg[aria-label^='{figure}'] .on").count() for figure in figures)
    assert page.locator("#trials tr.on").get_attribute("data-t") == "2"
    page.mouse.move(2, 2)
    page.locator("#tip").wait_for(state="hidden")
    assert not named()
    page.locator("#trials tbody tr").first.focus()
    page.keyboard.press("ArrowDown")
    assert named() == {"1"}


def test_commands_are_copied_as_they_stand(opened: Any) -> None:
    page = opened("conditional", permissions=["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="resume=")
    button.first.click()
    page.locator(".copy", has_text="copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("pre.command").first.inner_text() and copied.startswith("python train.py ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("name", ["conditional", "many", "study", "sensitivity"])
def test_it_fits_a_phone_and_everybody_can_read_it(opened: Any, name: str, width: int, scheme: str) -> None:
    page = opened(name, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if (name, width) in (("conditional", 360), ("many", 1200), ("study", 1200), ("sensitivity", 360)):
        found = axe.Axe().run(page).response["violations"]
        assert [(each["id"], node["html"], node["failureSummary"]) for each in found for node in each["nodes"]] == []


def test_it_is_complete_without_a_script(opened: Any) -> None:
    page = opened("conditional", java_script_enabled=False)
    assert page.locator("svg").count() == 7 and page.locator("#trials tbody tr:visible").count() == 9
    assert not page.locator(".tools").is_visible() and not page.locator("#chosen").is_visible()
