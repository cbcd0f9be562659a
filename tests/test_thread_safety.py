"""Many Python threads at once, first uses that race, and processes that fork: the bits are those of one thread."""

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from bioperf import (
    Blur,
    MaskedFourier,
    MultiCoilFourier,
    coils,
    deblur,
    estimate_noise,
    fft,
    masks,
    reconstruct_mri,
    solve_bio,
    solve_lower,
    targets,
)
from bioperf.kernels import available_backends
from bioperf.transforms import DCT, UndecimatedWavelet, Wavelet

THREADS = 8
SHAPE = (40, 48)
LIBRARIES = [name for name, state in fft.available_libraries().items() if state is True]


def digest(*arrays):
    found = hashlib.sha256()
    for a in arrays:
        found.update(np.ascontiguousarray(a).tobytes())
    return found.hexdigest()


def at_once(function, rounds=3):
    """[function(k) for every thread k], all of which start together, ``rounds`` times; the first error is raised."""
    barrier, found, errors = threading.Barrier(THREADS), [[] for _ in range(THREADS)], []

    def run(k):
        try:
            barrier.wait(60)
            found[k] = [function(k) for _ in range(rounds)]
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(k,)) for k in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert not worker.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return found


def assert_as_alone(function, rounds=3):
    """``function(k)``, a digest, is the same in a race as one call after another, which come later."""
    found = at_once(function, rounds)
    for k in range(THREADS):
        assert found[k] == [function(k)] * rounds


def image(k=0, dtype=np.float64, shape=SHAPE):
    return np.random.default_rng(k).random(shape).astype(dtype)


def mask():
    return masks.gaussian(SHAPE, 0.4, seed=1)


# --- shared objects -----------------------------------------------------------------------------------


def test_kernels_are_shared(kernels):
    def run(k):
        x = image(k % 3, np.float32, (96, 80))
        threads = 1 + k % 3
        p = kernels.gradient(x, threads=threads)
        q, sums = p.copy(), kernels.update_field(x, p.copy(), 1.6, 0.1, 1.0, True, 0.1, threads=threads)
        kernels.update_field(x, q, 1.6, 0.1, 1.0, True, 0.1, threads=threads)
        ball = kernels.project_l21_ball(q, 20.0, threads=threads)
        haar = kernels.haar_forward(x, level=3, threads=threads)
        return digest(p, q, ball, haar, kernels.project_l1_ball(x, 30.0, threads=threads), np.array(sums))

    assert_as_alone(run)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_one_plan_serves_many_threads(library, dtype):
    plan = fft.plan_fft(SHAPE, dtype, library=library)

    def run(k):
        x, spectrum = plan.empty("image", "spectrum")
        x[...] = image(k)
        found = plan.forward(x, spectrum).copy()
        return digest(found, plan.inverse(found, *plan.empty("image")))

    assert_as_alone(run, rounds=30)


@pytest.mark.parametrize("make", [
    lambda: Blur(np.ones((3, 5)) / 15, SHAPE),
    lambda: MaskedFourier(mask(), centred=True),
    lambda: MultiCoilFourier(mask(), coils.simulate_maps(SHAPE, 3)),
])  # fmt: skip
def test_operators_are_shared_from_their_first_use(make):
    A = make()

    def run(k):
        y = A(image(k, np.float32 if k % 2 else np.float64))
        return digest(y, A.adjoint(y), A.transfer(np.float32) if hasattr(A, "transfer") else A.maps)

    assert_as_alone(run)


@pytest.mark.parametrize("make", [
    lambda: Wavelet("haar"), lambda: Wavelet("db2"), lambda: DCT(), lambda: UndecimatedWavelet("haar", 2),
])  # fmt: skip
def test_transforms_are_shared_from_their_first_use(make):
    transform = make()

    def run(k):
        coefficients = transform.forward(image(k), threads=1 + k % 2)
        return digest(coefficients, transform.adjoint(coefficients, threads=1 + k % 2))

    assert_as_alone(run)


def test_targets_masks_and_estimates_are_shared():
    A, target = Blur(np.ones((3, 3)) / 9, SHAPE), targets.NonLocalMeans()

    def run(k):
        y = A(image(k % 2))
        goal = target(A, y, (), xbar=y, tv_weight=1e-2, isotropic=True, threads=1)
        return digest(goal, masks.gaussian(SHAPE, 0.3, seed=k), masks.poisson_disc(SHAPE, 0.2, seed=k)) + str(
            estimate_noise(y)
        )

    assert_as_alone(run, rounds=1)


# --- solvers ------------------------------------------------------------------------------------------


@pytest.fixture
def large():
    """An image that takes two threads."""
    A = Blur(np.ones((3, 3)) / 9, (384, 384))
    return A, A(image(0, np.float32, A.shape))


def test_solves_at_once_with_different_threads(large):
    A, y = large

    def run(k):
        threads = 1 + k % 3
        lower = solve_lower(A, y, 1e-2, max_iter=10, threads=threads)
        upper = solve_bio(A, y, target="identity", tv_weight=1e-2, lower=lower, max_iter=10, threads=threads)
        return digest(lower.x, upper.x) + str((lower.objective, lower.lower_bound, upper.objective))

    found = at_once(run, rounds=1)
    assert {each for (each,) in found} == {run(0)}


