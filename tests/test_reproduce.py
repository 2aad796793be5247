"""The book's studies repeated by scripts/reproduce.py, on small subsets."""

import csv
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
STUDIES = runpy.run_path(str(REPO / "scripts" / "reproduce.py"))["STUDIES"]
DATA = Path(os.environ.get("HALVING_DATA", REPO / "data"))

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("book")


def repeat(fork: Call, out: Path, study: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return fork("--study", study, "--quick", "--out", str(out), *overrides, program="scripts/reproduce.py")


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_repeated_with_its_numbers_and_its_figure(fork: Call, out: Path, study: str) -> None:
    if study == "minibatch" and not (DATA / "airfoil_self_noise.dat").is_file():
        pytest.skip(f"airfoil_self_noise.dat is not in {DATA} (HALVING_DATA)")
    result = repeat(fork, out, study)
    assert result.returncode == 0, result.stderr
    with (out / "quick" / study / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows and all(float(row["low"]) <= float(row["here"]) <= float(row["high"]) for row in rows)
    assert (out / "quick" / study / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "quick" / study / "table.md").read_text() in result.stdout


def test_what_was_broken_off_goes_on_and_what_is_there_is_not_trained_again(fork: Call, out: Path) -> None:
    folder = out / "quick" / "softmax_random_search"
    if not folder.is_dir():
        assert repeat(fork, out, "softmax_random_search").returncode == 0
    journals = [folder / label / "journal.jsonl" for label in ("random", "halving")]
    numbers, whole = (folder / "numbers.csv").read_bytes(), [journal.read_bytes() for journal in journals]
    journals[0].write_bytes(whole[0][: len(whole[0]) // 2])
    assert repeat(fork, out, "softmax_random_search").returncode == 0
    assert (folder / "numbers.csv").read_bytes() == numbers and journals[1].read_bytes() == whole[1]
    assert len(journals[0].read_bytes()) > len(whole[0]) // 2


def test_a_multirun_goes_on_where_it_lacks_a_job(fork: Call, out: Path) -> None:
    folder = out / "quick" / "dropout_mlp"
    if not (folder / "numbers.csv").is_file():
        assert repeat(fork, out, "dropout_mlp").returncode == 0
    numbers = (folder / "numbers.csv").read_bytes()
    shutil.rmtree(folder / "searchers" / "1")
    kept = (folder / "searchers" / "0" / "journal.jsonl").read_bytes()
    result = repeat(fork, out, "dropout_mlp")
    assert result.returncode == 0, result.stderr
    assert (folder / "numbers.csv").read_bytes() == numbers
    assert (folder / "searchers" / "0" / "journal.jsonl").read_bytes() == kept


def test_a_study_that_diverges_is_out_of_range_and_loses_none_of_the_others(fork: Call, tmp_path: Path) -> None:
    one = ("searcher=random", "budget.evaluations=1", "r_max=1")
    result = repeat(fork, tmp_path, "dropout_mlp", *one, "optimizer.lr=1e9,0.1")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "searchers.log says why; its last line: error: no trial survived; 1 failed, the first" in result.stderr
    assert "dropout_mlp: out of range: validation error, random is nan" in result.stderr
    folder = tmp_path / "quick" / "dropout_mlp"
    with (folder / "numbers.csv").open() as file:
        assert [row["here"] == "nan" for row in csv.DictReader(file)] == [True, False]
    assert (folder / "figure.png").is_file() and "| nan |" in (folder / "table.md").read_text()


def test_what_may_diverge_is_no_mistake_where_it_does(fork: Call, tmp_path: Path) -> None:
    """As the book's constant learning rate does, at the edge of stability."""
    short = ("lr_schedule=constant", "r_max=2", "optimizer.lr=1e9", "data.train_samples=200")
    result = repeat(fork, tmp_path, "lr_schedules", *short)
    assert result.returncode == 1 and "| test accuracy, constant | 0.896 | nan | 0.3 to 1 | yes |" in result.stdout
    assert "out of range: test accuracy, square_root and ema is nan" in result.stderr


def test_what_cannot_be_one_study_or_written_is_said_in_one_line(fork: Call, tmp_path: Path) -> None:
    several = ("hydra.mode=MULTIRUN", "r_max=1,2", "budget.evaluations=1")
    result = repeat(fork, tmp_path, "lenet_random_search", *several)
    said = "random came to 2 studies; give each override one value here, no list"
    assert result.stderr == f"error: lenet_random_search: {said}\n"
    (tmp_path / "file").touch()
    result = repeat(fork, tmp_path / "file", "lr_schedules")
    assert result.returncode == 1 and result.stderr.startswith("error: lr_schedules: --out: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_number_out_of_its_range_ends_it_with_status_1(fork: Call, tmp_path: Path) -> None:
    figure = tmp_path / "quick" / "lenet_random_search" / "figure.png"
    figure.mkdir(parents=True)
    low = ("space.optimizer.lr.a=1e-9", "space.optimizer.lr.b=2e-9", "optimizer.lr=1e-9", "r_max=1")
    result = repeat(fork, tmp_path, "lenet_random_search", *low)
    assert result.returncode == 1 and "| NO |" in result.stdout
    assert result.stderr.startswith("error: lenet_random_search: out of range: validation error, 5 trainings")
    assert result.stderr.endswith(f"lenet_random_search: {figure} cannot be written: Is a directory\n")


def test_a_command_that_fails_is_said_with_where_to_look(fork: Call, tmp_path: Path) -> None:
    result = repeat(fork, tmp_path, "softmax_random_search", "modell=softmax")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "random.log says why; its last line: error: " in result.stderr and "modell" in result.stderr
