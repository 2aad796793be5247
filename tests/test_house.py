"""Who may import whom."""

import subprocess
import sys
from pathlib import Path


def test_layers_import_only_what_lies_below_them() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
