"""Learned iterations: what the check guarantees for any proposals, the unrolled iteration, and its training."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage import data
from test_bio import DTYPES, scene

from bioperf import MaskedFourier, MultiCoilFourier, solve_bio, solve_lower
from bioperf._safeguard import DECREASE, REACH, LearnedProblem, Safeguard
from bioperf.io.errors import InputError
from bioperf.learning.stages import LearnedStages, features
from bioperf.learning.unrolled import UnrolledBall, proposes, stage_problem, train_stages

PENALTIES = (3.0, 60.0)
ALWAYS = 10**6

every_tv = pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Proposer:
    """The protocol, with fixed penalties and relaxation, and ``propose`` a function of the state."""

    def __init__(self, propose=lambda state: None, stages=ALWAYS, penalties=None, relaxation=1.6):
        self.propose, self.stages = propose, stages
        self.penalties = lambda k: penalties
        self.relaxation = lambda k: relaxation


@functools.cache
def small(isotropic=True, shape=(24, 26), epsilon=0.05):
    A, y, _ = scene(shape)
    return stage_problem(A, y, target="deconv", tv_weight=1e-3, epsilon=epsilon, isotropic=isotropic, tol=1e-5)


def solve(p, learned=None, dtype=np.float64, **options):
    options = {"penalties": PENALTIES, "tol": 1e-6, "max_iter": 3000, "isotropic": p.isotropic} | options
    arrays = {"target": p.target.astype(dtype), "lower": p.x0.astype(dtype)}
    options = {"tv_weight": 1e-3, "epsilon": p.epsilon, "learned": learned} | options
    return solve_bio(p.A, p.ybar.astype(dtype), **arrays, **options)


# --- the operator ---------------------------------------------------------------------------


def square_distance(ball, penalties, first, second):
    (q, r), (other_q, other_r) = first, second
    field = ((q - other_q) ** 2).sum((1, 2, 3))
    return penalties[0] * field + penalties[1] * ball.square_norm(r - other_r)


@every_tv
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_the_iteration_is_averaged_and_its_residual_does_not_grow(isotropic, epsilon):
    ball = UnrolledBall([small(isotropic, (15, 14), epsilon)])
    rng, a = np.random.default_rng(0), 1.6
    b = [torch.tensor([value]).double() for value in PENALTIES]

    def random(size):
        q = torch.from_numpy(size * rng.standard_normal((1, 2, *ball.shape)))
        return q, torch.fft.rfft2(torch.from_numpy(size * rng.standard_normal((1, *ball.shape))), norm="forward")

    for size in (1e-2, 1.0, 30.0):
        first, second = random(size), random(size)
        images = [ball.apply(*z, *b, a)[1:] for z in (first, second)]
        moved = [
            [new - old for new, old in zip(*pair, strict=True)] for pair in zip(images, (first, second), strict=True)
        ]
        before = square_distance(ball, b, first, second)
        after = square_distance(ball, b, *images) + (2 - a) / a * square_distance(ball, b, *moved)
        assert after <= before * (1 + 1e-12)

    z, last = random(1.0), np.inf
    for _ in range(30):
        following = ball.apply(*z, *b, a)[1:]
        residual = float(square_distance(ball, b, following, z))
        assert residual <= last * (1 + 1e-12)
        z, last = following, residual


# --- the check ------------------------------------------------------------------------------


def test_safeguard_conditions_and_pauses():
    guard, weights = Safeguard(), (4.0, 0.0, 1.0)
    assert not guard.open()  # nothing to compare with yet
    guard.plain((1.0, 5.0, 0.0))  # norm 2
    assert guard.open() and guard.reachable((0.0, 0.0, (2 * REACH) ** 2), weights)
    assert guard.settles(((0.99 * DECREASE) ** 2, 0.0, 0.0), weights)
    # the next has less far to go, and must be below the last
    assert not guard.reachable((0.0, 0.0, (2 * REACH) ** 2), weights)
    waits = [guard.open()]
    assert guard.open() and guard.reachable((0.0, 0.0, 0.0), weights)
    assert not guard.settles(((0.99 * DECREASE) ** 2, 0.0, 0.0), weights)
    waits += [guard.open(), guard.open()]
    assert guard.open() and not guard.reachable((np.nan, 0.0, 0.0), weights)
    waits += [guard.open() for _ in range(4)]
    assert not any(waits) and guard.open()
    assert (guard.proposed, guard.kept) == (4, 1)


def test_without_proposals_the_bits_are_those_of_the_plain_method():
    p = small()
    for options in ({}, {"penalties": None}):
        plain = solve(p, **options)
        learned = solve(p, Proposer(stages=7), **options)
        assert np.array_equal(plain.x, learned.x) and plain.iterations == learned.iterations
        assert learned.details["learned"] == {"proposed": 0, "kept": 0, "stages": 7}
        assert "learned" not in plain.details


def test_a_rejected_proposal_costs_one_iteration_and_nothing_else():
    p, rng = small(), np.random.default_rng(1)
    noise = rng.standard_normal((2, *p.A.shape))
    bad = Proposer(lambda state: (state.q + 0.01 * noise, state.residual), stages=8)
    far = Proposer(lambda state: (1e6 * noise, None), stages=8)
    # proposals at iterations 2, 4 and 7: the pauses are 1, 2 and 4
    for learned, lost in ((bad, 3), (far, 0)):
        solution = solve(p, learned, max_iter=20, tol=1e-12)
        assert solution.details["learned"] == {"proposed": 3, "kept": 0, "stages": 8}
        assert np.array_equal(solution.x, solve(p, max_iter=20 - lost, tol=1e-12).x)


def hostile(kind):
    rng = np.random.default_rng(2)

    def propose(state):
        step_q, step_r = state.q - state.previous_q, state.residual - state.previous_residual
        size = np.sqrt(np.mean(step_q**2))
        if kind == "noise":
            return state.q + size * rng.standard_normal(state.q.shape), state.residual
        if kind == "backwards":
            return state.q - step_q, state.residual - step_r
        if kind == "sign":
            return -state.q, -state.residual
        if kind == "nan":
            return np.full_like(state.q, np.nan), state.residual
        if kind == "infinite residual":
            return None, np.full_like(state.residual, np.inf)
        if kind == "huge":
            return np.full_like(state.q, np.finfo(state.q.dtype).max), state.residual
        if kind == "constant drift":
            return state.q + state.q.dtype.type(1e-3 * size), state.residual
        if kind == "overshoot":
            return state.q + 3 * step_q, state.residual + 3 * step_r
        if kind == "not of a real image":
            return None, state.residual * state.residual.dtype.type(1 + 0.01j)
        return np.zeros_like(state.q), np.zeros_like(state.residual)

    return Proposer(propose)


KINDS = (
    "noise", "backwards", "sign", "nan", "infinite residual", "huge", "constant drift", "overshoot",
    "not of a real image", "zero",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_proposals_do_not_change_the_solution(kind):
    p = small()
    for dtype, tol, close in ((np.float64, 1e-6, 1e-5), (np.float32, 1e-4, 1e-3)):
        plain, solution = (solve(p, learned, dtype, tol=tol) for learned in (None, hostile(kind)))
        assert solution.converged, solution.status
        assert solution.details["learned"]["proposed"] > 0
        assert np.linalg.norm(solution.x - plain.x) <= close * np.linalg.norm(plain.x)
        # pauses double: few iterations are lost
        assert solution.iterations <= 1.5 * plain.iterations + 10


def oracle(p, **options):
    """The fields after many iterations, as a proposal for the second one."""
    last = {}

    def remember(state):
        last["z"] = state.q.copy(), state.residual.copy()

    solve(p, Proposer(remember), max_iter=1500, tol=1e-13, **options)
    return Proposer(lambda state: last["z"] if state.iteration == 2 else None)


@every_tv
def test_a_good_proposal_is_kept_and_saves_iterations(isotropic):
    p = small(isotropic)
    plain, solution = solve(p), solve(p, oracle(p))
    assert solution.details["learned"] == {"proposed": 1, "kept": 1, "stages": ALWAYS}
    assert solution.converged and solution.iterations == 10 < plain.iterations / 2
    np.testing.assert_allclose(solution.x, solve(p, tol=1e-9).x, rtol=0, atol=1e-6)


def test_penalties_and_relaxation_of_the_stages():
    """Multipliers survive a change of penalties: from the solution's fields no stage leads away."""
    p = small()
    reference = solve(p, tol=1e-9).x
    start = oracle(p)
    varying = Proposer(start.propose, stages=9)
    varying.penalties = lambda k: PENALTIES if k < 2 else (3.0 * 1.7 ** (k % 3), 60.0 / 2.0 ** (k % 2))
    varying.relaxation = lambda k: 1.0 + 0.1 * k
    solution = solve(p, varying, penalties=None, max_iter=10, tol=1e-12)
    assert solution.details["learned"]["kept"] == 1
    np.testing.assert_allclose(solution.x, reference, rtol=0, atol=1e-7)
    assert solution.details["penalties"] == pytest.approx(varying.penalties(8))
    # eta is their unit
    scaled = solve(p, varying, penalties=None, max_iter=10, tol=1e-12, eta=7.0)
    assert scaled.details["penalties"] == pytest.approx(tuple(7 * b for b in varying.penalties(8)))
    # given ones come first
    assert solve(p, varying, max_iter=10).details["penalties"] == PENALTIES


