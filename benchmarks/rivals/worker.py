"""One package in a process of its own, asked over stdin and stdout: JSON, one request and one reply a line.

    python benchmarks/rivals/worker.py NAME THREADS

NAME is a file beside this one. It imports its package and has

- ``PACKAGE``, whose installed version is reported (or ``VERSION``);
- ``TV``: "isotropic" or "anisotropic", of periodic forward differences; ", Neumann": without those across the edges;
- ``METHODS``: the problems that it solves, "deblurring" and "mri", and how, in words;
- a function for each of them: ``deblurring(case)`` and ``mri(case)`` return ``make``, ``make(iterations)`` a function
  without arguments whose call is what is timed and which returns the image.

``case`` has ``y``, ``weight``, ``isotropic`` and ``threads``, and ``psf`` and ``kernel`` (the psf on the image's grid,
its centre at index 0) for deblurring: min 1/2 |kernel * x - y|^2 + weight TV(x), float64; or ``mask`` for MRI:
min 1/2 |mask F x - y|^2 + weight TV(x), F the unitary FFT with index 0 at zero frequency, complex128.

First reply: {"version": ..., "problems": [...], "tv": ...} or {"missing": why}.  Requests:

    {"do": "prepare", "problem": "deblurring", "file": case.npz, "isotropic": true}  ->  {"method": ...}
    {"do": "run", "iterations": 50, "save": x.npy or ""}                             ->  {"seconds": ...}

and {"error": ...} where the package raised.  This file and those beside it need NumPy and their package only.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def hold_to(threads):
    """No library of this process can use more cores than that, whatever it reads."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def load(name):
    """The module beside this file; under another name, so that ``import scico`` in scico.py finds the package."""
    spec = importlib.util.spec_from_file_location(f"rival_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worker:
    def __init__(self, module, threads):
        self.module, self.threads = module, threads

    def prepare(self, problem, file, isotropic):
        import numpy as np

        with np.load(file) as arrays:
            case = SimpleNamespace(**arrays, isotropic=isotropic, threads=self.threads)
        case.weight = float(case.weight)
        self.make = getattr(self.module, problem)(case)
        return {"method": self.module.METHODS[problem]}

    def run(self, iterations, save):
        run = self.make(iterations)
        start = time.perf_counter()
        x = run()
        reply = {"seconds": time.perf_counter() - start}
        if save:
            import numpy as np

            np.save(save, np.asarray(x))
        return reply


def main():
    # What a package prints must not mix with the replies.
    with os.fdopen(os.dup(1), "w", buffering=1) as replies:
        os.dup2(2, 1)
        answer(replies)


def answer(replies):
    sys.path.remove(str(Path(__file__).resolve().parent))
    name, threads = sys.argv[1], int(sys.argv[2])
    hold_to(threads)
    try:
        module = load(name)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=replies)
        return
    version = getattr(module, "VERSION", None) or importlib.metadata.version(module.PACKAGE)
    worker = Worker(module, threads)
    print(json.dumps({"version": version, "problems": list(module.METHODS), "tv": module.TV}), file=replies)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # another package's failure is a result, too
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
