#!/usr/bin/env bash
# The tests of the compiled kernels, and of the solvers on top of them, with the kernels built by AddressSanitizer and
# UndefinedBehaviorSanitizer: reads and writes out of an allocation, use after free, signed overflow, bad shifts,
# misaligned or null pointers, out-of-range conversions. The first report ends the run with exit status 1 or more.
#
#     tests/sanitizers/cpu.sh [PYTEST ARGUMENTS]         say: -k wavelet, or test_fft.py to run that file alone
#
# Needs GCC (CC names another one) and bioperf's test requirements in the Python that runs (PYTHON names another).
# Builds in a copy of the tracked files in a temporary folder, or in the folder that BUILD names, which is kept and
# used again: the checkout and its own build are left alone.
#
# TARGET chooses what is built. "clones", the default, is what a wheel has: every loop in three variants, of which the
# dynamic loader takes the widest that the CPU runs (these are resolved when a module is loaded, long after the
# sanitizer's runtime, so they do not clash). A name for -march ("x86-64", "x86-64-v3") builds that one variant alone:
# the tests then run the loops that older CPUs would take.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
cc=${CC:-gcc}
target=${TARGET:-clones}
tests=(
    test_kernels.py test_ball_kernels.py test_batch_kernels.py test_wavelet_kernels.py test_fourier_kernels.py
    test_fft.py test_fourier_operators.py test_transforms.py test_coils.py test_operators.py
    test_lower.py test_bio.py test_batches.py test_kspace_levels.py test_bilevel.py test_selection_levels.py
    test_scales.py test_thread_safety.py
)
named=()
options=()
for argument in "$@"; do
    if [[ $argument == test_*.py* ]]; then named+=("$argument"); else options+=("$argument"); fi
done
[[ ${#named[@]} -gt 0 ]] && tests=("${named[@]}")

if [[ -n ${BUILD:-} ]]; then
    mkdir -p "$BUILD"
    build=$(cd "$BUILD" && pwd)
else
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
fi
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null -T - --ignore-failed-read -cf - 2>/dev/null) |
    tar -xf - -C "$build"
cd "$build"

# What the compiler is given last wins over setup.py's own options, and over Python's: its -fwrapv, which makes signed
# overflow defined, would hide it. OPTIMISE=-O3 checks the vectoriser's loops, as in a wheel, and compiles for longer.
flags=(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-wrapv -fno-omit-frame-pointer -g1 "${OPTIMISE:--O1}")
[[ $target == clones ]] || flags+=(-DBIOPERF_NATIVE "-march=$target")
compiler="#!/bin/sh
exec $cc \"\$@\" ${flags[*]}"
if [[ $(cat "$build/compiler" 2> /dev/null) != "$compiler" ]]; then
    echo "$compiler" > "$build/compiler"
    chmod +x "$build/compiler"
    rm -rf "$build/build" "$build"/kernels/*.so
fi
CC="$build/compiler" BIOPERF_REQUIRE_COMPILED=1 "$python" setup.py -q build_ext --inplace --parallel "$(nproc)"

# The interpreter itself is not instrumented, so the runtimes must be there before it. Leaks are not looked for: the
# interpreter and NumPy keep what they allocate until the process ends, and the kernels' few allocations are freed
# where they are made.
runtimes="$("$cc" -print-file-name=libasan.so) $("$cc" -print-file-name=libubsan.so)"
export ASAN_OPTIONS="detect_leaks=0:halt_on_error=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS:-}"
# Python's own arenas would hide what runs out of an object in them.
export PYTHONMALLOC=malloc
export PYTHONPATH="$build" BIOPERF_REQUIRE_COMPILED=1
cd "$build/tests"
LD_PRELOAD="$runtimes" "$python" -m pytest -c ../pyproject.toml --rootdir .. -q --backend cython -p no:cacheprovider \
    --capture=sys "${tests[@]}" "${options[@]}"  # a report goes to the file descriptor, which pytest would keep
