"""A run directory from a stranger: what in it leads elsewhere is named, and nothing outside changes or hangs."""

import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halving
from halving.checkpoints import discard, sweep
from halving.checkpoints.links import create, strays
from halving.checkpoints.store import State, Store
from halving.comparison import labelled
from halving.curves.recording import record
from halving.errors import UserError
from halving.journal import read, replay
from halving.journal.run_directories import run_directories
from halving.report.derived import replace
from halving.report.wandb_preview import preview
from halving.report.wandb_report import Grid, Key, Panel, Report, RunSet
from halving.review.inspection import main
from halving.review.rebuilding import rebuild
from halving.review.verification import verify
from halving.tracking.runs import Mirrored
from halving.training.own import Running

SMALL = ("r_max=3", "scheduler=sha", "model=softmax", "data.train_samples=60", "executor.threads=1")


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Let a pipe that is opened be an error, not a suite that hangs."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def training(trial: Running) -> Iterator[dict[str, float]]:
    done = trial.keep(rng=np.random.default_rng(trial.seed))
    x: Any = trial.configuration["x"]
    for epoch in range(done + 1, trial.until + 1):
        yield {"error": x / epoch}


def tune(run_dir: Path, resume: bool = False) -> halving.Study:
    space = {"x": [float(x) for x in range(1, 10)]}
    return halving.tune(training, space, eta=3, r_max=9, run_dir=run_dir, resume=resume, progress=False)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with checkpoints and a torn tail, as a kill leaves it."""
    run_dir = tmp_path_factory.mktemp("study") / "run"
    kept = tune(run_dir).run_dir
    assert kept is not None
    lines = (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)
    middle = next(i for i, line in enumerate(lines) if b'"type":"resume"' in line)
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines[:middle]) + lines[middle][:30])
    for name in ("results.csv", "summary.json", "report.html"):
        (run_dir / name).unlink()
    return run_dir


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is nobody's business: files and directories, one of them named like a checkpoint."""
    directory = tmp_path / "outside"
    for name in ("file", "0/1.pt", "0/working-1/mine", "run-1.wandb"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("untouched")
    return directory


def seen(directory: Path) -> dict[str, Any]:
    """Return all that there is below a directory, whatever it is, as it is."""
    return {
        str(path.relative_to(directory)): (
            (found := path.lstat()).st_mode,
            found.st_mtime_ns,
            path.read_bytes() if stat.S_ISREG(found.st_mode) else path.is_symlink() and path.readlink(),
        )
        for path in sorted(directory.rglob("*"))
    }


def lay(run_dir: Path, name: str, kind: str, outside: Path) -> None:
    """Put a trap into a run directory, in the place of what was there."""
    place = run_dir / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    match kind:
        case "link":
            place.symlink_to(outside / "file")
        case "link to nothing":
            place.symlink_to(outside / "new")
        case "directory":
            place.symlink_to(outside, target_is_directory=True)
        case "hard link":
            place.hardlink_to(outside / "file")
        case "pipe":
            os.mkfifo(place)
        case _:
            try:
                os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero, which never ends
            except PermissionError:
                pytest.skip("only root can make a device")


FILES = ("journal.lock", "journal.jsonl", "journal.torn-TORN", "checkpoints/0/1.pt", "checkpoints/0/9.tmp")
FILES += ("results.csv", "metrics.csv", "best.yaml", "report.html", "train.log", ".hydra/config.yaml")
FILES += (".results.csv.1.tmp", "wandb/offline-run-1/run-1.wandb", "tensorboard/trial-0/events.out.tfevents.halving")
DIRECTORIES = ("checkpoints", "checkpoints/0", "checkpoints/77", "wandb", "wandb/offline-run-1", "wandb/latest-run")
DIRECTORIES += (".hydra", "tensorboard", "tensorboard/trial-0", ".rebuild-x")
KINDS = ("link", "link to nothing", "hard link", "pipe", "device")
TRAPS = [(name, kind) for name in FILES for kind in KINDS] + [(name, "directory") for name in DIRECTORIES]

READERS: dict[str, Callable[[Path, Path], object]] = {
    "load": lambda run_dir, elsewhere: halving.load(run_dir),
    "explain": lambda run_dir, elsewhere: main(["explain", str(run_dir), "--trial", "0"]),
    "report": lambda run_dir, elsewhere: main(["report", str(run_dir)]),
    "picture": lambda run_dir, elsewhere: main(["picture", str(run_dir), str(elsewhere / "drawn.png")]),
    "rebuild": lambda run_dir, elsewhere: rebuild(run_dir),
    "compare": lambda run_dir, elsewhere: labelled(
        {each: halving.load(each).history for each in run_directories([run_dir])}
    ),
    "record": lambda run_dir, elsewhere: record([halving.load(each).history for each in run_directories([run_dir])]),
}


@pytest.mark.parametrize(("name", "kind"), TRAPS)
def test_nothing_outside_changes_and_nothing_hangs(
    interrupted: Path, outside: Path, tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is done with the directory: a link is refused by name, and then nothing has happened."""
    run_dir = Path(shutil.copytree(interrupted, tmp_path / "run"))
    torn = len((run_dir / "journal.jsonl").read_bytes().rpartition(b"\n")[0]) + 1
    name = name.replace("TORN", str(torn))
    if kind == "hard link" and name == "journal.jsonl":
        (outside / "file").write_bytes((run_dir / name).read_bytes())
    lay(run_dir, name, kind, outside)
    before, there = seen(outside), seen(run_dir)
    for door in READERS.values():
        if kind != "hard link":
            with pytest.raises((UserError, SystemExit)) as refused:
                door(run_dir, tmp_path)
            said = str(refused.value) if isinstance(refused.value, UserError) else str(refused.value.code)
            lacking = name == "journal.jsonl" and "no journal.jsonl there" in said
            assert lacking or (f"{run_dir / name} is a " in said and "nothing was done" in said)
            assert seen(run_dir) == there, "refused, nothing has happened"
        elif name != "journal.jsonl":
            try:
                door(run_dir, tmp_path)
            except UserError as error:
                assert "no trial reached" in str(error)
        assert seen(outside) == before
    if kind == "hard link":
        shutil.rmtree(run_dir)
        shutil.copytree(interrupted, run_dir)
        lay(run_dir, name, kind, outside)
    with pytest.raises(UserError, match="nothing was done"):
        tune(run_dir, resume=True)
    assert [finding.subject for finding in verify(run_dir)] == [name]
    with pytest.raises(SystemExit):
        main(["check", str(run_dir)])
    assert name in capsys.readouterr().out
    assert seen(outside) == before


def test_the_directory_itself_may_be_a_link_and_hold_its_users_own(interrupted: Path, outside: Path) -> None:
    run_dir = outside / "linked"
    run_dir.symlink_to(shutil.copytree(interrupted, outside / "run"), target_is_directory=True)
    (run_dir / "data").symlink_to(outside, target_is_directory=True)
    (run_dir / "notes.txt").hardlink_to(outside / "file")
    (run_dir / "report").symlink_to(outside, target_is_directory=True)
    assert tune(run_dir, resume=True).summary["best_error"] == 1 / 9
    assert all(finding.ok for finding in verify(run_dir))
    assert rebuild(run_dir)


def test_no_writer_follows_a_link(interrupted: Path, outside: Path, tmp_path: Path) -> None:
    """Each by itself, as if nobody had looked before it."""
    run_dir, history = tmp_path / "run", replay(read(interrupted))
    before = seen(outside)
    for name, trial in (("checkpoints", 0), ("checkpoints/0", 0), ("checkpoints/77", 77)):
        lay(run_dir, name, "directory", outside)
        for write in (
            lambda: sweep(run_dir, history),
            lambda trial=trial: discard(run_dir, trial, (9,)),
            lambda trial=trial: Store(run_dir).save(trial, 3, "c", State({})),
            lambda trial=trial: Store(run_dir).working(trial),
            lambda trial=trial: Store(run_dir).load(trial, 1, None),
        ):
            with pytest.raises(UserError, match="lies outside of"):
                write()
            assert seen(outside) == before
        shutil.rmtree(run_dir)
    for kind in KINDS:
        lay(run_dir, "checkpoints/0/9.tmp", kind, outside)
        Store(run_dir).save(0, 9, "c", State({"x": 1}))
        assert Store(run_dir).load(0, 9, "c").values == {"x": 1}
        lay(run_dir, "table.csv", kind, outside)
        replace(run_dir / "table.csv", "a,b\n")
        assert (run_dir / "table.csv").read_text() == "a,b\n" and not (run_dir / "table.csv").is_symlink()
        lay(run_dir, "new", kind, outside)
        with os.fdopen(create(run_dir / "new"), "wb") as file:
            file.write(b"mine")
        assert seen(outside) == before, kind
        shutil.rmtree(run_dir)
    (run_dir / "checkpoints/0/9.tmp/files").mkdir(parents=True)
    Store(run_dir).save(0, 9, "c", State({"x": 1}))
    assert Store(run_dir).load(0, 9, "c").values == {"x": 1}


def test_nothing_outside_is_shown_or_sent(outside: Path, tmp_path: Path) -> None:
    """What a run's own summary names, and what lies in the place of the winner's files."""
    own = tmp_path / "wandb/offline-run-1/files"
    own.mkdir(parents=True)
    (own / "mine.png").write_text("mine")
    key = Key("summary", "figure")
    for name, shown in (("mine.png", True), (str(outside / "file"), False), ("../../../outside/file", False)):
        run = Mirrored({"ID": "1"}, {}, {"figure.path": name}, [], files=own)
        panel = Panel("media", "", (key,))
        page = preview(Report("", "", "", "", (), (Grid("", (RunSet("all", ()),), (panel,)),)), [run], [])
        assert ("data:image/png" in page) is shown, name


def test_the_command_line_looks_before_it_touches_anything(
    fork: Callable, interrupted: Path, outside: Path, tmp_path: Path
) -> None:
    """Before Hydra opens its log and writes its files, and before a config of it is read."""
    run_dir, sweep_dir = tmp_path / "run", tmp_path / "sweep"
    before = seen(outside)
    again = (*SMALL, f"hydra.run.dir={run_dir}")
    several = ("-m", *SMALL, "seed=0,1", f"hydra.sweep.dir={sweep_dir}")
    for command, name, kind in (
        ((f"resume={run_dir}",), "train.log", "pipe"),
        ((f"resume={run_dir}",), "checkpoints", "directory"),
        ((f"resume={run_dir}",), "journal.lock", "hard link"),
        (("-cp", str(run_dir), "-cn", "best"), "best.yaml", "pipe"),
        (again, "train.log", "link"),
        (again, ".hydra/config.yaml", "pipe"),
        (several, "multirun.yaml", "link"),
        (several, "0", "directory"),
        (several, "0/.hydra/config.yaml", "link"),
        ((*several, f"resume={sweep_dir}"), "jobs.csv", "pipe"),
        ((*several, "hydra.sweep.subdir=by_${seed}"), "by_1", "directory"),
        (several, "1/train.log", "link"),
        ((*again, "hydra.output_subdir=hydras"), "hydras/config.yaml", "link"),
    ):
        base = sweep_dir if "-m" in command else run_dir
        if not any(word.startswith("hydra.") for word in command):
            shutil.copytree(interrupted, run_dir)
        lay(base, name, kind, outside)
        there = seen(base)
        result = fork(*command)
        assert result.returncode == 1, (command, name, result)
        assert result.stderr.startswith(f"error: {base / name} is a ") and result.stderr.count("\n") == 1
        assert seen(base) == there and seen(outside) == before
        shutil.rmtree(base)


def test_a_multirun_leaves_its_users_own_alone(fork: Callable, outside: Path, tmp_path: Path) -> None:
    """Config files beside its jobs, and what lies in the place of what the scripts write into its directory."""
    sweep_dir = tmp_path / "sweep"
    sweep_dir.mkdir()
    (sweep_dir / "mine.yaml").write_text("api_key: my-own-secret\n")
    (sweep_dir / "linked.yaml").symlink_to(outside / "file")
    os.mkfifo(sweep_dir / "pipe.yaml")
    result = fork("-m", *SMALL, "tracker=none", "seed=0,1", f"hydra.sweep.dir={sweep_dir}")
    assert result.returncode == 0, result.stderr
    assert (sweep_dir / "mine.yaml").read_text() == "api_key: my-own-secret\n"
    before = seen(outside)
    lay(sweep_dir, "0/failure.txt", "link", outside)
    (sweep_dir / "0/journal.jsonl").unlink()
    main(["report", str(sweep_dir)])
    assert "untouched" not in (sweep_dir / "comparison.html").read_text()
    for kind in ("link", "hard link", "pipe"):
        for name in ("comparison.csv", "tests.csv", "comparison.png"):
            lay(sweep_dir, name, kind, outside)
        before = seen(outside)
        told = fork(str(sweep_dir), program="scripts/compare.py")
        assert told.returncode == 0, told.stderr
        assert all((sweep_dir / name).is_file() for name in ("comparison.csv", "tests.csv"))
        assert seen(outside) == before, kind
        lay(sweep_dir, "wandb_report.json", kind, outside)
        if kind != "hard link":
            told = fork(str(sweep_dir), program="scripts/wandb_report.py")
            assert told.returncode == 1 and told.stderr.count("\n") == 1
            assert f"{sweep_dir / 'wandb_report.json'} is no file; nothing was done" in told.stderr


def test_whatever_a_study_leaves_is_looked_at(fork: Callable, outside: Path, tmp_path: Path) -> None:
    """A file that is new in a run directory needs a place in the pattern of our names."""
    several = tmp_path / "several"
    result = fork("-m", *SMALL, "seed=0,1", "tracker=[wandb,csv,tensorboard]", f"hydra.sweep.dir={several}")
    assert result.returncode == 0, result.stderr
    for directory in (several, several / "0"):
        names = sorted(path.name for path in directory.iterdir())
        assert len(names) > 4
        for name in names:
            kept = (directory / name).rename(tmp_path / "kept")
            lay(directory, name, "link", outside)
            assert [path for path, _ in strays(directory)] == [directory / name]
            (directory / name).unlink()
            kept.rename(directory / name)
