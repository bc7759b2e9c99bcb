"""The BLAS library's threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keyhole.engine.blas import BlasThreads, _find


def test_as_many_threads_as_the_environment_says():
    code = "import numpy; from keyhole.engine.blas import BlasThreads; print(BlasThreads().most)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    ).stdout

    assert int(said) == 1


@pytest.mark.skipif(_find("get") is None, reason="numpy's BLAS library is not OpenBLAS")
def test_the_count_can_be_changed():
    threads, get = BlasThreads(), _find("get")

    threads.use(1)
    assert get() == 1

    threads.use(threads.most)
    assert get() == threads.most
