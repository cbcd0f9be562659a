"""Choices of one weight, or of the relaxation: unbiased estimates, residuals reached, and what is refused."""

import numpy as np
import pytest

from bioperf import (
    Blur,
    MaskedFourier,
    MultiCoilFourier,
    Wavelet,
    masks,
    reconstruct_mri,
    solve_bio,
    solve_lower,
)
from bioperf.coils import simulate_maps
from bioperf.deblurring import default_tv_weight
from bioperf.selection.baselines import discrepancy, sure
from bioperf.selection.criteria import split_samples
from bioperf.selection.relaxation import BIORelaxation, TVWeight
from bioperf.selection.result import Recorder

SHAPE = (32, 32)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def picture(shape=SHAPE):
    """Ellipses of different brightness, in [0, 1]."""
    r, c = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    x = np.zeros(shape)
    for value, row, column, height, width in (
        (0.5, 0, 0, 0.8, 0.7), (0.3, -0.2, 0.2, 0.3, 0.2), (-0.3, 0.3, -0.2, 0.2, 0.3), (0.2, 0.4, 0.3, 0.1, 0.1),
    ):  # fmt: skip
        x[((r - row) / height) ** 2 + ((c - column) / width) ** 2 < 1] += value
    return x


def complex_noise(shape, std, rng):
    return std / np.sqrt(2) * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


class Kept(Recorder):
    """A recorder that keeps the trials themselves."""

    def __init__(self, names=("tv_weight",), **options):
        super().__init__(names, **options)
        self.trials = []

    def add(self, trial, **options):
        self.trials.append(trial)
        return super().add(trial, **options)


class WaveletProblem:
    """What the baselines use of a TV and wavelet problem."""

    names = ("wavelet_radius", "tv_radius")

    def __init__(self, A, y, reference=None, isotropic=True):
        self.A, self.y, self.reference, self.isotropic = A, A.check_data("y", y), reference, isotropic
        self.wavelet, self.tol, self.max_iter = Wavelet("haar", 3), 1e-4, 2000


BOX = Blur(np.full((3, 3), 1 / 9), SHAPE)
OPERATORS = {
    "denoising": Blur(np.ones((1, 1)), SHAPE),
    "blur": BOX,
    "kspace": MaskedFourier(masks.gaussian(SHAPE, 0.5)),
    "radial": MaskedFourier(masks.radial(SHAPE, 0.4, centred=True), centred=True),
    "complex": MaskedFourier(masks.gaussian(SHAPE, 0.5), real=False),
    "coils": MultiCoilFourier(masks.gaussian(SHAPE, 0.4), simulate_maps(SHAPE, 3).astype(np.complex128)),
}


def observed(name, std, seed, dtype=np.float64, batch=()):
    """Operator, data and true image, with the noise that the module's conventions say."""
    rng, A = np.random.default_rng(seed), OPERATORS[name]
    x = np.broadcast_to(picture(), (*batch, *SHAPE))
    if isinstance(A, Blur):
        y = A(x) + std * rng.standard_normal(x.shape)
    elif A.real:
        y = A(x + std * rng.standard_normal(x.shape))
    else:
        y = A(x) + A.mask * complex_noise((*batch, *A.data_shape), std, rng)
    return A, y.astype(np.result_type(dtype, np.complex64) if y.dtype.kind == "c" else dtype), x.astype(dtype)


# --- Stein's unbiased risk estimate -----------------------------------------------------------


@pytest.mark.parametrize("weight", [0.01, 0.04])
@pytest.mark.parametrize("name", OPERATORS)
def test_sure_is_the_predicted_risk_on_average(name, weight):
    """Over noise and probe its mean is the true risk's, within the standard error of the mean difference."""
    std, seeds = 0.05, 12
    differences, risks = [], []
    for seed in range(seeds):
        A, y, x = observed(name, std, seed)
        recorder = Kept()
        box = (weight, 1.2 * weight)
        sure(TVWeight(A, y, isotropic=True), recorder, noise_std=std, seed=100 + seed, box=box, trials=3)
        first = recorder.trials[0]
        assert first.weights["tv_weight"] == pytest.approx(weight)
        risks.append(np.linalg.norm(A(first.x) - A(x)) ** 2)
        differences.append(first.criterion - risks[-1])
    error = np.std(differences, ddof=1) / np.sqrt(seeds)
    assert abs(np.mean(differences)) < 3 * error
    # and the standard error is small enough for that to say something: the terms are about |noise|^2 in size
    assert error < 0.03 * std**2 * (y.size if isinstance(A, Blur) else np.broadcast_to(A.mask, y.shape).sum())


