"""Which studies lie where a user points."""

from collections.abc import Iterable
from pathlib import Path

from halving.errors import UserError
from halving.journal import FILE


def run_directories(paths: Iterable[Path]) -> list[Path]:
    """Return the run directories among or anywhere below some paths, job 9 of a multirun before job 10.

    Raises UserError for a path without any.
    """
    found: dict[Path, None] = {}
    for path in paths:
        journals = [path / FILE] if (path / FILE).is_file() else sorted(path.rglob(FILE), key=by_number)
        if not journals:
            raise UserError(f"{path}: no {FILE} there or below; give run directories, or a multirun's directory")
        found |= dict.fromkeys(journal.parent for journal in journals)
    return list(found)


def by_number(path: Path) -> list[tuple[int, str]]:
    """Return a key to sort paths by, under which 9 comes before 10."""
    return [(int(part) if part.isdigit() else -1, part) for part in path.parts]
