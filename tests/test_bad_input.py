"""A user's mistake is one line that says what was wrong and what to do; never a traceback."""

import inspect
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import environment

from halving import schedulers, searchers
from halving.errors import UserError
from halving.executors import Process
from halving.executors.simulated import Simulated
from halving.schedulers import FIFO
from halving.searchers import OptunaSearcher, RandomSearcher
from halving.space import Space
from halving.tuner import Budget

UNREADABLE = [
    ("etta=3", "unknown key etta", "did you mean eta?"),
    ("lr=0.1", "unknown key lr", "optimizer.lr"),
    ("learning_rate=0.1", "learning_rate", "optimizer.lr"),
    ("number_of_trials=3", "number_of_trials", "budget.evaluations"),
    ("lr_scheduler=cosine", "lr_scheduler", "lr_schedule"),
    ("weight_averaging=ema", "weight_averaging", "did you mean averaging?"),
    ("swa_start=0.5", "swa_start", "averaging"),
    ("averaging=polyak", "averaging=polyak", "did you mean ema?"),
    ("executor.batch=8", "unknown key executor.batch; executor=batched has one"),
    ("executor.workers=2", "unknown key executor.workers; executor=process has one"),
    ("max_epochs=3", "max_epochs", "r_max"),
    ("schedular=sha", "schedular", "scheduler"),
    ("scheduler=shaa", "scheduler=shaa", "did you mean sha", "fifo"),
    ("model=resnet", "model=resnet", "did you mean resnet18"),
    ("experiment=lenet", "experiment=lenet", "lenet_halving"),
    ("eta=2.5", "eta", "2.5", "Integer"),
    ("eta=abc", "eta", "abc", "Integer"),
    ("optimizer.lr=[", "cannot read", "optimizer.lr=["),
    ("optimizer=null", "optimizer=none", "no such option", "sgd"),
    ("=3", "Config group override"),
    ("lr", "cannot read the override 'lr': it is no option, and not written key=value"),
    ("budget=null", "budget=null: it needs a value"),
    ("eta=null", "eta=null: it needs a value"),
    ("model=1", "model=1: no such option", "mlp"),
    ("space=true", "space=true: no such option", "default"),
    ("space=[1]", "space/1"),
    ("seed=1e3", "seed", "1000.0", "Integer"),
    ("eta=inf", "eta", "inf", "Integer"),
    ("name=", "name=: names a folder below outputs/"),
    ("name=../x", "name=../x: names a folder below outputs/"),
    ("name=/abs", "name=/abs: names a folder below outputs/"),
    ("hydra.run.dir=/dev/null/x", "/dev/null/x: Not a directory"),
    ("hydra.run.dir=~nobody-of-this-name/x", "~nobody-of-this-name: there is no such home directory"),
    ("notes=gr\udcf6\udcdfe", "notes=gr\\udcf6\\udcdfe", "not written in utf-8"),
    ("hydra/job_logging=nope", "hydra/job_logging=nope"),
]
FILES = [
    ("a: 1\n\tb: 2\n", "model/odd.yaml: found character '\\t' that cannot start any token in line 2"),
    ("a: 1\na: 2\n", "model/odd.yaml: found duplicate key a in line 2"),
    ("a: [1\n", "model/odd.yaml: expected ',' or ']'"),
    ("a: \udcff\n", "model/odd.yaml: 'utf-8' codec can't decode byte 0xff"),
    ("- 1\n", "model/odd"),
    ("defaults: 3\n", "model/odd", "defaults must be a list"),
]
RULES = [
    ("hydra.job_logging.root.level=NOPE", "NOPE"),
    ("+foo=2", "unknown key foo"),
    ("scheduler=fifo,sha", "scheduler=fifo,sha", "several values are for a multirun, with -m"),
    ("-cp /nowhere -cn best", "'/nowhere'"),
    ("+optimizer.x=1", "optimizer.x", "SGD takes no 'x'", "momentum"),
    ("+model.nope=1", "model.nope", "LeNetModern takes no 'nope'", "width"),
    *((f"fidelity={name}", "fidelity.function", "fidelity.function=...") for name in ("function", "training")),
    ("fidelity=table", "needs executor.curves", "which this config does not have"),
    ("eta=1", "eta=1", "at least 2"),
    ("r_min=0", "r_min=0", "at least 1"),
    ("r_min=30 r_max=27", "r_min=30", "r_max=27"),
    ("scheduler=sha eta=1", "eta=1", "at least 2"),
    ("seed=-1", "seed=-1", "negative"),
    ("trial=-1", "trial=-1", "negative"),
    ("epochs=0", "epochs=0", "at least 1"),
    ("optimizer.lr=null", "optimizer.lr=null: SGD needs a value, such as 0.001"),
    ("model.outputs=null", "model.outputs=null: LeNetModern needs a value"),
    ("data.seed=null", "data.seed=null: digits needs a value"),
    ("data=airfoil data_dir=", "data_dir=: names no place"),
    ("optimizer.lr=-1.0", "learning rate", "-1.0"),
    ("optimizer.lr=-1", "learning rate", "-1"),
    ("lr_schedule.warmup=abc", "lr_schedule.warmup=abc", "number of epochs"),
    *((f"averaging=ema averaging.decay={d}", f"averaging.decay={d}", "below 1") for d in ("1", "abc", "True")),
    ("averaging=swa averaging.start=1.5", "averaging.start=1.5", "fraction of the training"),
    ("+averaging.decay=0.5", "averaging._target_", "must name what builds it"),
    ("metric=averaged_val_eror", "metric=averaged_val_eror", "averaged_val_error"),
    ("metric=averaged_val_accuracy", "metric=averaged_val_accuracy", "metric=max:averaged_val_accuracy"),
    ("experiment=simulated", "executor.curves: a value must be given"),
    ("~tracker", "has no tracker", "no ~tracker either"),
    ("scheduler=sha searcher.initial=[3]", "searcher.initial=[3]", "list of run directories"),
    ("lr_schedule.warmup=-1", "lr_schedule.warmup=-1", "at least 0"),
    ("tracker=wandb tracker.mode=onlin", "tracker.mode=onlin", "online"),
    ("budget.evaluations=0", "budget.evaluations=0", "at least 1"),
    ("data.train_samples=10000000", "data.train_samples=10000000", "1150"),
    ("data.batch_size=0", "data.batch_size=0", "at least 1"),
    ("scheduler=sha scheduler.n=0", "scheduler.n=0", "at least 1"),
    ("scheduler=sha scheduler.n=2.5", "scheduler.n=2.5", "an integer"),
    ("scheduler=asha scheduler.max_trials=2.5", "scheduler.max_trials=2.5", "an integer"),
    ("executor=process executor.workers=1.5", "executor.workers=1.5", "an integer"),
    ("executor.threads=abc", "executor.threads=abc", "an integer"),
    ("executor.threads=1.5", "executor.threads=1.5", "an integer"),
    ("data.batch_size=-1", "data.batch_size=-1", "at least 1"),
    ("data.batch_size=1.5", "data.batch_size=1.5", "whole number"),
    ("data.batch_size=abc", "data.batch_size=abc", "which is none"),
    ("budget.seconds=-1", "budget.seconds=-1", "number above 0"),
    ("metric=nope", "metric=nope", "val_error"),
    ("executor.threads=1000000", "executor.threads=1000000", "at most 1024"),
    ("searcher.initial=3", "searcher.initial=3", "list of run directories"),
    ("data.device=nope", "device=nope", "auto, cpu, cuda"),
    ("model._target_=null", "model._target_", "must name what builds it"),
    ("device=foo", "device=foo", "auto, cpu, cuda"),
    *((f"device={name}", f"device={name}", "device=auto") for name in ("mps", "meta", "xpu", "hpu", "cuda:7")),
    ("device=cuda", "device=cuda", "no CUDA device", "device=auto"),
    ("fidelity=function fidelity.function=os.nope", "fidelity.function", "os.nope"),
]
SPACES = [
    ("+space.optimizer.momentumm=[0.1]", "space.optimizer.momentumm", "did you mean optimizer.momentum"),
    ("space.optimizer.lr.b=inf", "space.optimizer.lr", "b=inf", "no finite values"),
    ("+space.nowhere.at.all=[1]", "nowhere.at.all"),
    ("space.optimizer.lr.a=2.0", "space.optimizer.lr", "a=2.0, b=1.0", "reversed"),
    (
        "~space.data +space.data.batch_size={_target_:scipy.stats.uniform,loc:1.0,scale:2.0}",
        "space.data.batch_size",
        "integer",
        "scipy.stats.randint",
    ),
    ("+space.seed=3", "space.seed", "3 is not a distribution"),
    ("executor=process executor.workers=0", "executor.workers=0", "at least 1"),
    ("executor=batched executor.batch=0", "executor.batch=0", "at least 1"),
    ("executor=batched executor.patience=-1", "executor.patience=-1", "at least 0"),
    ("executor=batched executor.program=vmap", "executor.program=vmap", "batched or single"),
    ("executor.threads=0", "executor.threads=0", "at least 1"),
    ("experiment=simulated executor.curves=none.npz", "none.npz", "no such file"),
    ("+space.optimizer.momentum={_target_:torch.nn.ReLU}", "space.optimizer.momentum", "not a distribution"),
    ("+space.optimizer.momentum={_target_:scipy.stats.unifrom}", "space.optimizer.momentum", "scipy.stats.unifrom"),
    ("+space.optimizer.momentum=[]", "space.optimizer.momentum", "empty list"),
]