def test_sure_finds_the_weight_of_least_risk():
    """Also where the noise was simulated from the seed that the probe is given."""
    std = 0.05
    A, y, x = observed("denoising", std, 0)
    problem = TVWeight(A, y, reference=x, isotropic=True)
    recorder = Kept()
    trial, status = sure(problem, recorder, noise_std=std)
    assert status.startswith("converged") and trial is recorder.best
    assert trial.criterion == min(recorder.history()["criterion"])
    weights = np.geomspace(0.3, 3, 25) * trial.weights["tv_weight"]
    risks = [np.linalg.norm(solve_lower(A, y, s, isotropic=True).x - x) ** 2 for s in weights]
    assert np.linalg.norm(trial.x - x) ** 2 <= 1.03 * min(risks)
    assert np.linalg.norm(trial.x - x) == pytest.approx(trial.metrics["rlne"] * np.linalg.norm(x))
    history = recorder.history()
    assert history["lower_solves"][-1] == 2 * len(history["trial"])
    assert {"rlne", "psnr", "nre"} <= history.keys()


def test_sure_is_the_same_for_any_number_of_threads_and_differs_by_seed():
    A, y, _ = observed("kspace", 0.05, 0)
    found = []
    for seed, threads in ((0, 1), (0, 3), (1, 1)):
        recorder = Kept()
        trial, _ = sure(TVWeight(A, y), recorder, noise_std=0.05, seed=seed, threads=threads, trials=16)
        found.append((recorder.history()["criterion"], trial.x))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert not np.array_equal(found[0][0], found[2][0])


def test_sure_says_when_the_box_or_the_trials_end_it():
    A, y, _ = observed("denoising", 0.05, 0)
    problem = TVWeight(A, y)
    _, status = sure(problem, Kept(), noise_std=0.05, box=(1e-4, 1e-3))
    assert status.startswith("not converged: SURE is least at the end of the box")
    recorder = Kept()
    _, status = sure(problem, recorder, noise_std=0.05, trials=5)
    assert status == "not converged: trial limit 5 reached" and len(recorder.trials) == 5


# --- the discrepancy principle ----------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("name", OPERATORS)
def test_the_residual_is_that_of_the_noise(name, dtype):
    std = 0.05
    A, y, x = observed(name, std, 0, dtype)
    recorder = Kept()
    trial, status = discrepancy(TVWeight(A, y, reference=x), recorder, noise_std=std)
    count = y.size if isinstance(A, Blur) else np.broadcast_to(A.mask, y.shape).sum()
    assert np.linalg.norm(A(trial.x) - y) == pytest.approx(std * np.sqrt(count), rel=1.1e-3)
    assert status.startswith("converged") and trial.criterion <= 1e-3
    assert trial.x.dtype == (y.dtype if name in ("complex", "coils") else dtype)
    assert len(recorder.trials) < 15
    weights, residuals = (recorder.history()[column] for column in ("tv_weight", "nre"))
    assert (np.diff(residuals[np.argsort(weights)]) >= 0).all()


def test_a_stack_has_one_weight_and_one_residual():
    A, y, _ = observed("blur", 0.03, 0, batch=(3,))
    trial, _ = discrepancy(TVWeight(A, y), Kept(), noise_std=0.03)
    assert trial.x.shape == (3, *SHAPE)
    assert np.linalg.norm(A(trial.x) - y) == pytest.approx(0.03 * np.sqrt(y.size), rel=1.1e-3)
    apart = [np.linalg.norm(A(x) - z) / (0.03 * np.sqrt(z.size)) for x, z in zip(trial.x, y, strict=True)]
    assert max(apart) - min(apart) > 1e-3


def test_data_that_no_real_image_has_count_as_their_nearest():
    mask = masks.radial(SHAPE, 0.5)
    A, rng = MaskedFourier(mask), np.random.default_rng(0)
    y = A(picture()) + mask * complex_noise(SHAPE, 0.05, rng)
    mirror = np.roll(np.flip(y), 1, (0, 1)).conj()
    symmetric = np.where(mask & np.roll(np.flip(mask), 1, (0, 1)), (y + mirror) / 2, y)
    assert np.linalg.norm(y - symmetric) > 0.5
    one, other = (discrepancy(TVWeight(A, z), Kept(), noise_std=0.05 / np.sqrt(2))[0] for z in (y, symmetric))
    # within the tolerances of the solves and of the residual
    assert one.weights["tv_weight"] == pytest.approx(other.weights["tv_weight"], rel=5e-3)
    np.testing.assert_allclose(one.x, other.x, atol=2e-3)


