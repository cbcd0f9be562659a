"""Every CUDA kernel compiles, without a GPU: to PTX for compute capabilities 8.0 and 9.0, and by ptxas where it is.

float32 and complex64 by default (35 s on one core); ``--registers FILE`` compiles all precisions (a minute) and writes
a table of the registers.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compile_cuda import NO_COMPILER

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

# Kernels of float32 data that multiply or divide in float64: numbers of an item or of the problem, and squares that
# float32 would let overflow.
DOUBLE = {
    "balls._end_search", "balls._shrunk", "fields._search", "projections._shrink_to_ball", "projections._solve",
    "projections._squares",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(request):
    """What tests/compile_cuda.py says of each kernel."""
    table = request.config.getoption("--registers")
    script = Path(__file__).with_name("compile_cuda.py")
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    run = subprocess.run(
        [sys.executable, str(script), "fdFD" if table else "fF"], env=environment, capture_output=True, text=True
    )
    if run.returncode == NO_COMPILER:
        pytest.skip("the compiler of the CUDA kernels is not installed: pip install nvidia-nvvm nvidia-cuda-nvrtc")
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    if table:
        Path(table).write_text(_table(found))
    return found


def _table(rows):
    columns = ("kernel", "dtype", "capability", "registers", "stack", "spills", "double")
    lines = [" | ".join(str(row.get(name, "")) for name in columns) for row in rows]
    return "\n".join([" | ".join(columns), " | ".join("---" for _ in columns), *lines, ""])


def test_every_kernel_compiles(rows):
    families = {row["kernel"].partition(".")[0] for row in rows}
    assert families == {"common", "fields", "projections", "spectral", "coils", "wavelets", "balls"}
    assert {row["capability"] for row in rows} == {"8.0", "9.0"}


def test_registers_suffice(rows):
    if not shutil.which("ptxas"):
        pytest.skip("ptxas is not on PATH")
    assert [row for row in rows if row["stack"] or row["spills"]] == []
    # 256 threads of a block must fit into the 65536 registers of a multiprocessor, twice.
    assert [row for row in rows if row["dtype"] in "fF" and row["registers"] > 128] == []


def test_single_precision_is_not_computed_in_double(rows):
    found = {row["kernel"] for row in rows if row["dtype"] in "fF" and row["double"]}
    assert found <= DOUBLE