def kspace(complex_image):
    rng = np.random.default_rng(3)
    A, _, truth = scene((20, 22))
    A = MaskedFourier(rng.random(truth.shape) < 0.5)
    truth = truth * np.exp(1j * truth) if complex_image else truth
    y = A(truth) + 0.01 * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    return A, y


@pytest.mark.parametrize("kind", ["noise", "overshoot"])
@pytest.mark.parametrize("sparsity_weight", [0.0, 1e-3])
def test_masked_fourier_with_and_without_sparsity(sparsity_weight, kind):
    A, y = kspace(False)
    lower = solve_lower(A, y, 1e-3)
    options = {"target": "identity", "tv_weight": 1e-3, "lower": lower, "epsilon": 0.1, "kappa": 0.1}
    options |= {"sparsity_weight": sparsity_weight, "transform": "haar", "tol": 1e-5, "max_iter": 3000}
    plain, learned = (solve_bio(A, y, penalties=(3.0, 30.0), learned=f, **options) for f in (None, hostile(kind)))
    assert learned.converged and learned.details["learned"]["proposed"] > 0
    assert np.linalg.norm(learned.x - plain.x) <= 1e-4 * np.linalg.norm(plain.x)
    assert learned.iterations <= 1.5 * plain.iterations + 10


@every_dtype
def test_the_same_bits_every_time(dtype):
    p = small()
    runs = [solve(p, hostile("overshoot"), dtype, threads=threads) for threads in (1, 1, 2)]
    for run in runs[1:]:
        assert np.array_equal(run.x, runs[0].x) and run.details["learned"] == runs[0].details["learned"]
    assert runs[0].details["learned"]["kept"] > 0 and runs[0].x.dtype == dtype