@pytest.mark.parametrize("method", [discrepancy, sure])
def test_a_wavelet_problem_varies_a_common_factor(method):
    A, y, x = observed("kspace", 0.05, 0)
    problem = WaveletProblem(A, y, x)
    recorder = Kept(problem.names)
    trial, status = method(problem, recorder, noise_std=0.05, ratio=0.5)
    assert status.startswith("converged")
    s = trial.weights["tv_weight"]
    assert trial.weights == {"wavelet_weight": 0.5 * s, "tv_weight": s}
    again = solve_lower(A, y, s, wavelet_weight=0.5 * s, wavelet=problem.wavelet, isotropic=True, tol=1e-5).x
    np.testing.assert_allclose(trial.x, again, atol=2e-2)
    # the parameters are the radii of the constrained model that has the same solution
    field = [np.roll(trial.x, -1, axis) - trial.x for axis in (0, 1)]
    radii = np.abs(problem.wavelet.forward(trial.x)).sum(), np.sqrt(field[0] ** 2 + field[1] ** 2).sum()
    np.testing.assert_allclose(trial.values, radii, rtol=1e-10)
    if method is discrepancy:
        assert np.linalg.norm(A(trial.x) - y) == pytest.approx(0.05 * np.sqrt(A.mask.sum()), rel=1.1e-3)


def test_discrepancy_says_when_the_residual_is_out_of_reach():
    A, y, _ = observed("blur", 0.03, 0)
    problem = TVWeight(A, y)
    _, status = discrepancy(problem, Kept(), noise_std=10.0)
    assert status.startswith("not converged: at the largest weight") and "noise_std is too large" in status
    trial, status = discrepancy(problem, Kept(), noise_std=0.03, box=(1.0, 2.0))
    assert status.startswith("not converged: at the smallest weight")
    assert trial.weights["tv_weight"] == pytest.approx(1.0)
    _, status = discrepancy(problem, Kept(), noise_std=0.03, trials=2, box={"tv_weight": (1e-5, 1.0)})
    assert status == "not converged: trial limit 2 reached"


@pytest.mark.parametrize("method", [discrepancy, sure])
def test_the_callback_stops_a_baseline(method):
    A, y, _ = observed("blur", 0.03, 0)
    recorder = Kept(callback=lambda row: row["trial"] == 2)
    trial, status = method(TVWeight(A, y), recorder, noise_std=0.03)
    assert status == "stopped by the callback at trial 2" and len(recorder.trials) == 2
    assert trial is recorder.best


@pytest.mark.parametrize("method", [discrepancy, sure])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise_std": -0.1}, ValueError, "noise_std: must be a finite number > 0"),
        ({"noise_std": 0.0}, ValueError, "noise_std: must be a finite number > 0"),
        ({"noise_std": float("nan")}, ValueError, "noise_std: must be a finite number"),
        ({"noise_std": None}, TypeError, "noise_std: expected a number"),
        ({"box": (2.0, 1.0)}, ValueError, "box: tv_weight needs low < high"),
        ({"box": (0.0, 1.0)}, ValueError, "box: lowest tv_weight"),
        ({"box": (1.0, 2.0, 3.0)}, ValueError, "box: expected a pair"),
        ({"box": {"weight": (1.0, 2.0)}}, ValueError, "box: the one parameter here is 'tv_weight'"),
        ({"trials": 0}, ValueError, "trials: must be at least"),
        ({"threads": 0}, ValueError, "threads: must be at least 1"),
    ],
)
def test_unusable_arguments_are_named(method, options, error, message):
    A, y, _ = observed("blur", 0.03, 0)
    with pytest.raises(error, match=message):
        method(TVWeight(A, y), Kept(), **{"noise_std": 0.03} | options)


# --- the weight as a parameter ----------------------------------------------------------------


