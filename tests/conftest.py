"""The command line, called as users call it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests share the cores

import known  # noqa: F401
import torch  # which reads what was set

_THREADS = torch.get_num_threads()

Run = Callable[..., subprocess.CompletedProcess[str]]

# A process that has imported torch forks one child per line that it reads; the child goes on as `python train.py`. So
# does what a script begins as that; and a child that has one thread forks its workers, as if they had been spawned.
# Figures are drawn only for those who look at them.
_FORKS = """
import atexit, functools, gc, json, logging, multiprocessing.spawn, multiprocessing.util, os, re, runpy, signal
import subprocess, sys, threading, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs in its background
import halving, halving.app.command_line, halving.data.scikit_digits, halving.data.torchvision_shim
import halving.report.figures, halving.report.html, halving.sweep.sweeper
import hydra, omegaconf, scipy.stats, sklearn.datasets, torch, torch._dynamo
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
Plugins.instance()
halving.data.torchvision_shim.allow_import()  # of apps that import it, by way of Lightning
OverridesParser.create().parse_overrides(["a.b=[1,{c:'d'}]", "~e", "+f=1.0"])
omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create({"a": "x${b.c}", "b": {"c": "${oc.env:A,${d}}", "d": 1}}))
drawn = halving.tune(lambda c, r: c["x"] / r, {"x": [3.0, 2.0, 1.0]}, halving.SuccessiveHalving, r_max=3).history
halving.report.html.report_html(drawn)
sys.path.insert(0, sys.argv[1])
import known
del sys.path[0]
halving.data.scikit_digits.load = functools.cache(halving.data.scikit_digits.load)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # others would be lost to the children
halving.data.scikit_digits.load()
torch.set_num_threads(threads)
for library in list(weakref.finalize._registry):  # torch's, which would take themselves apart at each child's end
    library.atexit = False
gc.set_threshold(100_000)
gc.freeze()


def become(argv, out, err):
    for number, file in enumerate((os.open("/dev/null", os.O_RDWR), out, err)):
        os.dup2(file, number)
    sys.argv = argv
    sys.path[:1] = [os.path.dirname(argv[0]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    status = None
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status or 0)  # taking all modules apart would take half a second


class Popen(subprocess.Popen):
    def __init__(self, command, *rest, **options):
        words = [command] if isinstance(command, str) else [*map(str, command)]
        if words[:1] != [sys.executable] or words[1:2] != [call["train"]]:
            return super().__init__(command, *rest, **options)
        self.args, self.returncode, self.stdin, self.stdout, self.stderr = command, None, None, None, None
        self._waitpid_lock, self._child_created = threading.Lock(), True
        if (pid := os.fork()) == 0:
            try:
                become(words[1:], options["stdout"].fileno(), options["stderr"].fileno())
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(1)
        self.pid = pid


spawn, worker = multiprocessing.util.spawnv_passfds, re.compile(r"tracker_fd=(\\d+), pipe_handle=(\\d+)")


def forked(path, words, inherited):
    found = worker.search(" ".join(map(os.fsdecode, words)))
    if found is None or len(os.listdir("/proc/self/task")) > 1:
        return spawn(path, words, inherited)
    if pid := os.fork():
        return pid
    status = 1
    try:
        kept = sorted({0, 1, 2, *inherited})
        for left, right in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")]):
            os.closerange(left + 1, right)
        for number in (each for each in signal.valid_signals() if callable(signal.getsignal(each))):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        atexit._clear()
        logging.root.handlers.clear()
        sys.argv = ["-c", "--multiprocessing-fork"]
        multiprocessing.spawn.spawn_main(tracker_fd=int(found[1]), pipe_handle=int(found[2]))
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status or 0)


for line in sys.stdin:
    call = json.loads(line)
    if "wait" in call:
        ended, status = os.waitpid(call["wait"], os.WNOHANG if call["look"] else 0)
        print(os.waitstatus_to_exitcode(status) if ended else "", flush=True)
    elif (child := os.fork()) == 0:
        break
    else:
        print(child, flush=True)
else:
    sys.exit()
os.chdir(call["cwd"])
os.environ.clear()
os.environ.update(call["env"])
if not call["drawn"]:
    halving.report.figures.svg = lambda name, *_: f'<svg role="img" aria-label="{name}"></svg>'
