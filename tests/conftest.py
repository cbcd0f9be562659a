"""``--backend NAME`` restricts the kernel tests; BIOPERF_REQUIRE_COMPILED=1 refuses to run without compiled kernels.

Where no GPU can be used Numba's simulator stands for it; it must be chosen before Numba is imported.
"""

import os

import hypothesis
import pytest

from bioperf.kernels import available_backends, get_backend
from bioperf.kernels._driver import missing_gpu

if missing_gpu():
    os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")

# Compiling at run time makes the first example slow; the examples are the same in every run.
hypothesis.settings.register_profile("bioperf", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("bioperf")


def pytest_addoption(parser):
    parser.addoption("--registers", metavar="FILE", help="write a table of the CUDA kernels' registers into FILE")
    parser.addoption("--kills", metavar="N", type=int, default=5, help="kill a batch at so many random moments")
    parser.addoption("--backend", metavar="NAME", help="test the kernels of this backend only (default: all here)")


def pytest_configure(config):
    state = available_backends()
    required = os.environ.get("BIOPERF_REQUIRE_COMPILED", "0") not in ("", "0")
    if required and state["cython"] is not True:
        raise pytest.UsageError(
            f"BIOPERF_REQUIRE_COMPILED is set and the compiled kernels are missing: {state['cython']}"
        )
    name = config.getoption("--backend")
    found = True if name is None else state.get(name, f"choose from {list(state)}")
    if found is not True:
        raise pytest.UsageError(f"--backend {name}: {found}")


def pytest_report_header(config):
    return [f"bioperf backend {name}: {state}" for name, state in available_backends().items()]


def pytest_generate_tests(metafunc):
    if "kernels" in metafunc.fixturenames and not metafunc.module.__name__.startswith("test_cuda_"):
        chosen = metafunc.config.getoption("--backend")
        names = [chosen] if chosen else [name for name, state in available_backends().items() if state is True]
        # The CUDA kernels take device arrays: test_cuda_*.py have a fixture that gives them some.
        names = [name for name in names if name != "cuda"]
        metafunc.parametrize("kernels", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kernels(request):
    """The kernels of each backend that is available here, in turn."""
    return get_backend(request.param)
