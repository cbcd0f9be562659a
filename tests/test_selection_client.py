"""Searches on the workers of a Dask cluster: the bits of a local run, lost workers, what is sent and refused."""

import os
import signal
import sys
import threading

import numpy as np
import pytest

import bioperf
from bioperf.selection import workers

distributed = pytest.importorskip("distributed", reason="client needs dask.distributed: pip install bioperf[cluster]")
from test_select import phantom, problem, same  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:tol. at the selected radii:UserWarning")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def blurred(dtype=np.float32):
    x = phantom(dtype=dtype)
    A = bioperf.Blur(np.ones((3, 3)) / 9, x.shape)
    y = A(x) + np.random.default_rng(0).normal(scale=0.02, size=x.shape).astype(dtype)
    return A, y, x


def coils():
    x = phantom().astype(complex)
    ramp = np.linspace(0.2, 1, len(x))
    A = bioperf.MultiCoilFourier(
        bioperf.masks.radial(x.shape, 0.5, seed=1), np.stack([ramp[:, None] + 0 * x, ramp + 0j * x])
    )
    return bioperf.TVWeight(A, A(x), reference=x, isotropic=True)


class Locked(bioperf.targets.Target):
    """Made once, in this process: it cannot be sent."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, A, y, index, *, xbar, **_):
        with self.lock:
            return xbar


PROBLEMS = {
    "holdout": lambda: (problem(images=(2,)), "holdout"),
    "deblurring": lambda: (bioperf.TVWeight(*blurred()[:2], reference=blurred()[2]), "supervised"),
    "coils": lambda: (coils(), "supervised"),
    "relaxation": lambda: (
        bioperf.BIORelaxation(*blurred()[:2], reference=blurred()[2], target=Locked(), max_iter=50), "supervised"
    ),
}  # fmt: skip

RUNS = [
    ("holdout", {"method": "grid", "trials": 16}, {"batched": True}),
    ("holdout", {"method": "grid", "trials": 9, "warm": False}, {}),
    ("holdout", {"method": "random", "trials": 6, "seed": 3}, {}),
    ("holdout", {"method": "tpe", "trials": 13}, {}),
    ("holdout", {"method": "tpe", "trials": 14, "n_jobs": 3}, {"n_jobs": 3}),
    ("deblurring", {"method": "grid", "trials": 5}, {"batched": True}),
    ("coils", {"method": "random", "trials": 4}, {}),
    ("relaxation", {"method": "grid", "trials": 9}, {"batched": True}),
]


@pytest.mark.parametrize(
    ("name", "options", "local"),
    RUNS,
    ids=[f"{name}-{options['method']}{i}" for i, (name, options, _) in enumerate(RUNS)],
)
def test_the_bits_of_a_local_run(client, name, options, local):
    if options["method"] == "tpe":
        pytest.importorskip("optuna", reason="tpe needs Optuna: pip install bioperf[tune]")
    case, criterion = PROBLEMS[name]()
    far = bioperf.select_hyperparameters(case, criterion=criterion, client=client, **options)
    near = bioperf.select_hyperparameters(case, criterion=criterion, **options | local)
    assert far.values == near.values and far.best_criterion == near.best_criterion and far.metrics == near.metrics
    assert far.status == near.status and far.converged
    if far.radii is None:
        far.radii = near.radii = np.zeros(2)
    same(far, near)
    assert not client.futures


def test_a_lost_worker_is_survived(client):
    case = problem(shape=(64, 64))
    before = client.run(os.getpid)
    rows = []

    def kill(row):
        rows.append(row)
        if len(rows) == 1:
            os.kill(next(iter(before.values())), signal.SIGKILL)

    far = bioperf.select_hyperparameters(case, method="grid", trials=36, client=client, callback=kill)
    same(far, bioperf.select_hyperparameters(case, method="grid", trials=36, batched=True))
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(os.getpid).values()) != set(before.values()) and len(rows) == 36


def test_rows_come_in_order_and_a_callback_stops(client):
    case, rows = problem(), []

    def watch(row):
        rows.append(row)
        return len(rows) == 6

    far = bioperf.select_hyperparameters(case, method="grid", trials=16, client=client, callback=watch)
    near = bioperf.select_hyperparameters(case, method="grid", trials=16, batched=True)
    assert "stopped by the callback" in far.status and not far.converged and len(rows) == 6
    for name in ("trial", "wavelet_radius", "tv_radius", "criterion", "best", "iterations"):
        np.testing.assert_array_equal(far.history[name], near.history[name][:6])
        assert [row[name] for row in rows] == far.history[name].tolist()
    assert not client.futures


def test_the_problem_is_sent_once(client, monkeypatch):
    sent = []
    state = workers.Recipe.__getstate__
    monkeypatch.setattr(workers.Recipe, "__getstate__", lambda self: sent.append(1) or state(self))
    bioperf.select_hyperparameters(problem(), method="random", trials=12, client=client)
    # (to be weighed, and to be sent)
    assert 1 <= len(sent) <= 2


class Poison(bioperf.TVWeight):
    """Its trials end their process, or raise."""

    def evaluator(self, *arguments, **options):
        evaluator = super().evaluator(*arguments, **options)
        if "distributed.worker" in sys.modules and distributed.worker._global_workers:
            evaluator.evaluate = self.fail
        return evaluator

    def fail(self, values, **_):
        if self.max_iter == 1:
            os._exit(1)
        raise bioperf.DivergenceError("the iterate became NaN")


@pytest.fixture
def by_value():
    cloudpickle = pytest.importorskip("cloudpickle", reason="comes with dask.distributed")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_trials_that_fail_or_end_their_workers(client, cluster, by_value, monkeypatch):
    A, y, x = blurred()
    with pytest.raises(bioperf.DivergenceError, match="the iterate became NaN"):
        bioperf.select_hyperparameters(
            Poison(A, y, reference=x), criterion="supervised", method="random", trials=3, client=client
        )
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(RuntimeError, match=r"client: 1 workers in a row were lost with the trial at \["):
        bioperf.select_hyperparameters(
            Poison(A, y, reference=x, max_iter=1), criterion="supervised", method="random", trials=1, client=client
        )


def test_workers_with_other_libraries_are_refused(client):
    bioperf.fft.set_library("scipy")
    try:
        with pytest.raises(
            RuntimeError, match=r"client: the worker tcp://.* has FFT library bioperf, this process scipy"
        ):
            bioperf.select_hyperparameters(problem(), method="random", trials=2, client=client)
    finally:
        bioperf.fft.set_library("auto")


def test_what_a_client_does_not_do(client):
    case = problem()
    for method in ("bf-dca", "bf-dca-faithful", "hypergradient", "discrepancy", "sure"):
        with pytest.raises(ValueError, match=f"client: method '{method}' takes one step after the other"):
            bioperf.select_hyperparameters(case, method=method, noise_std=0.1, client=client)
    with pytest.raises(ValueError, match=r"batched: .* leave out either"):
        bioperf.select_hyperparameters(case, method="grid", batched=True, client=client)
    with pytest.raises(ValueError, match=r"warm: .* leave out client, or warm"):
        bioperf.select_hyperparameters(case, method="random", warm=True, client=client)
    optuna = pytest.importorskip("optuna", reason="tpe needs Optuna: pip install bioperf[tune]")
    for options in ({"pruner": optuna.pruners.MedianPruner()}, {"study": optuna.create_study()}):
        with pytest.raises(ValueError, match="pruner: nothing is pruned on the workers of a client"):
            bioperf.select_hyperparameters(case, method="tpe", client=client, **options)


def test_what_is_no_client(client, monkeypatch):
    case = problem()
    for wrong in (client.scheduler.address, client.cluster, 3):
        with pytest.raises(TypeError, match=r"client: expected a dask.distributed.Client, got"):
            bioperf.select_hyperparameters(case, method="grid", client=wrong)
    closed = distributed.Client(client.scheduler.address)
    closed.close()
    with pytest.raises(ValueError, match="client: is closed, not running"):
        bioperf.select_hyperparameters(case, method="grid", client=closed)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"client: needs dask.distributed: pip install bioperf\[cluster\]"):
        bioperf.select_hyperparameters(case, method="grid", client=client)
