"""Start-up time, each in a fresh interpreter: what a user waits for before anything is computed."""

import importlib.util
from pathlib import Path

from .common import BACKENDS, THREADS, backend_or_skip, pin_threads

pin_threads(THREADS)


def with_bioperf(statement):
    """The statement, and before its timing the path of the bioperf that this process would import."""
    folder = Path(importlib.util.find_spec("bioperf").origin).parents[1]
    return statement, f"import sys; sys.path.append({str(folder)!r})"


class Import:
    """No kernel is loaded."""

    params = (["none"], [THREADS])
    param_names = ("backend", "threads")
    number, repeat = 1, 5

    def timeraw_nothing(self, backend, threads):
        return "pass"

    def timeraw_numpy(self, backend, threads):
        return "import numpy"

    def timeraw_bioperf(self, backend, threads):
        return with_bioperf("import bioperf")

    def timeraw_bioperf_solvers(self, backend, threads):
        return with_bioperf("from bioperf import Blur, solve_bio, solve_lower")


class Backend:
    """A backend loaded by name, and its first kernel: where it is compiled at run time, from its cache."""

    params = (BACKENDS, [THREADS])
    param_names = ("backend", "threads")
    number, repeat = 1, 5

    def setup(self, backend, threads):
        backend_or_skip(backend)

    def timeraw_load(self, backend, threads):
        return with_bioperf(f"from bioperf.kernels import get_backend; get_backend({backend!r})")

    def timeraw_first_kernel(self, backend, threads):
        array = "torch.zeros(64, 64).cuda()" if backend == "cuda" else "numpy.zeros((64, 64), 'f')"
        return with_bioperf(
            f"import {array.split('.')[0]}; from bioperf.kernels import get_backend; "
            f"get_backend({backend!r}).gradient({array})"
        )
