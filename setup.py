"""The compiled kernels; everything else is in pyproject.toml.

BIOPERF_REQUIRE_COMPILED=1 makes a missing compiler an error instead of a fallback to Numba/NumPy.
BIOPERF_NATIVE=1 builds for this machine's CPU only (the default build picks its vector units at run time).
"""

import os
import platform
import sys

import numpy as np
from setuptools import Extension, setup

REQUIRED = os.environ.get("BIOPERF_REQUIRE_COMPILED", "0") not in ("", "0")
NATIVE = os.environ.get("BIOPERF_NATIVE", "0") not in ("", "0")

if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/openmp:experimental", "/std:c11"], []
else:
    compile_args = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-g0", "-std=gnu11"]
    link_args = []
    if NATIVE:
        width = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
        compile_args += ["-march=native", "-DBIOPERF_NATIVE", *width]
    if sys.platform == "darwin":
        compile_args += ["-Xpreprocessor", "-fopenmp"]
        link_args += ["-lomp"]
    else:
        compile_args += ["-fopenmp"]
        link_args += ["-fopenmp"]

KERNELS = "bioperf/kernels"
HEADERS = [
    f"{KERNELS}/{name}"
    for name in (
        "precisions.h", "rows.h", "rows_template.h", "planes_template.h", "wavelets.h", "wavelets_template.h",
        "balls.h", "balls_template.h", "fourier.h", "fourier_plan.h", "fourier_target.h", "fourier_template.h",
        "_batch.pxd", "_common.pxd", "fourier.pxd", "spectral.pxd", "tv.pxd",
    )
]  # fmt: skip
FAMILIES = ["tv", "projections", "spectral", "coils", "team", "wavelets", "balls"]
if sys.platform != "win32":  # needs the vector types of GCC and Clang; ducc0 and SciPy stand in
    FAMILIES += ["fourier", "iterations"]

setup(
    ext_modules=[
        Extension(
            f"bioperf.kernels.{family}",
            [f"{KERNELS}/{family}.pyx"],
            include_dirs=[KERNELS, np.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            depends=HEADERS,
            optional=not REQUIRED,
        )
        for family in FAMILIES
    ]
)