@every_dtype
def test_the_best_supervised_weight_beats_the_default_rule(dtype):
    A, y, x = observed("blur", 0.02, 0, dtype)
    evaluator = TVWeight(A, y, reference=x, isotropic=True).evaluator("supervised")
    assert evaluator.names == ("tv_weight",) and evaluator.box.shape == (1, 2)
    (low, high), (start,) = evaluator.box[0], evaluator.start
    assert start == pytest.approx(np.sqrt(low * high)) and high / low == pytest.approx(1e3)
    trials = evaluator.evaluate_many(np.geomspace(low, high, 13)[:, None])
    best = min(trials, key=lambda trial: trial.criterion)
    rule = evaluator.evaluate([default_tv_weight(0.02, float(np.ptp(y)))])
    assert best.criterion < rule.criterion and best.metrics["rlne"] < rule.metrics["rlne"]
    assert best.criterion == pytest.approx(0.5 * np.sum((best.x - x).astype(float) ** 2))
    assert best.x.dtype == dtype and best.converged and best.lower_solves == 1
    solution = solve_lower(A, y, best.values[0], isotropic=True)
    np.testing.assert_array_equal(best.x, solution.x)
    assert best.iterations == solution.iterations


@pytest.mark.parametrize("name", ["kspace", "radial", "complex", "coils"])
def test_held_out_samples_judge_an_image_that_has_not_seen_them(name):
    A, y, _ = observed(name, 0.05, 0)
    evaluator = TVWeight(A, y).evaluator("holdout", seed=3, fractions=(0.6, 0.2, 0.2), calibration=2)
    split = split_samples(A.mask, seed=3, fractions=(0.6, 0.2, 0.2), calibration=2, centred=A.centred, paired=A.real)
    spoiled = y.copy()
    spoiled[..., ~split.train] = 7
    blind = TVWeight(A, spoiled).evaluator("holdout", seed=3, fractions=(0.6, 0.2, 0.2), calibration=2)
    trial = evaluator.evaluate([0.01])
    np.testing.assert_array_equal(trial.x, blind.evaluate([0.01]).x)
    data = A(trial.x)
    held = [np.linalg.norm((data - y)[..., part]) for part in (split.validation, split.test, split.train)]
    assert trial.criterion == pytest.approx(0.5 * held[0] ** 2)
    sizes = [np.linalg.norm(y[..., part]) for part in (split.validation, split.test, split.train)]
    for column, error, size in zip(("validation_error", "test_error", "nre"), held, sizes, strict=True):
        assert trial.metrics[column] == pytest.approx(error / size)
    assert "rlne" not in trial.metrics
    # neither the largest weight nor the smallest is best
    curve = [trial.criterion for trial in evaluator.evaluate_many(np.geomspace(*evaluator.box[0], 9)[:, None])]
    assert 0 < np.argmin(curve) < 8


def test_chains_are_warm_starts_and_threads_change_nothing():
    A, y, x = observed("kspace", 0.05, 0, batch=(2,))
    evaluator = TVWeight(A, y, reference=x).evaluator("supervised")
    values = np.geomspace(0.003, 0.03, 6)[:, None]
    chains = [[0, 1, 2], [5, 4, 3]]
    one, three = (evaluator.evaluate_many(values, chains=chains, threads=threads) for threads in (1, 3))
    for first, second in zip(one, three, strict=True):
        np.testing.assert_array_equal(first.x, second.x)
        assert (first.criterion, first.iterations) == (second.criterion, second.iterations)
    warm = evaluator.evaluate(values[1], state=one[0].state)
    np.testing.assert_array_equal(warm.x, one[1].x)
    cold = evaluator.evaluate(values[1])
    assert warm.criterion == pytest.approx(cold.criterion, rel=1e-2) and not np.array_equal(warm.x, cold.x)
    apart = [TVWeight(A, y[k], reference=x[k]).evaluator("supervised").evaluate(values[1]) for k in (0, 1)]
    np.testing.assert_array_equal(cold.x, np.stack([trial.x for trial in apart]))
    assert cold.criterion == pytest.approx(sum(trial.criterion for trial in apart))
    assert cold.iterations == sum(trial.iterations for trial in apart)
    with pytest.raises(ValueError, match="chains: expected every index below 6 once"):
        evaluator.evaluate_many(values, chains=[[0, 1]])


