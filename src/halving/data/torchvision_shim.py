"""Makes torchvision importable beside a torch for which its compiled extension was not built."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch


@cache
def allow_import() -> torch.library.Library | None:
    """Declare the operators whose absence breaks `import torchvision`, only where its extension cannot load.

    The library that is returned owns the declarations; the cache keeps it alive.
    """
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    try:
        for extension in Path(next(iter(folders or ()), "")).glob("_C*"):
            torch.ops.load_library(extension)
            return None
    except (ImportError, OSError):
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
