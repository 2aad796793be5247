"""What a study takes of the machine: cores as far as they are its own, and threads that spin but briefly."""

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Run, environment

from halving.environment import importing

_ASK = "from halving.environment import cores, default_threads; print(cores(), default_threads(1), default_threads(3))"
_SMALL = ("model=softmax", "data.train_samples=100", "r_max=1", "tracker=none")


def asked(cpus: set[int] | None = None, group: Path | None = None, **env: str) -> list[int]:
    """What a fresh process, bound to some CPUs and to a control group, says of its cores and threads."""

    def bind() -> None:
        if cpus is not None:
            os.sched_setaffinity(0, cpus)
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    own = {key: value for key, value in environment(**env).items() if key != "OMP_NUM_THREADS" or key in env}
    found = subprocess.run([sys.executable, "-c", _ASK], env=own, preexec_fn=bind, capture_output=True, check=True)
    return list(map(int, found.stdout.split()))


def test_an_affinity_mask_and_omp_num_threads_limit_what_is_taken() -> None:
    free = sorted(os.sched_getaffinity(0))
    n = len(free)
    assert asked(set(free[:1])) == [1, 1, 1]
    assert asked(OMP_NUM_THREADS="1")[1:] == [1, 1]
    assert asked(OMP_NUM_THREADS="64,2") == asked(OMP_NUM_THREADS="64") == [n, n, max(1, n // 3)]
    assert asked(OMP_NUM_THREADS="many") == asked()


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A control group within one that may use half a core's time: a limit counts wherever it is set."""
    one, two = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    outer = (one if (one / "cpu.cfs_quota_us").is_file() else two) / f"halving-{os.getpid()}"
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            if outer.parent == one:
                (outer / "cpu.cfs_quota_us").write_text("50000")
            else:
                (outer / "cpu.max").write_text("50000 100000")
        except OSError as error:
            pytest.skip(f"no quota can be set here: {error}")
        yield inner
    finally:
        inner.rmdir()
        outer.rmdir()


def test_a_control_group_limits_what_is_taken(half_a_core: Path) -> None:
    assert asked(group=half_a_core, OMP_NUM_THREADS="8") == [1, 1, 1]


@pytest.mark.parametrize(
    ("theirs", "settings"),
    [
        ({"OMP_WAIT_POLICY": ""}, {"OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '5000'"}),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '0'"}),
    ],
)
def test_threads_soon_sleep_while_they_wait_unless_the_user_says_otherwise(
    run: Run, theirs: dict[str, str], settings: set[str]
) -> None:
    study = ("scheduler=fifo", "scheduler.max_trials=2", "executor=process", "executor.workers=2")
    done = run(*_SMALL, *study, **theirs, OMP_DISPLAY_ENV="verbose")
    assert done.returncode == 0, done.stderr
    said = [line.strip() for line in done.stderr.splitlines() if re.search("OMP_WAIT_POLICY|GOMP_SPINCOUNT", line)]
    if not said:
        pytest.skip("this build of torch has no OpenMP that tells of its settings")
    assert len(said) >= 6, "the study's own process and both workers load OpenMP"
    assert set(said) == settings


def test_garbage_is_looked_for_but_while_modules_are_imported() -> None:
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
