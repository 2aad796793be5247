"""Every command and snippet of README and docs is run, page by page, or says beside it why not.

A fence with a title is a file, and a YAML file's first comment the command that uses it; other Python is one script a
page. `<!-- not run: why -->` after a command or a fence, or `<!-- commands not run: why -->` for a page, leaves it out.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Run, environment

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
PROGRAMS = ("python", "halving", "pip")

_FENCE = re.compile(
    r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```\n(?:<!-- (not run): .+ -->\n)?', re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"`([^`\n]+)`(?:<!-- (not run): [^>]+ -->)?")
# What makes a command small, unless it says otherwise itself.
_SMALL = ("model=softmax", "data.train_samples=100", "r_max=9", "tracker=none", "executor.threads=1")


@dataclass(frozen=True)
class Page:
    """What a page tells a reader to write and to run."""

    files: dict[str, str]
    script: str
    commands: list[str]

    @classmethod
    def read(cls, path: Path) -> "Page":
        text = path.read_text(encoding="utf-8")
        files: dict[str, str] = {}
        script, commands = "", list[str]()
        quiet = "<!-- commands not run: " in text
        for language, content, title, left_out in _parts(text):
            if title:
                files[title] = content
                if language == "yaml":
                    comment = next(line for line in content.splitlines() if line.startswith("# python "))
                    commands.append(comment.removeprefix("# "))
            elif language == "python" and not left_out:
                script += content
            elif language in ("sh", "inline") and not (left_out or quiet):
                commands += [line for line in content.splitlines() if _is_command(line)]
            else:
                assert language in ("sh", "inline", "text", "python"), (
                    f"{path.name}: a {language} fence without a title"
                )
        return cls(files, script, commands)


def _parts(text: str) -> Iterator[tuple[str, str, str | None, bool]]:
    """Yield fences and inline code in order, as language, content, title and whether it is not to be run."""
    at = 0
    for fence in [*_FENCE.finditer(text), None]:
        end = fence.start() if fence else len(text)
        for inline in _INLINE.finditer(text, at, end):
            yield "inline", inline[1], None, bool(inline[2])
        if fence:
            yield fence[1], fence[3], fence[2], bool(fence[4])
            at = fence.end()


def _is_command(line: str) -> bool:
    """Tell a command from the mere name of a program, such as `python scripts/study.py`."""
    words = line.split()
    return words[0] in PROGRAMS and (len(words) > 2 or words == ["python", "train.py"])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the studies of all pages lie."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def place(outputs: Path, tmp_path: Path) -> Path:
    """A directory in which the checkout's own files lie as at its root."""
    for name in ("train.py", "conf", "scripts", "src", "docs", "examples"):
        (tmp_path / name).symlink_to(REPO / name)
    (tmp_path / "outputs").symlink_to(outputs)
    return tmp_path


@pytest.fixture(scope="module")
def done() -> set[str]:
    """The commands that pages have run: what two pages say need run once."""
    return set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_a_page_says_to_run_runs(fork: Run, place: Path, done: set[str], path: Path) -> None:
    page = Page.read(path)
    for name, content in page.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content, encoding="utf-8")
    begun = ["python train.py scheduler=sha eta=3"] if any("<run dir>" in it for it in page.commands) else []
    for command in dict.fromkeys([*begun, *page.commands]):
        if command not in done:
            _run(fork, command, place)
            done.add(command)
    if page.script:
        (place / "page.py").write_text(page.script, encoding="utf-8")
        ran = fork(cwd=place, program=str(place / "page.py"))
        assert ran.returncode == 0, ran.stderr


def _run(fork: Run, command: str, place: Path) -> None:
    command = re.sub(r"pip install [^&]+&& ", "", command)  # whoever runs this has installed it
    for word, kind in (("<run dir>", "*/*/journal.jsonl"), ("<multirun dir>", "*/multirun/*/multirun.yaml")):
        if word in command:  # the first that there was
            command = command.replace(word, str(min(place.glob(f"outputs/{kind}")).parent))
    words = shlex.split(command)
    match words:
        case ["pytest", *_]:
            return
        case ["python", "train.py", *arguments]:
            keys = {word.lstrip("+~").partition("=")[0] for word in arguments}
            own = keys & {"resume", "-cp", "--cfg"} and "-m" not in keys  # a multirun is repeated word by word
            taken = keys | {key.replace("data", "data.train_samples") for key in keys}  # data of one's own may lack it
            more = () if own else [word for word in _SMALL if word.partition("=")[0] not in taken]
            done = fork(*arguments, *more, cwd=place)
        case ["python", program, *arguments] if program.endswith(".py"):
            done = fork(*arguments, cwd=place, program=str(place / program))
        case ["halving", *arguments]:
            done = fork(*arguments, cwd=place, program="src/halving/__main__.py")
        case ["python", "-m", "halving.conformance", *arguments]:
            paths = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
            done = fork(*arguments, cwd=place, program="src/halving/conformance/__main__.py", PYTHONPATH=paths)
        case _:
            done = subprocess.run(words, cwd=place, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_pages_know_each_other() -> None:
    """Every page is in the site's navigation, and every relative link of README leads to a file."""
    navigation = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name not in navigation] == []
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (REPO / "README.md").read_text(encoding="utf-8"))
    assert links and [link for link in links if not (REPO / link).exists()] == []