def assert_refused(result: object, *words: str) -> None:
    status, out, err = (getattr(result, name) for name in ("returncode", "stdout", "stderr"))
    assert status == 1, err + out
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in err + out
    for word in words:
        assert word in err


@pytest.mark.parametrize("row", UNREADABLE, ids=lambda row: ascii(row[0]))
def test_one_line_says_what_was_probably_meant(row: tuple[str, ...], fork: Callable, tmp_path: Path) -> None:
    assert_refused(fork(row[0], cwd=tmp_path), *row[1:])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("row", FILES, ids=lambda row: row[1])
def test_one_line_says_which_file_cannot_be_read(row: tuple[str, ...], fork: Callable, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "odd.yaml").write_bytes(row[0].encode("utf-8", "surrogateescape"))
    assert_refused(fork("-cd", ".", "model=odd", cwd=tmp_path), *row[1:])
    assert not (tmp_path / "outputs").exists()


def test_a_run_directory_in_which_a_file_has_no_place_is_one_line(fork: Callable, tmp_path: Path) -> None:
    (tmp_path / "run" / "journal.jsonl").mkdir(parents=True)
    assert_refused(
        fork("hydra.run.dir=run", "tracker=none", cwd=tmp_path), "journal.jsonl", "give another hydra.run.dir"
    )


