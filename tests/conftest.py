"""``--backend NAME`` restricts the kernel tests; BIOPERF_REQUIRE_COMPILED=1 refuses to run without compiled kernels."""

import os

import hypothesis
import pytest

from bioperf.kernels import available_backends, get_backend

# Compiling at run time makes the first example slow; the examples are the same in every run.
hypothesis.settings.register_profile("bioperf", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("bioperf")


def pytest_addoption(parser):
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
    if "kernels" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend")
        names = [chosen] if chosen else [name for name, state in available_backends().items() if state is True]
        metafunc.parametrize("kernels", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kernels(request):
    """The kernels of each backend that is available here, in turn."""
    return get_backend(request.param)
