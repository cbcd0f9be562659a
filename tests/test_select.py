"""``select_hyperparameters`` as a whole: every method on small problems, determinism, warnings, and bad input."""

import numpy as np
import pytest

import bioperf
from bioperf.selection.bfdca import EXACT_AT_START
from bioperf.selection.constrained import WIDTH
from bioperf.selection.local_model import propose

SIZE = 32
DESCENTS = ("bf-dca", "bf-dca-faithful", "hypergradient")


def phantom(size=SIZE, dtype=np.float64):
    x = np.zeros((size, size), dtype)
    quarter = size // 4
    x[quarter : 3 * quarter, quarter // 2 : 3 * quarter] = 0.6
    x[quarter + 3 : 2 * quarter, quarter : 2 * quarter + 3] = 1.0
    return x


def scan(shape=(SIZE, SIZE), dtype=np.float64, noise=0.05, seed=0, images=()):
    """A problem's operator, data and reference; several images are shifted copies."""
    rng = np.random.default_rng(seed)
    mask = bioperf.masks.radial(shape, 0.4, seed=1)
    x = phantom(shape[0], dtype)
    x = np.stack([np.roll(x, 3 * k, axis=0) for k in range(int(np.prod(images)))]).reshape(*images, *shape)
    A = bioperf.MaskedFourier(mask)
    noisy = (x + noise * rng.standard_normal(x.shape)).astype(dtype)
    return A, A(noisy), x


def problem(reference=True, wavelet=None, isotropic=True, **options):
    A, y, x = scan(**options)
    return bioperf.TVWavelet(A, y, reference=x if reference else None, wavelet=wavelet, isotropic=isotropic)


def same(one, other):
    """The same selection but for the clock."""
    assert one.weights == other.weights and np.array_equal(one.radii, other.radii)
    assert one.x.dtype == other.x.dtype and np.array_equal(one.x, other.x)
    assert one.history.keys() == other.history.keys()
    for name in one.history:
        if name != "seconds":
            np.testing.assert_array_equal(one.history[name], other.history[name], err_msg=name)


@pytest.mark.parametrize("criterion", ["holdout", "supervised"])
@pytest.mark.parametrize("method", DESCENTS)
def test_descents_improve_on_their_start(method, criterion):
    case = problem()
    selection = bioperf.select_hyperparameters(case, method=method, criterion=criterion)
    history = selection.history
    assert selection.best_criterion < 0.95 * history["criterion"][0]
    assert set(selection.weights) == {"wavelet_weight", "tv_weight"} and max(selection.weights.values()) > 0
    assert selection.x.shape == (SIZE, SIZE) and selection.lower_solves >= len(history["trial"])
    assert history["lower_solves"][-1] == selection.lower_solves
    assert history["iterations"][-1] == selection.iterations
    assert selection.metrics["psnr"] == pytest.approx(
        10 * np.log10(case.reference.max() ** 2 / np.mean((selection.x - case.reference) ** 2))
    )
    if method == "bf-dca-faithful":
        assert selection.best_criterion == history["criterion"][-1]
    else:
        assert selection.best_criterion == history["criterion"].min() == history["best"][-1]


@pytest.mark.parametrize("criterion", ["holdout", "supervised"])
def test_bf_dca_is_not_worse_than_a_grid(criterion):
    case = problem()
    ours = bioperf.select_hyperparameters(case, criterion=criterion)
    grid = bioperf.select_hyperparameters(case, method="grid", criterion=criterion, trials=64)
    evaluator = case.evaluator(criterion)
    exact = [evaluator.upper.value(evaluator.lower(s.radii, tol=1e-7).spectrum) for s in (ours, grid)]
    assert exact[0] <= 1.005 * exact[1]
    assert ours.lower_solves < 24


def test_the_images_are_the_lower_level_s_and_feasible():
    """x is x(r), never the subproblem's, which has seen the upper level's data."""
    case = problem()
    for method in DESCENTS:
        selection = bioperf.select_hyperparameters(case, method=method, criterion="supervised")
        evaluator = case.evaluator("supervised")
        assert np.all(evaluator.model.norms(selection.x[None]) <= selection.radii * (1 + 1e-9))
        exact = evaluator.lower(selection.radii, tol=1e-8).x[0]
        assert np.linalg.norm(selection.x - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("method", [*DESCENTS, "grid", "random"])
def test_the_same_bits_for_any_number_of_threads(method):
    options = {"trials": 9} if method in ("grid", "random") else {}
    case = problem(images=(3,), shape=(256, 256), dtype=np.float32, noise=0.2)
    case.max_iter = 30
    runs = [
        bioperf.select_hyperparameters(case, method=method, threads=threads, **_short(method), **options)
        for threads in (1, 2)
    ]
    assert runs[1].threads == 2
    same(*runs)


def _short(method):
    limits = {
        "bf-dca": {"max_outer": 3, "max_refinements": 2, "max_iter": 30},
        "bf-dca-faithful": {"max_outer": 1},
        "hypergradient": {"max_evaluations": 2},
    }
    return limits.get(method, {})


def test_a_batch_has_the_bits_of_single_solves():
    """What is solved beside a problem does not change it, nor does its place among more than fit side by side."""
    evaluator = problem().evaluator("supervised")
    radii = [evaluator.norms * factors for factors in np.random.default_rng(3).uniform(0.2, 1.2, (WIDTH + 3, 2))]
    together = evaluator.evaluate_many(radii)
    for values, trial in zip(radii, together, strict=True):
        alone = evaluator.evaluate(values)
        assert np.array_equal(trial.x, alone.x) and trial.criterion == alone.criterion
        assert trial.iterations == alone.iterations


def test_chains_of_a_batch_are_warm_starts():
    evaluator = problem().evaluator("supervised")
    radii = [evaluator.norms * factor for factor in (0.5, 0.55, 0.6)]
    chained = evaluator.evaluate_many(radii, chains=[[2, 0, 1]])
    state = None
    for k in (2, 0, 1):
        alone = evaluator.evaluate(radii[k], state=state)
        state = alone.state
        assert np.array_equal(chained[k].x, alone.x)
    with pytest.raises(ValueError, match="chains: expected every index below 3 once"):
        evaluator.evaluate_many(radii, chains=[[0, 1]])


@pytest.mark.parametrize("method", DESCENTS)
def test_single_precision(method):
    single = bioperf.select_hyperparameters(problem(dtype=np.float32), method=method, criterion="supervised")
    double = bioperf.select_hyperparameters(problem(), method=method, criterion="supervised")
    assert single.x.dtype == np.float32
    assert single.best_criterion == pytest.approx(double.best_criterion, rel=0.03)


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("wavelet", ["db2", "undecimated", "dct"])
def test_other_transforms(wavelet, isotropic):
    transform = bioperf.Wavelet("db2", 2) if wavelet == "db2" else wavelet
    case = problem(wavelet=transform, isotropic=isotropic)
    selection = bioperf.select_hyperparameters(case, criterion="supervised")
    assert selection.best_criterion < 0.9 * selection.history["criterion"][0]
    applied = selection.apply(case.A, case.y, tol=1e-6)
    assert np.linalg.norm(applied.x - selection.x) < 0.05 * np.linalg.norm(selection.x)


def test_complex_images():
    A, y, x = scan()
    phase = np.exp(0.5j * np.cos(np.arange(SIZE) / 5))
    A = bioperf.MaskedFourier(A.mask, real=False)
    rng = np.random.default_rng(0)
    image = x * phase
    noise = rng.standard_normal((2, SIZE, SIZE))
    y = A(image) + 0.03 * A.mask * (noise[0] + 1j * noise[1])
    case = bioperf.TVWavelet(A, y, reference=image)
    for criterion in ("holdout", "supervised"):
        selection = bioperf.select_hyperparameters(case, criterion=criterion)
        assert selection.x.dtype == np.complex128
        assert selection.best_criterion < 0.9 * selection.history["criterion"][0]


def test_a_blur_is_selected_by_its_reference():
    x = phantom()
    A = bioperf.Blur(np.ones((3, 3)) / 9, x.shape)
    y = A(x) + 0.02 * np.random.default_rng(0).standard_normal(x.shape)
    case = bioperf.TVWavelet(A, y, reference=x)
    selection = bioperf.select_hyperparameters(case, criterion="supervised")
    assert selection.metrics["psnr"] > 3 + 10 * np.log10(1 / np.mean((y - x) ** 2))
    with pytest.raises(TypeError, match="holds out k-space samples, which a blur does not have"):
        bioperf.select_hyperparameters(case)


def test_weights_carry_over_to_other_images_and_radii_do_not():
    case = problem(images=(2,))
    selection = bioperf.select_hyperparameters(case, criterion="supervised")
    A, y, x = scan(seed=5)
    error = bioperf.rlne(selection.apply(A, y).x, x)
    own = bioperf.select_hyperparameters(bioperf.TVWavelet(A, y, reference=x), criterion="supervised")
    assert error < 1.15 * own.metrics["rlne"]
    # radii are sums over the stack
    assert np.all(selection.radii > 1.5 * own.radii)


@pytest.mark.parametrize("scale", [2.0**10, 2.0**-60])
def test_the_scale_of_the_images_does_not_matter(scale):
    A, y, x = scan()
    one, other = (
        bioperf.select_hyperparameters(bioperf.TVWavelet(A, s * y, reference=s * x), criterion="supervised")
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(other.radii, scale * one.radii, rtol=0.02)
    assert other.best_criterion == pytest.approx(scale**2 * one.best_criterion, rel=2e-3)


def test_training_data_as_the_criterion_warn_and_show_the_degeneracy():
    with pytest.warns(UserWarning, match="judges by the data that the lower level fits"):
        selection = bioperf.select_hyperparameters(problem(), method="grid", criterion="degenerate", trials=25)
    history = selection.history
    order = np.argsort(history["wavelet_radius"] * history["tv_radius"])
    # F(r) = v(r): nearly 0 for large radii, whatever the images are worth
    assert history["criterion"][order[-1]] < 1e-3 * history["criterion"][order[0]]
    assert selection.best_criterion < 0.2 * history["criterion"][order[0]]


def test_little_noise_asks_for_a_smaller_tolerance():
    case = problem(noise=0.0)
    case.tol = 1e-3
    with pytest.warns(UserWarning, match="tol: .* pass TVWavelet"):
        bioperf.select_hyperparameters(case, criterion="supervised")


def test_a_start_without_regularisation_says_so():
    case = problem()
    start = 10 * case.evaluator("supervised").norms
    for method in ("bf-dca", "hypergradient"):
        with pytest.raises(ValueError, match="fits the data exactly") as error:
            bioperf.select_hyperparameters(case, method=method, criterion="supervised", start=start)
        assert EXACT_AT_START in str(error.value) and "move start or box" in str(error.value)


@pytest.mark.parametrize("method", DESCENTS)
def test_the_callback_sees_every_row_and_stops(method):
    rows = []

    def watch(row):
        rows.append(row)
        return len(rows) == 2

    selection = bioperf.select_hyperparameters(problem(), method=method, callback=watch)
    assert len(rows) == len(selection.history["trial"]) == 2
    assert "stopped by the callback" in selection.status and not selection.converged
    assert rows[1]["tv_radius"] == selection.history["tv_radius"][1]


def test_holdout_does_not_see_the_validation_and_test_samples():
    case = problem()
    evaluator = case.evaluator("holdout")
    spoiled = np.where(evaluator.split.train, case.y, 1e3)
    other = bioperf.TVWavelet(case.A, spoiled).evaluator("holdout")
    np.testing.assert_array_equal(other.box, evaluator.box)
    np.testing.assert_array_equal(other.evaluate(evaluator.start).x, evaluator.evaluate(evaluator.start).x)


def test_one_and_three_axes():
    rng = np.random.default_rng(0)
    for shape in ((64,), (8, 8, 16)):
        x = np.zeros(shape)
        x[tuple(slice(n // 4, n // 2) for n in shape)] = 1
        mask = rng.random(shape) < 0.6
        mask[(0,) * len(shape)] = True
        A = bioperf.MaskedFourier(mask)
        y = A(x + 0.05 * rng.standard_normal(shape))
        selection = bioperf.select_hyperparameters(bioperf.TVWavelet(A, y, reference=x), criterion="supervised")
        assert selection.x.shape == shape and selection.metrics["rlne"] < bioperf.rlne(A.adjoint(y), x)


def test_the_local_model_finds_the_minimum_of_a_quadratic():
    rng = np.random.default_rng(0)
    for _ in range(20):
        root = rng.standard_normal((2, 2))
        curvature = root @ root.T + 0.2 * np.eye(2)
        goal = rng.uniform(-0.5, 0.5, 2)
        points = rng.uniform(-1.5, 1.5, (12, 2))
        values = 3 + 0.5 * np.einsum("ij,jk,ik->i", points - goal, curvature, points - goal)
        step, predicted = propose(points, values, np.zeros(2), 1.0)
        np.testing.assert_allclose(step, goal, atol=0.06)
        assert predicted == pytest.approx(0.5 * goal @ curvature @ goal, abs=0.02 * curvature.max())


def test_the_local_model_explores_what_it_has_not_seen():
    points = np.stack([np.linspace(-1, 1, 6), np.zeros(6)], axis=1)
    step, predicted = propose(points, points[:, 0] ** 2, np.zeros(2), 0.5)
    assert predicted is None and abs(step[1]) == pytest.approx(0.5) and abs(step[0]) < 1e-9


A, Y, X = scan()
BAD_PROBLEMS = [
    (lambda: bioperf.TVWavelet(A, Y * np.nan), ValueError, "y: .* entries are NaN"),
    (lambda: bioperf.TVWavelet(A, 0 * Y), ValueError, "y: all data are 0"),
    (lambda: bioperf.TVWavelet(A, Y[:-1]), ValueError, "y: expected shape"),
    (lambda: bioperf.TVWavelet(A, Y, reference=X[:-1]), ValueError, "reference: expected shape"),
    (lambda: bioperf.TVWavelet(A, Y, reference=X + np.inf), ValueError, "reference: .* NaN or infinite"),
    (lambda: bioperf.TVWavelet(A, Y, wavelet="no"), ValueError, "no"),
    (lambda: bioperf.TVWavelet(A, Y, tol=0), ValueError, "tol: must be a finite number > 0"),
    (lambda: bioperf.TVWavelet(A, Y, max_iter=1.5), TypeError, "max_iter: expected an integer"),
    (lambda: bioperf.TVWavelet("A", Y), TypeError, "A: expected an operator"),
    (lambda: bioperf.TVWavelet(bioperf.MaskedFourier(np.ones((9, 9))), np.ones((9, 9), complex)), ValueError,
     "wavelet: the Haar basis needs even sizes"),
    (lambda: bioperf.MaskedFourier(np.zeros((8, 8))), ValueError, "no frequency is sampled"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), BAD_PROBLEMS)
def test_unusable_problems_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_several_coils_are_refused_with_advice():
    maps = np.ones((2, SIZE, SIZE), complex) / np.sqrt(2)
    coils = bioperf.MultiCoilFourier(A.mask, maps)
    with pytest.raises(TypeError, match="combine the coils first"):
        bioperf.TVWavelet(coils, np.stack([Y, Y]))


BAD_CALLS = [
    ({"method": "newton"}, ValueError, "method: expected one of 'bf-dca'"),
    ({"criterion": "luck"}, ValueError, "criterion: expected one of 'holdout', 'supervised', 'degenerate'"),
    ({"criterion": "supervised"}, ValueError, "reference: criterion='supervised'"),
    ({"start": (1.0, -2.0)}, ValueError, "radii: must be a finite number >= 0"),
    ({"start": (1.0, 0.0)}, ValueError, "start: the radii to begin at must be > 0"),
    ({"start": (1.0, np.nan)}, ValueError, "radii: must be a finite number"),
    ({"start": (1.0,)}, ValueError, "radii: expected 2 numbers"),
    ({"fractions": (0.8, 0.0, 0.2)}, ValueError, "fractions: the validation part would be empty"),
    ({"fractions": (0.5, 0.2)}, ValueError, "fractions: expected three numbers"),
    ({"calibration": 40}, ValueError, "mask: .* the validation part would be empty"),
    ({"seed": -1}, ValueError, "seed: must be at least 0"),
    ({"method": "grid", "trials": 0}, ValueError, "trials: must be at least 1"),
    ({"method": "grid", "box": [(2, 1), (1, 2)]}, ValueError, "box: wavelet_radius needs low < high"),
    ({"method": "grid", "start": (1, 1)}, ValueError, "start: is for method 'bf-dca' or"),
    ({"method": "grid", "storage": "sqlite://"}, ValueError, "storage: is for method 'tpe', not 'grid'"),
    ({"batched": True}, ValueError, "batched: is for method 'grid' or 'random', not 'bf-dca'"),
    ({"n_jobs": 2}, ValueError, "n_jobs: is for method 'tpe'"),
    ({"method": "sure"}, ValueError, "noise_std: method='sure' needs the noise level"),
    ({"method": "discrepancy", "noise_std": -1}, ValueError, "noise_std: must be a finite number > 0"),
    ({"callback": 3}, TypeError, "callback: expected a function"),
    ({"threads": 0}, ValueError, "threads: must be at least 1"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_unusable_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        bioperf.select_hyperparameters(problem(reference=False), **arguments)


def test_methods_and_problems_that_do_not_go_together():
    blur = bioperf.Blur(np.ones((3, 3)) / 9, X.shape)
    weight = bioperf.TVWeight(blur, X, reference=X)
    with pytest.raises(TypeError, match="'bf-dca' is for TVWavelet, not TVWeight"):
        bioperf.select_hyperparameters(weight, criterion="supervised")
    relaxation = bioperf.BIORelaxation(blur, X, reference=X)
    with pytest.raises(TypeError, match="'sure' is for TVWeight and TVWavelet"):
        bioperf.select_hyperparameters(relaxation, method="sure", noise_std=0.1)
    with pytest.raises(TypeError, match="problem: expected TVWavelet, TVWeight or BIORelaxation"):
        bioperf.select_hyperparameters(X)


@pytest.mark.parametrize("radii", [(-1.0, 1.0), (np.nan, 1.0), (1.0, np.inf), (1.0, 1.0, 1.0), ("a", 1.0)])
def test_radii_are_checked(radii):
    with pytest.raises((ValueError, TypeError), match="radii: "):
        problem().evaluator("supervised").evaluate(radii)


def test_the_constrained_and_the_penalised_model_of_a_problem():
    case = problem(images=(2,))
    case.tol = 1e-8
    radii = 0.6 * case.evaluator("supervised").norms
    one = case.constrained(radii)
    assert one.x.shape == case.reference.shape and one.converged
    assert 0 <= one.value - one.lower_bound <= 1e-8 * 0.5 * np.linalg.norm(case.y) ** 2
    assert np.all(one.norms <= radii * (1 + 1e-9)) and np.all(one.multipliers > 0)
    # the multipliers are the weights of the penalised model with the same solution
    other = case.penalised(one.multipliers, state=one.state)
    np.testing.assert_allclose(other.norms, radii, rtol=1e-3)
    np.testing.assert_allclose(other.x, one.x, atol=2e-3)
    solution = bioperf.solve_lower(
        case.A, case.y[0], one.multipliers[1], wavelet_weight=one.multipliers[0], wavelet=case.wavelet, isotropic=True,
        tol=1e-7, max_iter=20000,
    )  # fmt: skip
    np.testing.assert_allclose(other.x[0], solution.x, atol=2e-3)
    # a neighbour starts from the state
    assert case.constrained(1.01 * radii, state=one.state).iterations < case.constrained(1.01 * radii).iterations
    with pytest.raises(ValueError, match="weights: expected 2 numbers"):
        case.penalised((1.0,))


def test_radii_of_zero_leave_the_zero_image():
    trial = problem().evaluator("supervised").evaluate((0.0, 0.0))
    assert trial.converged and not trial.x.any()
