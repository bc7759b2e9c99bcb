"""How many threads the BLAS library behind numpy uses, changed while the process runs.

numpy has no call for it, so it goes to the library's C interface; where the library is not
OpenBLAS (Apple's Accelerate, say), nothing is changed and nothing fails.

Facts (scipy-openblas 0.3.31 in numpy 2.4's wheels, two cores, 2026-11):
- All threads meet at the end of every product. On a machine with other work one of them may not
  be running just then, and a product of 18 us takes 7 ms.
- One product of 8 rows by 160 x 640 takes 22 us on one thread, 15 on two; by 768 x 3072, 807
  and 441.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable

NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads")


class BlasThreads:
    """The thread count of this process's BLAS library."""

    def __init__(self) -> None:
        self._set = _find("set")
        get = _find("get")
        self.most: int = get() if get is not None else 1
        """What the environment allows."""

    def use(self, count: int) -> None:
        """Let the next products use so many threads."""
        if self._set is not None:
            self._set(count)


def _find(verb: str) -> Callable[..., int] | None:
    spec = importlib.util.find_spec("numpy._core._multiarray_umath")
    if spec is None or spec.origin is None:
        return None
    # A handle on the extension finds the symbols of the libraries that it was linked with.
    library = ctypes.CDLL(spec.origin)
    for name in NAMES:
        function: Callable[..., int] | None = getattr(library, name.format(verb), None)
        if function is not None:
            return function
    return None