def test_a_trial_that_the_callback_ends_is_pruned():
    A, y, x = observed("kspace", 0.05, 0, batch=(2,))
    evaluator = TVWeight(A, y, reference=x).evaluator("supervised")
    seen = []

    def give_up_after(limit):
        def call(iterations, criterion):
            seen.append((iterations, criterion))
            return iterations >= limit

        return call

    whole = evaluator.evaluate([0.01], callback=give_up_after(10**6))
    assert not whole.pruned and whole.criterion == pytest.approx(seen[-1][1])
    assert seen[-1][0] == whole.iterations and [k for k, _ in seen] == sorted(k for k, _ in seen)
    np.testing.assert_array_equal(whole.x, evaluator.evaluate([0.01]).x)
    seen.clear()
    half = evaluator.evaluate([0.01], callback=give_up_after(whole.iterations - 5))
    assert half.pruned and not half.admissible and half.criterion == pytest.approx(seen[-1][1])


def test_a_fingerprint_changes_with_data_and_criterion():
    A, y, x = observed("kspace", 0.05, 0)

    def fingerprint(y=y, criterion="holdout", seed=0, **options):
        return TVWeight(A, y, reference=x, **options).evaluator(criterion, seed=seed).fingerprint

    assert fingerprint() == fingerprint(y.copy())
    others = [fingerprint(seed=1), fingerprint(criterion="supervised"), fingerprint(2 * y), fingerprint(isotropic=True)]
    assert len({fingerprint(), *others}) == 5


@pytest.mark.parametrize(
    ("name", "criterion", "reference", "message"),
    [
        ("blur", "holdout", True, 'criterion: "holdout" sets samples of k-space aside, and a blurred image has none'),
        ("blur", "supervised", False, 'reference: criterion "supervised" needs the true images'),
        ("kspace", "degenerate", True, "criterion: expected one of 'holdout', 'supervised'"),
    ],
)
def test_a_criterion_that_the_problem_does_not_have(name, criterion, reference, message):
    A, y, x = observed(name, 0.05, 0)
    with pytest.raises(ValueError, match=message):
        TVWeight(A, y, reference=x if reference else None).evaluator(criterion)


def test_unusable_problems_are_refused():
    A, y, x = observed("blur", 0.05, 0)
    broken = y.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"y: 1 entries are NaN or infinite, the first at index \(3, 4\)"):
        TVWeight(A, broken)
    with pytest.raises(ValueError, match="reference: 1 entries are NaN"):
        TVWeight(A, y, reference=broken)
    with pytest.raises(ValueError, match=r"reference: expected shape \(32, 32\), got \(16, 32\)"):
        TVWeight(A, y, reference=x[:16])
    with pytest.raises(TypeError, match="A: expected an operator"):
        TVWeight(np.eye(32), y)
    with pytest.raises(ValueError, match="tol: must be"):
        TVWeight(A, y, tol=0.0)
    evaluator = TVWeight(A, y, reference=x).evaluator()
    with pytest.raises(ValueError, match="values: must be a finite number > 0"):
        evaluator.evaluate([0.0])
    with pytest.raises(ValueError, match="values: expected 1 numbers"):
        evaluator.evaluate([0.1, 0.1])


@every_dtype
def test_flat_and_noise_free_data_have_a_box(dtype):
    flat = np.full(SHAPE, 0.5, dtype)
    for problem in (TVWeight(BOX, flat), TVWeight(OPERATORS["kspace"], OPERATORS["kspace"](flat))):
        (low, high), (start,) = problem.box[0], problem.start
        assert 0 < low < start < high < np.inf


# --- epsilon and kappa ------------------------------------------------------------------------


