"""What the C library does with memory that is freed."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


@cache
def keep_memory() -> None:
    """Keep what is freed, in the process, for what comes next; where the C library is not glibc, do nothing.

    It gives blocks over 32 MB back to the system at once, and then each step would fault their pages in anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
