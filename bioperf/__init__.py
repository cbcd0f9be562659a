"""Bilevel image restoration: certified total-variation solvers over compiled kernels.

>>> import bioperf
>>> solution = bioperf.deblur(y, psf)
>>> solution = bioperf.reconstruct_mri(kspace, mask)

Start with these; ``solve_lower`` and ``solve_bio`` are the solvers under them, ``bioperf.kernels`` the loops
under those.  ``solve_bilevel`` is the general form, for operators and losses of one's own.
"""

import importlib
import warnings
from pathlib import Path

__version__ = "0.1.0"

_HOME = {
    "BIORelaxation": "selection",
    "BilevelProblem": "bilevel",
    "Blur": "operators",
    "DCT": "transforms",
    "DivergenceError": "solution",
    "MaskedFourier": "operators",
    "MultiCoilFourier": "operators",
    "Selection": "selection",
    "Solution": "solution",
    "TVWavelet": "selection",
    "TVWeight": "selection",
    "UndecimatedWavelet": "transforms",
    "Wavelet": "transforms",
    "as_linear_operator": "operators",
    "deblur": "deblurring",
    "estimate_kspace_noise": "noise",
    "estimate_noise": "noise",
    "hermitian_noise": "noise",
    "load_state": "checkpoint",
    "nre": "metrics",
    "psnr": "metrics",
    "reconstruct_mri": "mri",
    "rlne": "metrics",
    "save_state": "checkpoint",
    "select_hyperparameters": "selection",
    "solve_bilevel": "bilevel",
    "solve_bio": "bio",
    "solve_lower": "lower",
    "ssim": "metrics",
}
_MODULES = ("coils", "fft", "functions", "kernels", "masks", "metrics", "selection", "targets", "transforms")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name):
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)


def _warn_without_compiled_kernels():
    here = Path(__file__).parent
    if any((here / "kernels").glob("tv.*.so")) or any((here / "kernels").glob("tv.*.pyd")):
        return
    if (here.parent / "setup.py").exists():
        advice = "this is a source checkout without its extensions: run 'pip install -e .' in it or leave the folder"
    else:
        advice = "it was installed without a C compiler: install one and run 'pip install --force-reinstall bioperf'"
    warnings.warn(f"bioperf has no compiled kernels and runs on Numba or NumPy, slower; {advice}", stacklevel=3)


_warn_without_compiled_kernels()
