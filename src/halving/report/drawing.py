"""The way to what draws, whatever a user has set for matplotlib."""

import logging
import os
import sys
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from types import ModuleType


def drawing(module: str) -> ModuleType:
    """Import a module of this package that draws, even where matplotlib cannot read what a user has set for it."""
    name, before = f"halving.report.{module}", set(sys.modules)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of each setting, and none is used
    try:
        return import_module(name)
    except Exception:
        kept = {key: os.environ.pop(key) for key in ("MPLBACKEND", "MATPLOTLIBRC") if key in os.environ}
        os.environ["MATPLOTLIBRC"] = os.devnull
        for half in [each for each in sys.modules if each.startswith("matplotlib") and each not in before]:
            del sys.modules[half]
        try:
            with chdir(Path(__file__).parent):  # a matplotlibrc where one types comes before all others
                return import_module(name)
        finally:
            del os.environ["MATPLOTLIBRC"]
            os.environ.update(kept)
