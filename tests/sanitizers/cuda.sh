#!/usr/bin/env bash
# The tests of the CUDA kernels on a GPU under NVIDIA's compute-sanitizer: memory, then races in shared memory.
# Takes pytest's arguments; needs compute-sanitizer of the CUDA toolkit on PATH and bioperf installed with its tests'
# requirements in the Python that runs (PYTHON names another).
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(test_cuda_kernels.py test_cuda_balls.py test_cuda_coils.py test_cuda_wavelets.py)
# PyTorch's allocator hides what runs out of an array inside its pool: every tensor gets memory of its own.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 \
        "${PYTHON:-python3}" -m pytest -c ../pyproject.toml --rootdir .. -q -k "not graph and not 2_to_31" \
        "${tests[@]}" "$@"
done
