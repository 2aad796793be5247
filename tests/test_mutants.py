"""The script that puts mistakes into the code, on a package of one file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="pip install -e '.[mutants]'")

CODE = '''
"""What is best."""

def least(errors: list[float], floor: float = 0.0) -> float:
    """Return the least error, or the floor."""
    if not errors:
        raise ValueError("nothing " + "there")
    return max(floor, min(errors) - 1)
'''
TESTS = """
from halving.history import least

def test_least():
    assert least([3.0, 2.0]) == 1.0
    assert least([3.0, 0.5], 0.25) == 0.25
"""
EVIDENCE = (
    "| `history.py` | `def least(errors: list[float], floor: float = 1.0) -> float:` | equivalent: nobody asks |\n"
)


def test_mistakes_are_counted_and_those_that_stay_unnoticed_are_shown(repo: Path, tmp_path: Path) -> None:
    for name, text in {"src/halving/history.py": CODE, "tests/test_it.py": TESTS, "docs/evidence.md": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "src/halving/__init__.py").touch()
    (tmp_path / "scripts").mkdir()
    command = [sys.executable, shutil.copy(repo / "scripts" / "mutants", tmp_path / "scripts"), "--all"]

    def said() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    first = said()
    assert "4 of 4 mutants" in first  # not, -, 1 and 0.0, and nothing in what is raised or annotated
    assert "| all | 4 | 3 | 0 | 1 | 75.0% |" in first
    assert first.endswith("  + def least(errors: list[float], floor: float = 1.0) -> float:\n")
    assert (tmp_path / "src/halving/history.py").read_text() == CODE
    (tmp_path / "docs/evidence.md").write_text(EVIDENCE)
    again = said()
    assert "to see" not in again and "| all | 3 | 3 | 0 | 0 | 100.0% |" in again