def test_a_primary_config_without_base_is_told_so(fork: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [model: mlp, _self_]\nname: mine\n", encoding="utf-8")
    assert_refused(
        fork("-cp", ".", "-cn", "mine", cwd=tmp_path), "the config has no", "begin the defaults", "with base"
    )


@pytest.mark.parametrize(
    "arguments",
    ["tracker=null experiment=null", "tracker=[] seed=99999999999999999999", "-m tracker=null,csv experiment=null"],
)
def test_nothing_is_said_by_null_too(arguments: str, fork: Callable, tmp_path: Path) -> None:
    small = ("model=softmax", "data.train_samples=100", "r_max=1", "executor.threads=1")
    result = fork(*small, *arguments.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.rglob("metrics.csv")) == ["metrics.csv"] * ("csv" in arguments)
    assert not list(tmp_path.rglob("wandb"))


def test_a_terminal_without_these_letters_shows_escapes(run: Callable, tmp_path: Path) -> None:
    small = ("model=softmax", "data.train_samples=100", "r_max=1", "tracker=none", "executor.threads=1")
    result = run(*small, "scheduler=sha", "name=größe", "notes='größer'", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("gr\\xf6\\xdfe: sha") and "files: " in result.stdout
    assert list((tmp_path / "outputs" / "größe").rglob("summary.json"))


def test_a_reader_that_leaves_does_not_end_the_study(repo: Path, tmp_path: Path) -> None:
    program = f"{shlex.quote(sys.executable)} {shlex.quote(str(repo / 'train.py'))}"
    small = "model=softmax data.train_samples=100 r_max=3 tracker=none executor.threads=1 scheduler=sha"
    command = f"{program} {small} hydra.run.dir=study | head -1; {program} --help | true; {program} --cfg job >&-"
    result = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (result.stdout.count("\n"), result.stderr) == (1, "")
    assert (tmp_path / "study" / "summary.json").is_file()


SILENT = "cannot print any more, and go on in silence: No space left on device\n"


def test_a_full_disk_behind_the_output_does_not_end_the_study(repo: Path, tmp_path: Path) -> None:
    small = "model=softmax data.train_samples=100 r_max=3 tracker=none executor.threads=1 scheduler=sha"
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(repo / 'train.py'))} {small} hydra.run.dir=study"
    result = subprocess.run(
        f"{command} > /dev/full",
        shell=True,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, SILENT)
    assert json.loads((tmp_path / "study" / "summary.json").read_text())["end"] == "finished"


