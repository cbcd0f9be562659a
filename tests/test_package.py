"""What a stranger sees first: the README's code, the public names, the start-up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bioperf

README = Path(__file__).parent.parent / "README.md"


def python(code, cwd=None):
    """Run code in a fresh process against the package under test."""
    environment = os.environ | {"PYTHONPATH": str(Path(bioperf.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_public_names_exist():
    for name in bioperf.__all__:
        assert getattr(bioperf, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        bioperf.nonsense  # noqa: B018
    assert Path(bioperf.__file__).with_name("py.typed").exists()


def test_readme_code_runs_as_printed(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        done = python(block, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_import_is_light():
    heavy = "numba", "scipy", "skimage", "matplotlib", "typer", "torch"
    code = f"import sys, bioperf; print([m for m in {heavy} if m in sys.modules])"
    done = python(code)
    assert done.stdout.strip() == "[]"


def test_default_path_compiles_nothing():
    code = (
        "import sys, numpy, bioperf; bioperf.solve_lower(bioperf.Blur(numpy.ones((3, 3)) / 9, (16, 16)), "
        "numpy.random.default_rng(0).random((16, 16)), 1e-3); print('numba' in sys.modules)"
    )
    done = python(code)
    expected = bioperf.kernels.get_backend().name == "numba"
    assert done.stdout.strip() == str(expected)