def test_a_grid_over_epsilon_and_kappa():
    """The best of three by three by hand beats the default-like corner, each trial being solve_bio's."""
    A, y, x = observed("blur", 0.02, 0)
    calls = []

    def target(image):
        calls.append(image)
        return 0.2 * image + 0.8 * x

    problem = BIORelaxation(A, y, reference=x, target=target, tv_weight=2e-3)
    evaluator = problem.evaluator("supervised")
    assert evaluator.names == ("epsilon", "kappa")
    lower = solve_lower(A, y, 2e-3, isotropic=True)
    np.testing.assert_array_equal(problem.lower.x, lower.x)
    residual = np.linalg.norm(A(lower.x) - y)
    np.testing.assert_allclose(evaluator.box, [[0.01 * residual, 1.5 * residual], [1e-3, 1.0]])
    assert (evaluator.box[:, 0] < evaluator.start).all() and (evaluator.start < evaluator.box[:, 1]).all()
    axes = [np.geomspace(*bounds, 3) for bounds in evaluator.box]
    points = [(epsilon, kappa) for epsilon in axes[0] for kappa in axes[1]]
    trials = evaluator.evaluate_many(points)
    assert len(calls) == 1
    for (epsilon, kappa), trial in zip(points, trials, strict=True):
        assert trial.weights == {"epsilon": epsilon, "kappa": kappa} and trial.converged
        assert np.linalg.norm(A(trial.x) - A(lower.x)) <= epsilon + 1e-3 * np.linalg.norm(y)
        assert trial.criterion == pytest.approx(0.5 * np.linalg.norm(trial.x - x) ** 2)
    direct = solve_bio(
        A,
        y,
        target=0.2 * y + 0.8 * x,
        tv_weight=2e-3,
        lower=lower,
        isotropic=True,
        epsilon=points[4][0],
        kappa=points[4][1],
    )
    np.testing.assert_array_equal(trials[4].x, direct.x)
    # a target this good is worth following further than the least relaxation does
    best = min(trials, key=lambda trial: trial.criterion)
    assert best.criterion < 0.7 * trials[0].criterion
    assert best.criterion < 0.5 * np.linalg.norm(lower.x - x) ** 2
    arguments = problem.bio_arguments
    solution = solve_bio(A, y, epsilon=points[4][0], kappa=points[4][1], **arguments)
    np.testing.assert_allclose(solution.x, direct.x, atol=1e-6)


def test_a_stack_shares_epsilon_and_kappa():
    A, y, x = observed("blur", 0.02, 0, batch=(2,))
    evaluator = BIORelaxation(A, y, reference=x, target="nlm").evaluator()
    residuals = [np.linalg.norm(A(xbar) - z) for xbar, z in zip(evaluator._problem.lower.x, y, strict=True)]
    assert evaluator.box[0, 1] == pytest.approx(1.5 * np.sqrt(np.mean(np.square(residuals))))
    trial = evaluator.evaluate(evaluator.start)
    apart = [
        BIORelaxation(A, y[k], reference=x[k], target="nlm", **model).evaluator().evaluate(evaluator.start)
        for k in (0, 1)
        for model in [{"tv_weight": evaluator._problem.tv_weight, "noise_std": evaluator._problem.noise_std}]
    ]
    np.testing.assert_array_equal(trial.x, np.stack([item.x for item in apart]))
    assert trial.criterion == pytest.approx(sum(item.criterion for item in apart))
    warm = evaluator.evaluate(1.1 * evaluator.start, state=trial.state)
    assert warm.criterion == pytest.approx(evaluator.evaluate(1.1 * evaluator.start).criterion, rel=0.02)


@pytest.mark.parametrize("name", ["kspace", "complex", "coils"])
def test_the_lower_level_of_kspace_is_that_of_reconstruct_mri(name):
    A, y, x = observed(name, 0.02, 0)
    problem = BIORelaxation(A, y, reference=x, target="identity", transform="haar", sparsity_weight=1e-3)
    evaluator = problem.evaluator()
    trial = evaluator.evaluate(evaluator.start)
    assert np.isfinite(trial.criterion) and trial.x.shape == SHAPE
    if name != "coils":
        details = reconstruct_mri(y, A.mask, real=A.real, max_iter=1, rounds=1).details
        assert problem.tv_weight == pytest.approx(details["tv_weight"])
        np.testing.assert_allclose(problem.lower.x, details["lower_image"], atol=5e-3)
    plain = BIORelaxation(A, y, reference=x, tv_weight=1e-3)
    np.testing.assert_array_equal(plain.evaluator()._problem.lower.x, solve_lower(A, y, 1e-3, isotropic=True).x)


def test_unusable_relaxations_are_refused():
    A, y, x = observed("blur", 0.02, 0)
    with pytest.raises(ValueError, match="reference: epsilon and kappa are chosen by the distance"):
        BIORelaxation(A, y, reference=None)
    with pytest.raises(TypeError, match="rho: not an option of BIORelaxation; these are eta,"):
        BIORelaxation(A, y, reference=x, rho=1.0)
    with pytest.raises(ValueError, match="tv_weight: must be a finite number > 0"):
        BIORelaxation(A, y, reference=x, tv_weight=-1.0)
    with pytest.raises(ValueError, match="target: expected one of 'nlm'"):
        BIORelaxation(A, y, reference=x, target="mean")
    with pytest.raises(ValueError, match='criterion: BIORelaxation has "supervised" alone'):
        BIORelaxation(A, y, reference=x).evaluator("holdout")