def test_batches_at_once():
    A = Blur(np.ones((3, 3)) / 9, SHAPE)
    y = A(np.stack([image(k) for k in range(5)]))

    def run(k):
        lower = solve_lower(A, y, [[1e-2], [3e-2]], max_iter=20, threads=1 + k % 3)
        upper = solve_bio(A, y, target="identity", tv_weight=1e-2, epsilon=0.1, max_iter=20, threads=1 + k % 3)
        return digest(lower.x, upper.x)

    assert len({each for found in at_once(run, rounds=2) for each in found} | {run(0)}) == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_batch_shares_the_plan_of_each_library(library):
    A = Blur(np.ones((3, 3)) / 9, SHAPE)
    y = A(np.stack([image(k) for k in range(6)]))
    fft.set_library(library)
    try:
        alone = [solve_lower(A, item, 1e-2, max_iter=20, threads=1).x for item in y]
        np.testing.assert_array_equal(solve_lower(A, y, 1e-2, max_iter=20, threads=3).x, alone)
    finally:
        fft.set_library("auto")


def test_one_calls_at_once():
    A, M = Blur(np.ones((3, 3)) / 9, SHAPE), MaskedFourier(mask())
    y, kspace = A(image(1)), M(image(2))

    def run(k):
        threads = 1 + k % 3
        restored = deblur(y, A.psf, max_iter=20, threads=threads, boundary=("periodic", "unknown")[k % 2])
        return digest(restored.x, reconstruct_mri(kspace, M.mask, max_iter=20, threads=threads).x)

    assert_as_alone(run, rounds=1)


# --- first uses ---------------------------------------------------------------------------------------

FIRST_USE = """
import hashlib, sys, threading
import numpy as np

barrier, found, errors = threading.Barrier(8), set(), []
x = np.random.default_rng(0).random((24, 20))

def first():
    import bioperf
    from bioperf.kernels import get_backend
    kernels = get_backend(sys.argv[1])
    threads = int(sys.argv[2])
    parts = [kernels.gradient(x, threads=threads), kernels.project_l1_ball(x, 9.0, threads=threads)]
    parts.append(kernels.haar_forward(x, level=2, threads=threads))
    A = bioperf.Blur(np.ones((3, 3)) / 9, x.shape)
    parts.append(bioperf.deblur(A(x), A.psf, max_iter=20, target="nlm").x)
    parts.append(bioperf.masks.poisson_disc(x.shape, 0.3, seed=0))
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()

def run():
    try:
        barrier.wait()
        found.add(first())
    except BaseException as error:
        errors.append(error)

workers = [threading.Thread(target=run) for _ in range(8)]
[w.start() for w in workers]
[w.join() for w in workers]
if errors:
    raise errors[0]
assert len(found) == 1, found
print(*found, first())
"""


def script(source, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=120,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "name", [name for name in ("cython", "numba", "reference") if available_backends()[name] is True]
)
def test_first_uses_race(name):
    # imports, caches, and Numba's compilation, in a process of its own
    raced, alone = script(FIRST_USE, name, "2")
    assert raced == alone


# --- processes ----------------------------------------------------------------------------------------

FORK = """
import multiprocessing, sys, threading
import numpy as np
from bioperf import Blur, solve_lower
from bioperf.kernels import get_backend, run_tasks

kernels = get_backend(sys.argv[1])
x = np.random.default_rng(0).random((600, 600))
A = Blur(np.ones((3, 3)) / 9, x.shape)

def work(answers):
    ran = []
    run_tasks([lambda: ran.append(1), lambda: ran.append(1)])
    p = kernels.gradient(x, threads=2)
    solution = solve_lower(A, x, 0.01, threads=2, max_iter=5)
    answers.put((sum(ran), p.tobytes(), solution.x.tobytes(), solution.threads))

def forked():
    process = context.Process(target=work, args=(answers,))
    process.start()
    found = answers.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    return found

context = multiprocessing.get_context("fork")
answers = context.Queue()
work(answers)
expected = answers.get()
assert forked() == expected      # from the thread that ran the kernels
work(answers)
assert answers.get() == expected  # whose own threads come back
found = []
thread = threading.Thread(target=lambda: found.append(forked()))
thread.start(), thread.join()
assert found == [expected]       # from another one
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("name", [name for name in ("cython", "reference") if available_backends()[name] is True])
def test_forked_process_runs_on_after_the_kernels_threads(name):
    # Not Numba's kernels: on two threads, Numba itself ends a process that forked after GNU OpenMP, and says so.
    script(FORK, name, OMP_NUM_THREADS="2")


def restored(seed):
    A = Blur(np.ones((3, 3)) / 9, SHAPE)
    return solve_lower(A, A(image(seed)), 1e-2, max_iter=20).x


def test_spawned_processes_give_the_same_bits():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(restored, range(3)))
    np.testing.assert_array_equal(found, [restored(k) for k in range(3)])
