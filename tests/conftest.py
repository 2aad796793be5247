"""The command line, called as users call it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from halving.environment import wait_passively

wait_passively()  # tests share the cores

Run = Callable[..., subprocess.CompletedProcess[str]]

# A process that has imported torch forks one child per line that it reads; the child goes on as `python train.py`.
_FORKS = """
import atexit, gc, json, os, runpy, sys, threading
import halving, halving.app, halving.data.scikit_digits, halving.report.figures, halving.report.html
import hydra, omegaconf, scipy.stats, sklearn.datasets, torch._dynamo
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
Plugins.instance()
OverridesParser.create().parse_overrides(["a.b=[1,{c:'d'}]", "~e", "+f=1.0"])
omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create({"a": "x${b.c}", "b": {"c": "${oc.env:A,${d}}", "d": 1}}))
drawn = halving.tune(lambda c, r: c["x"] / r, {"x": [3.0, 2.0, 1.0]}, halving.SuccessiveHalving, r_max=3).history
halving.report.html.report_html(drawn)
gc.freeze()
for line in sys.stdin:
    if (child := os.fork()) == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
call = json.loads(line)
os.chdir(call["cwd"])
os.environ.clear()
os.environ.update(call["env"])
for number, name in enumerate(("/dev/null", call["out"], call["err"])):
    os.dup2(os.open(name, os.O_RDWR), number)
sys.argv = call["argv"]
sys.path[:1] = [os.path.dirname(sys.argv[0]), *filter(None, call["env"].get("PYTHONPATH", "").split(os.pathsep))]
status = None
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    status = ended.code
if isinstance(status, str):
    print(status, file=sys.stderr)
    status = 1
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
os._exit(status or 0)  # taking all modules apart would take half a second
"""


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


@pytest.fixture(scope="session")
def fork(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The same as `run` without the seconds that importing torch takes, for many short calls of any `program`."""
    server = subprocess.Popen(
        [sys.executable, "-c", _FORKS],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    requests, replies = server.stdin, server.stdout

    def run(
        *arguments: str, cwd: Path | None = None, program: str = "train.py", **env: str
    ) -> subprocess.CompletedProcess[str]:
        streams = tmp_path_factory.mktemp("streams")
        out, err = streams / "out", streams / "err"
        out.touch()
        err.touch()
        argv = [str(repo / program), *arguments]
        call = {"argv": argv, "env": environment(**env), "out": str(out), "err": str(err)}
        requests.write(json.dumps(call | {"cwd": str(cwd or tmp_path_factory.mktemp("cwd"))}) + "\n")
        requests.flush()
        status = int(replies.readline())
        return subprocess.CompletedProcess(argv, status, out.read_text("utf-8"), err.read_text("utf-8"))

    yield run
    requests.close()
    server.wait(timeout=60)


def environment(**more: str) -> dict[str, str]:
    """Return a user's environment: no W&B settings, `python` is this interpreter, and tables are not folded."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "HYDRA_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    return own | {"PATH": path, "COLUMNS": "200"} | more
