"""Compiles the registered CUDA kernels to PTX without a GPU and assembles them; one JSON line a kernel.

    python compile_cuda.py fF      NumPy's characters of the launches' dtypes

Run by test_cuda_ptx.py in a process of its own, for Numba must not simulate here.
"""

import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

NO_COMPILER = 3  # what the script exits with where libNVVM is missing

FAMILIES = ("fields", "projections", "spectral", "coils", "wavelets", "balls")


CAPABILITIES = ((8, 0), (9, 0))


def compile_kernel(kernel, dtype):
    """PTX by compute capability: ``cuda.compile_ptx``, whose typing, the longest part, is done once."""
    import numba.cuda.dispatcher
    from numba.cuda import compiler

    # Functions called by a kernel are compiled for the current device; there is none.
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=CAPABILITIES[0])
    library, _ = compiler._compile_pyfunc_with_fixup(
        kernel.function, kernel.signature(dtype), device=False, abi="numba", cc=CAPABILITIES[0]
    )
    return {capability: library.get_asm_strs(cc=capability)[0] for capability in CAPABILITIES}


def assemble(ptx, capability, folder, registers):
    """(registers, bytes of stack frame, bytes of spills) by ptxas, with at most so many registers if not None."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    arch = "sm_{}{}".format(*capability)
    command = ["ptxas", f"-arch={arch}", "-v", str(source), "-o", str(folder / "kernel.cubin")]
    if registers:
        command.append(f"-maxrregcount={registers}")
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    stack, stores, loads = (int(number) for number in frame.groups())
    return int(re.search(r"Used (\d+) registers", report).group(1)), stack, stores + loads


def arithmetic_in_double(ptx):
    """The number of float64 multiplications, divisions and roots (additions are what sums are made of)."""
    return len(re.findall(r"^\s+(?:@\S+\s+)?(?:mul|fma|div|sqrt|rcp)(?:\.\w+)*\.f64\b", ptx, re.MULTILINE))


def main(dtypes):
    from numba.cuda.cudadrv import nvvm

    from bioperf.kernels import _cuda_common as common

    if not nvvm.is_available():
        sys.exit(NO_COMPILER)
    for family in FAMILIES:
        importlib.import_module(f"bioperf.kernels._cuda_{family}")
    with tempfile.TemporaryDirectory() as folder:
        for kernel in common.KERNELS:
            name = f"{kernel.function.__module__.rpartition('_')[2]}.{kernel.name}"
            for dtype in kernel.dtypes if kernel.dtypes == "d" else sorted(set(dtypes) & set(kernel.dtypes)):
                for capability, ptx in compile_kernel(kernel, dtype).items():
                    row = {"kernel": name, "dtype": dtype, "capability": "{}.{}".format(*capability)}
                    row["double"] = arithmetic_in_double(ptx)
                    if shutil.which("ptxas"):
                        row["registers"], row["stack"], row["spills"] = assemble(
                            ptx, capability, Path(folder), kernel.limit(dtype)
                        )
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