@pytest.mark.parametrize("words", ["train.py --help", "train.py --info all", "scripts/study.py --help"])
def test_a_full_disk_behind_a_mere_look_is_one_line(words: str, repo: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, *words.split()]
        result = subprocess.run(command, cwd=repo, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "error: cannot print: No space left on device\n")


@pytest.mark.parametrize("row", [*RULES, *SPACES], ids=lambda row: row[0])
def test_one_line_says_what_is_wrong(row: tuple[str, ...], fork: Callable, tmp_path: Path) -> None:
    # A CUDA device that is there is hidden, so that device=cuda is a mistake everywhere.
    result = fork("tracker=none", *row[0].split(), cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert_refused(result, *row[1:])
    assert not list(tmp_path.rglob("results.csv"))


def counts() -> Iterator[Any]:
    """Every part of a study with each of its parameters that is an integer."""
    space = Space.from_config({"x": [1, 2], "y": ["a", "b"]})
    parts = [(getattr(searchers, name), [space]) for name in searchers.__all__ if name != "Searcher"]
    parts += [
        (getattr(schedulers, name), [RandomSearcher(space)])
        for name in schedulers.__all__
        if name not in ("Scheduler", "Bracket")
    ]
    parts += [(Budget, []), (Simulated, [None]), (Process, [None, 1])]
    for kind, arguments in parts:
        for parameter in inspect.signature(kind).parameters.values():
            if parameter.annotation in (int, int | None):
                given = arguments[:1] if parameter.name == "workers" else arguments
                fixed = {"r_max": 9} if kind is FIFO and parameter.name != "r_max" else {}
                yield pytest.param(kind, given, fixed, parameter.name, id=f"{kind.__name__}.{parameter.name}")


@pytest.mark.parametrize(("kind", "arguments", "fixed", "name"), list(counts()))
def test_every_count_is_an_integer(kind: Any, arguments: list[Any], fixed: dict[str, Any], name: str) -> None:
    """A fraction is a count that is never reached; NumPy's integers are integers, in the journal as well."""
    if kind is OptunaSearcher:
        pytest.importorskip("optuna")
    for wrong in (2.5, 5.0, True, "5", math.nan):
        with pytest.raises(UserError, match=rf"{name}={wrong}: must be an integer of at least"):
            kind(*arguments, **fixed, **{name: wrong})
    if kind is not Process:
        built = kind(*arguments, **fixed, **{name: np.int64(5)})
        json.dumps([asdict(ladder) for ladder in getattr(built, "plan", ())])


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"seconds": math.nan}, "budget.seconds=nan: must be a number above 0"),
        ({"resource": math.inf}, "budget.resource=inf: must be a number above 0"),
        ({"target": math.nan}, "budget.target=nan"),
    ],
)
def test_a_budget_can_be_reached(budget: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget(**budget)  # type: ignore


@pytest.mark.parametrize("mistake", ["+foo=2", "+space.optimizer.momentumm=[0.1]"])
def test_a_key_is_not_its_own_correction(mistake: str, fork: Callable) -> None:
    suggestion = fork(mistake).stderr.partition(";")[2]
    assert "foo" not in suggestion and "momentumm" not in suggestion


def test_without_files_and_network_it_says_what_to_put_where(fork: Callable, tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"  # where nobody listens: no network, wherever this runs
    result = fork("data=fashion_mnist", cwd=tmp_path, HALVING_DATA=str(tmp_path), HTTPS_PROXY=proxy, HTTP_PROXY=proxy)
    raw = tmp_path / "FashionMNIST" / "raw"
    assert_refused(result, f"is not in {tmp_path}", f"into {raw}", "train-images-idx3-ubyte", "data=digits")


@pytest.mark.parametrize("damage", ["truncated", "a bit flipped", "not this format"])
def test_damaged_fashion_mnist_is_never_trained_on(
    damage: str, fork: Callable, fashion_mnist: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    name = "t10k-labels-idx1-ubyte"
    for file in fashion_mnist.iterdir():
        if not file.name.endswith(".gz") and file.name != name:
            (raw / file.name).symlink_to(file)
    content = bytearray((fashion_mnist / name).read_bytes())
    match damage:
        case "truncated":
            content = content[:-100]
        case "a bit flipped":
            content[5000] ^= 1
        case _:
            content = bytearray(b"<html>404</html>")
    (raw / name).write_bytes(content)
    assert_refused(fork("data=fashion_mnist", HALVING_DATA=str(tmp_path)), str(raw / name), "damaged", "Delete it")


def test_a_model_of_images_refuses_features(fork: Callable) -> None:
    directory = data_directory()
    if not (directory / "airfoil_self_noise.dat").is_file():
        pytest.skip(f"airfoil_self_noise.dat is not in {directory} (HALVING_DATA)")
    assert_refused(
        fork("data=airfoil", "model=lenet", HALVING_DATA=str(directory)), "model=lenet needs images", "[5]", "model=mlp"
    )


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ("scheduler=sha lr_schedule.warmup=2.0", "lr_schedule.warmup=2 lasts beyond r_min=1"),
        ("scheduler=single eta=3", "eta=3 has no effect on a single trial; scheduler=sha"),
        ("scheduler=sha confirm.seeds=3", "confirm.seeds=3 has no effect without confirm.top=3"),
        ("scheduler=sha until=1", "until=1 has no effect on a study; it is how far scheduler=single trains"),
        ("scheduler=fifo eta=2", "eta=2 has no effect on this scheduler's decisions"),
        (
            "scheduler=sha eta=2 r_max=5",
            "r_max=5 adds a rung of 1 to a ladder of steps by 2, as the book's does: a bracket "
            "begins 8 trials and costs 17, where r_max=4 costs 8",
        ),
        (
            "scheduler=concordant_asha eta=2 r_max=5",
            "r_max=5 adds a rung of 1 to a ladder of steps by 2, as the book's does: a bracket "
            "begins 8 trials and costs 17, where r_max=4 costs 8; where no budget is given, it is that",
        ),
    ],
)
def test_what_is_probably_not_meant_gets_a_note(arguments: str, note: str, fork: Callable) -> None:
    small = ("model=softmax", "data.train_samples=100", "r_max=3", "tracker=none", "executor.threads=1")
    result = fork(*small, *arguments.split())
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"note: {note}")


def data_directory() -> Path:
    return Path(os.environ.get("HALVING_DATA", Path(__file__).parents[1] / "data")).absolute()


@pytest.fixture
def fashion_mnist() -> Path:
    raw = data_directory() / "FashionMNIST" / "raw"
    if not (raw / "t10k-labels-idx1-ubyte").is_file():
        pytest.skip(f"Fashion-MNIST is not in {raw} (HALVING_DATA)")
    return raw