def test_errors():
    p = small()

    def attempt(propose, **options):
        return solve(p, Proposer(propose, **options), max_iter=10)

    with pytest.raises(ValueError, match=r"learned\.propose: expected q of shape"):
        attempt(lambda state: (state.q[:, 1:], state.residual))
    with pytest.raises(ValueError, match=r"learned\.propose: expected residual of shape"):
        attempt(lambda state: (state.q, state.residual[0]))
    with pytest.raises(TypeError, match=r"learned\.propose: expected q of dtype"):
        attempt(lambda state: (state.q * 1j, None))
    with pytest.raises(ZeroDivisionError):
        attempt(lambda state: 1 / 0)
    with pytest.raises(ValueError, match="read-only"):
        attempt(lambda state: state.q.fill(0))
    for relaxation in (0.0, 2.0, np.nan):
        with pytest.raises(ValueError, match=r"learned\.relaxation"):
            attempt(lambda state: None, relaxation=relaxation)
    with pytest.raises(ValueError, match=r"learned\.penalties"):
        solve(p, Proposer(penalties=(0.0, 1.0)), penalties=None)
    with pytest.raises(TypeError, match="learned: expected"):
        solve(p, 3)
    with pytest.raises(InputError, match="absent"):
        solve(p, "absent.safetensors")
    with pytest.raises(ValueError, match='learned: is for splitting="ball"'):
        solve(small(False), Proposer(), splitting="slack")
    A = MultiCoilFourier(np.ones((8, 8), bool), np.ones((2, 8, 8), complex))
    with pytest.raises(ValueError, match="learned: is for"):
        solve_bio(A, np.ones((2, 8, 8), complex), target="identity", tv_weight=1e-3, learned=Proposer())