subprocess.Popen, multiprocessing.util.spawnv_passfds = Popen, forked
become(call["argv"], os.open(call["out"], os.O_RDWR), os.open(call["err"], os.O_RDWR))
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with Slurm's, which wait most of the time: as the last file but a few they would wait on idle cores."""
    items.sort(key=lambda item: item.path.stem != "test_slurm")


@pytest.fixture(autouse=True, scope="module")
def threads_of_a_file() -> None:
    """Let what a file's tests share be made with the threads that another process has."""
    torch.set_num_threads(_THREADS)


@pytest.fixture(autouse=True)
def threads() -> None:
    """Let every test begin with them, too: one before it may have set other ones."""
    torch.set_num_threads(_THREADS)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run(*arguments, cwd=None, **env)` is `python train.py ...`, by default in an empty directory of its own."""

    def run(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(repo / "train.py"), *arguments],
            cwd=cwd or tmp_path_factory.mktemp("cwd"),
            env=environment(**env),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )

    return run


@dataclass
class Forked:
    """A process that goes on meanwhile, much like a `subprocess.Popen`."""

    pid: int
    ended: Callable[[bool], int | None]
    out: Path
    err: Path
    returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self, text: str, seconds: float = 120.0) -> None:
        """Return once it has printed a text."""
        deadline = time.monotonic() + seconds
        while text not in self.out.read_text("utf-8"):
            self.returncode = self.ended(True)
            assert self.returncode is None and time.monotonic() < deadline, self.communicate(0.0)
            time.sleep(0.01)

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        deadline = time.monotonic() + timeout
        while self.returncode is None and (code := self.ended(True)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.returncode = code if self.returncode is None else self.returncode
        return self.out.read_text("utf-8"), self.err.read_text("utf-8")


class Forks:
    """`run` without the seconds that importing torch takes, for many short calls of any `program`."""

    def __init__(self, repo: Path, streams: pytest.TempPathFactory) -> None:
        self._repo, self._streams = repo, streams
        command = [sys.executable, "-c", _FORKS, str(Path(__file__).parent)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen(command, env=environment(), text=True, **pipes)

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end. `drawn` is for those who look at the figures of the page."""
        process = self.begin(*arguments, **options)
        process.returncode = process.ended(False)
        return subprocess.CompletedProcess([*arguments], process.returncode or 0, *process.communicate())

    def begin(
        self, *arguments: str, cwd: Path | None = None, program: str = "train.py", drawn: bool = False, **env: str
    ) -> Forked:
        streams = self._streams.mktemp("streams")
        out, err = streams / "out", streams / "err"
        out.touch()
        err.touch()
        call = {"argv": [str(self._repo / program), *arguments], "out": str(out), "err": str(err), "drawn": drawn}
        call["train"] = str(self._repo / "train.py")
        place = str(cwd or self._streams.mktemp("cwd"))
        pid = int(self._ask(call | {"env": environment(**env), "cwd": place}))

        def ended(look: bool) -> int | None:
            reply = self._ask({"wait": pid, "look": look}).strip()
            return int(reply) if reply else None

        return Forked(pid, ended, out, err)

    def _ask(self, request: dict[str, Any]) -> str:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline()


@pytest.fixture(scope="session")
def fork(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """The same as `run`, forked; `fork.begin` returns while it runs."""
    forks = Forks(repo, tmp_path_factory)
    yield forks
    assert forks.server.stdin is not None
    forks.server.stdin.close()
    forks.server.wait(timeout=60)


def colours(picture: Path, box: tuple[int, int, int, int] | None = None) -> dict[str, int]:
    """Return how many pixels of a PNG, or of a box (left, top, right, bottom) in it, have each colour: #0a66c2, say."""
    found = Image.open(picture).convert("RGB").crop(box).getcolors(2**24) or []
    return {"#" + bytes(colour).hex(): count for count, colour in found}


def environment(**more: str) -> dict[str, str]:
    """Return a user's environment: no W&B settings, `python` is this interpreter, and tables are not folded."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "HYDRA_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    return own | {"PATH": path, "COLUMNS": "200"} | more