# --- the unrolled iteration -----------------------------------------------------------------


def some_stages(stages=10, coefficient=0.2):
    slope = 0.1 * np.random.default_rng(4).standard_normal((4, 2))
    fixed = {"mean": np.zeros(4), "scale": np.full(4, 2.0), "offset": np.log([2.0, 50.0]), "slope": slope}
    return LearnedStages(fixed | {"relaxation": [1.7], "extrapolation": np.full((stages, 2), coefficient)})


def bound_stages(p, stages):
    return stages.bind(LearnedProblem(p.x0, p.target, p.total_variation_bound, p.epsilon, 1.0, p.isotropic))


@every_dtype
@every_tv
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_the_unrolled_iteration_is_the_solver(epsilon, isotropic, dtype):
    p, stages = small(isotropic, (15, 16), epsilon), some_stages()
    bound = bound_stages(p, stages)
    b = [torch.tensor([value]) for value in np.array(bound.penalties(0), dtype)]
    images = UnrolledBall([p], dtype).run(*b, bound.relaxation(0), torch.full((10, 2), 0.2, dtype=b[0].dtype))
    solution = solve(p, stages, dtype, penalties=None, max_iter=10, tol=1e-12)
    counts = solution.details["learned"]
    assert counts["kept"] == counts["proposed"] == sum(proposes(k) for k in range(10)) == 8
    np.testing.assert_allclose(
        solution.x, images[-1][0].numpy(), rtol=0, atol={np.float32: 1e-5, np.float64: 1e-9}[dtype]
    )


@every_tv
def test_gradients_are_finite_differences(isotropic):
    ball = UnrolledBall([small(isotropic, (15, 14)), small(isotropic, (15, 14), 0.02)])
    rng = np.random.default_rng(5)
    start = torch.from_numpy(np.concatenate([np.log(PENALTIES), [1.5], 0.2 * rng.standard_normal(8)]))

    def loss(v):
        b = [v[k].exp() * torch.tensor([1.0, 2.0]).double() for k in range(2)]
        return ball.distances(ball.run(*b, v[2], v[3:].view(4, 2))).sum()

    (gradient,) = torch.autograd.functional.jacobian(loss, (start,))
    assert float(gradient[:3].abs().min()) > 1e-6
    for _ in range(3):
        direction = torch.from_numpy(rng.standard_normal(len(start)))
        h = 1e-6
        difference = float(loss(start + h * direction) - loss(start - h * direction)) / (2 * h)
        assert float(gradient @ direction) == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_features_change_neither_with_units_nor_with_size():
    p = small()

    def of(scale, repeat):
        x0, target = (np.tile(scale * a, (repeat, 1)) for a in (p.x0, p.target))
        bound = scale * repeat * p.total_variation_bound
        return features(LearnedProblem(x0, target, bound, scale * np.sqrt(repeat) * p.epsilon, 1.0, True))

    np.testing.assert_allclose(of(255.0, 1), of(1.0, 1), rtol=1e-9)
    np.testing.assert_allclose(of(1.0, 3), of(1.0, 1), rtol=1e-9)
    flat = LearnedProblem(np.ones((4, 4)), np.ones((4, 4)), 0.0, 0.0, 1.0, True)
    assert np.isfinite(some_stages().bind(flat).penalties(0)).all()


# --- training -------------------------------------------------------------------------------


@functools.cache
def problems():
    return [small(True, (16, 18), epsilon) for epsilon in (0.03, 0.05, 0.08)]


def test_training_lowers_the_loss_and_repeats_its_bits(tmp_path):
    files = [tmp_path / name for name in ("first", "second")]
    rows = []
    losses = [
        train_stages(
            problems(), file, stages=4, steps=8, batch=2, threads=1, callback=lambda row: rows.append(row) or False
        )
        for file in files
    ]
    assert losses[0] == losses[1] and files[0].read_bytes() == files[1].read_bytes()
    assert losses[0][-1] < losses[0][0] - 0.1 and [row["loss"] for row in rows[:8]] == losses[0]
    stages = LearnedStages.read(files[0])
    p = problems()[1]
    by_path, by_object = (solve(p, learned, penalties=None) for learned in (str(files[0]), stages))
    assert np.array_equal(by_path.x, by_object.x) and by_path.converged
    np.testing.assert_allclose(by_path.x, solve(p, tol=1e-9).x, rtol=0, atol=1e-4)
    # a batch is its items
    two = SimpleNamespace(**vars(p) | {name: np.stack([getattr(p, name)] * 2) for name in ("ybar", "target", "x0")})
    pair = solve(two, stages, penalties=None)
    assert np.array_equal(pair.x[1], by_path.x)
    assert pair.details["items"][1]["learned"] == by_path.details["learned"]


def test_training_errors(tmp_path):
    with pytest.raises(ValueError, match="problems: must have one shape"):
        train_stages([*problems(), small()], tmp_path / "x")
    with pytest.raises(ValueError, match="steps"):
        train_stages(problems(), tmp_path / "x", steps=0)
    assert len(train_stages(problems(), tmp_path / "x", stages=2, steps=5, callback=lambda row: True)) == 1
    assert not (tmp_path / "x").exists()


def test_stages_files_are_checked(tmp_path):
    stages = some_stages(3)
    stages.write(tmp_path / "good", {})
    again = LearnedStages.read(tmp_path / "good")
    for name, value in stages.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value.astype(np.float32))
    content = bytearray((tmp_path / "good").read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(InputError, match="SHA-256"):
        LearnedStages.read(tmp_path / "damaged")
    for change in ({"offset": np.zeros(3)}, {"more": np.zeros(1)}, {"relaxation": [2.0]}, {"scale": [np.nan] * 4}):
        with pytest.raises(ValueError, match="parameters: "):
            LearnedStages(stages.parameters | change)


def photograph():
    """A piece of scikit-image's cameraman under ``scene``'s blur with 1 % noise, and the upper level of ``deblur``."""
    A, _, _ = scene((96, 96))
    truth = data.camera()[60:156, 180:276] / 255
    y = A(truth) + 0.01 * np.random.default_rng(6).standard_normal(truth.shape)
    return stage_problem(A, y, target="nlm", tv_weight=1e-3, epsilon=0.15 * 0.01 * 96, tol=1e-6)


def test_the_stages_of_the_package_beat_the_automatic_penalties():
    p = photograph()
    plain, learned = (solve(p, f, penalties=None, max_iter=10, tol=1e-12) for f in (None, "deblur"))
    counts = learned.details["learned"]
    assert counts["stages"] == 10 and counts["kept"] > 0
    assert np.linalg.norm(learned.x - p.solution) < 0.3 * np.linalg.norm(plain.x - p.solution)
    # and where they were not trained, the solution is the same
    plain, learned = (solve(p, f, penalties=None, isotropic=False, epsilon=0.0, tol=1e-4) for f in (None, "deblur"))
    assert plain.converged and learned.converged
    np.testing.assert_allclose(learned.x, plain.x, rtol=0, atol=1e-3)
