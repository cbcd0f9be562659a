"""Learned iterations of the upper level: what proposes an iterate, and the check that preserves the convergence.

Theorem (mathematics.md 10).  Let ``z = (q, w, r)`` be the fields of TV, sparsity and data, T one iteration with fixed
penalties and a relaxation in (0, 2), ``|z|^2 = b_v |q|^2 + b_z |w|^2 + b_p |r|^2``, and R(z) = |T z - z| / relaxation.
Suppose that the problem has a saddle point.  Let z_{k+1} = T u_k, where u_k is z_k, or a proposal for which

    (a)  R(u_k) <= DECREASE R(u_{k-1}),
    (b)  |u_k - z_k| <= REACH R(u_0) DECREASE^j,   j the number of proposals kept before,   u_0 = z_0.

Then z_k converges to a fixed point of T, and the image that belongs to it is the solution, whatever makes proposals.

Proof.  T is averaged (Eckstein and Bertsekas, 1992): |T u - z*| <= |u - z*| for every fixed point z*, and R does not
grow along plain iterations.  By (b), |z_{k+1} - z*| <= |z_k - z*| + e_k with summable e_k: z_k is quasi-Fejer monotone,
thus bounded.  If finitely many proposals are kept the rest is the plain method.  Otherwise R falls by DECREASE
infinitely often and never grows between, so R(u_k) -> 0, all limit points are fixed points, and a quasi-Fejer monotone
sequence whose limit points are fixed points converges (Combettes, 2001).  x is a continuous function of z.

A rejected proposal costs the iteration that judged it and changes nothing else.  Penalties and relaxations that change
finitely often are other operators T: the theorem holds from the last change on.

References: Heaton, Chen, Wang, Yin, "Safeguarded learned convex optimization", AAAI 2023; Combettes, "Quasi-Fejerian
analysis of some optimization algorithms", 2001; Eckstein, Bertsekas, Mathematical Programming 55, 1992.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ._validation import check_count, check_number

__all__ = ["LearnedIterations", "LearnedProblem", "LearnedState", "Safeguard", "check_learned"]

DECREASE = 0.95
REACH = 100.0


class Safeguard:
    """Keeps or rejects proposals by the theorem above; knows norms only.

    After the n-th rejection in a row 2^(n-1) iterations pass without a proposal.

    Attributes
    ----------
    proposed, kept : int
        Proposals made and kept so far.
    """

    def __init__(self):
        self.proposed = self.kept = 0
        self.first = self.last = None  # residuals as squared norms of their parts: the penalties that weigh them change
        self._pause = 1
        self._waiting = 0

    def open(self):
        """Whether a proposal may be made in this iteration; to be asked once in each."""
        if self.last is None:
            return False
        if self._waiting:
            self._waiting -= 1
            return False
        return True

    def reachable(self, moved, weights):
        """Condition (b) for the squared norms of the displacement's parts; counts the proposal."""
        self.proposed += 1
        reach = REACH * DECREASE**self.kept * _norm(self.first, weights)
        return self._judge(_norm(moved, weights) <= reach)

    def settles(self, residual, weights):
        """Condition (a) for the squared norms of the residual's parts at the proposal."""
        kept = self._judge(_norm(residual, weights) <= DECREASE * _norm(self.last, weights))
        if kept:
            self.kept += 1
            self._pause = 1
            self.last = residual
        return kept

    def plain(self, residual):
        """The residual of a plain iteration."""
        self.last = residual
        if self.first is None:
            self.first = residual

    def _judge(self, passed):
        if not passed:  # NaN passes no comparison
            self._waiting, self._pause = self._pause, 2 * self._pause
        return passed


def _norm(squares, weights):
    return math.sqrt(sum(weight * square for weight, square in zip(weights, squares, strict=True)))


@dataclass(frozen=True)
class LearnedProblem:
    """What ``bind`` of learned iterations is given: one item's problem.  All arrays are read-only.

    x0, target : ndarray, shape A.shape
        The start and D.
    total_variation_bound, epsilon, eta : float
    isotropic : bool
    """

    x0: np.ndarray
    target: np.ndarray
    total_variation_bound: float
    epsilon: float
    eta: float
    isotropic: bool


@dataclass(frozen=True)
class LearnedState:
    """What ``propose`` is given: the fields z_k = (q, residual) of iteration ``iteration`` (1 is the first).

    All arrays are read-only, and they are the solver's own: they hold these values until ``propose`` returns.

    x : ndarray, shape A.shape
        The last image.
    q : ndarray, shape (d, *A.shape)
        ``q - clip(q, theta)`` is the split of grad x in the TV ball, ``clip(q, theta)`` its scaled multiplier.
    theta : float
    residual : complex ndarray, half (of complex images: whole) spectrum
        Fourier coefficients, divided by the number of pixels, of the data's field relative to ybar.
    shrink : float
        ``shrink * residual`` is the split of A x - ybar in the data ball, the rest its scaled multiplier.
    previous_q, previous_residual : ndarray
        The fields of the iteration before, z_{k-1} (not those proposed there), scaled by its penalties.
    target : ndarray, shape A.shape
        D.
    total_variation_bound, epsilon : float
    penalties : tuple of 2 floats
        (b_v, b_p).
    """

    iteration: int
    x: np.ndarray
    q: np.ndarray
    theta: float
    residual: np.ndarray
    shrink: float
    previous_q: np.ndarray
    previous_residual: np.ndarray
    target: np.ndarray
    total_variation_bound: float
    epsilon: float
    penalties: tuple


def check_learned(learned):
    """An object with ``bind``, or with ``stages``, ``penalties``, ``relaxation`` and ``propose``; or TypeError."""
    if callable(getattr(learned, "bind", None)):
        return learned
    methods = ("penalties", "relaxation", "propose")
    if not hasattr(learned, "stages") or not all(callable(getattr(learned, name, None)) for name in methods):
        raise TypeError(
            'learned: expected "deblur", the path of a stages file, or an object with stages, penalties(k), '
            f"relaxation(k) and propose(state), got {repr(learned)[:80]}"
        )
    check_count("learned.stages", learned.stages, 0)
    return learned


class LearnedIterations:
    """Iterations of ``ball`` of which the first ``stages`` are learned.

    In stage k, from 0 on, T has the stage's penalties and relaxation, and is applied to the proposal.  If that is
    rejected the iteration is lost, and the next one starts from the fields before it.  There are no proposals in the
    first iteration, whose residual is the first reference, and in those whose image is examined.

    Parameters
    ----------
    ball : the iteration, of bio.py
    learned : see ``check_learned``
    problem : LearnedProblem
    tune : bool
        Whether the stages' penalties are used.
    """

    def __init__(self, ball, learned, problem, tune):
        problem = replace(problem, x0=_frozen(problem.x0), target=_frozen(problem.target))
        bind = getattr(learned, "bind", None)
        self.learned = learned if bind is None else check_learned(bind(problem))
        self.ball, self.problem, self.tune = ball, problem, tune
        self.stages = self.learned.stages
        self.safeguard = Safeguard()
        self.done = 0
        self._restored = False
        self._before = self._now = None

    def details(self):
        return {"proposed": self.safeguard.proposed, "kept": self.safeguard.kept, "stages": self.stages}

    @property
    def past(self):
        """Whether, at a check, the iterations depend on the ball's state alone from now on."""
        return self.done >= self.stages

    def state(self):
        """What is left of the learned stages once they are past."""
        return {"proposed": self.safeguard.proposed, "kept": self.safeguard.kept}

    def restore(self, kept, done):
        self.safeguard.proposed, self.safeguard.kept = kept.number("proposed"), kept.number("kept")
        self.done = done

    def step(self, check):
        """One iteration, as ``ball.step``."""
        ball, k = self.ball, self.done
        self.done += 1
        if k >= self.stages:
            if self._restored:
                self._restored = False
                return ball.image(check, split=False)
            self._before = self._now = self._difference = None
            return ball.step(check)

        restored, self._restored = self._restored, False
        if not restored:
            ball.split()
        self._set_stage(k)
        self._remember(restored)
        proposal = self._proposal(k) if self.safeguard.open() and not check else None
        scalars = ball.theta, ball.data.shrink
        if proposal is not None:
            ball.set_fields(*proposal)
        result = ball.image(check, split=not restored)
        residual = self._residual((proposal or self._now)[1])
        if proposal is None:
            self.safeguard.plain(residual)
        elif not self.safeguard.settles(residual, ball.weights()):
            ball.set_fields(*self._now, *scalars)
            self._restored = True
        return result

    def _set_stage(self, k):
        penalties = self.learned.penalties(k) if self.tune else None
        if penalties is not None:
            b_v, b_p = (check_number("learned.penalties", b, strict=True) for b in penalties)
            self.ball.set_penalties(b_v * self.problem.eta, b_p * self.problem.eta)
        relaxation = check_number("learned.relaxation", self.learned.relaxation(k), strict=True)
        if relaxation >= 2:
            raise ValueError(f"learned.relaxation: must be below 2, got {relaxation!r}")
        self.ball.set_relaxation(relaxation)

    def _remember(self, restored):
        """z_k, and z_{k-1}, which a rejection leaves as it was."""
        now = self.ball.q, self.ball.data.residual
        if self._now is None:
            self._now, self._before, self._difference = ([field.copy() for field in now] for _ in range(3))
            return
        if not restored:
            self._now, self._before = self._before, self._now
        for kept, field in zip(self._now, now, strict=True):
            kept[...] = field

    def _proposal(self, k):
        """What is proposed for (q, residual) and lies within reach, or None."""
        ball, data = self.ball, self.ball.data
        state = LearnedState(
            iteration=k + 1,
            x=_frozen(ball.x),
            q=_frozen(self._now[0]),
            theta=ball.theta,
            residual=_frozen(self._now[1]),
            shrink=data.shrink,
            previous_q=_frozen(self._before[0]),
            previous_residual=_frozen(self._before[1]),
            target=self.problem.target,
            total_variation_bound=self.problem.total_variation_bound,
            epsilon=self.problem.epsilon,
            penalties=ball.penalties,
        )
        proposal = self.learned.propose(state)
        if proposal is None:
            return None
        # NaN and overflow are judged below
        with np.errstate(over="ignore", invalid="ignore"):
            q, residual = (_like(*each) for each in zip(("q", "residual"), proposal, self._now, strict=True))
            moved = self._field_square(q, self._now[0]), 0.0, self._data_square(residual, self._now[1])
            return (q, residual) if self.safeguard.reachable(moved, ball.weights()) else None

    def _residual(self, applied):
        """The squared norms of the parts of (T z - z) / relaxation, after T; ``applied`` is the residual of z."""
        ball = self.ball
        p, sparse = ball.problem, ball.sparse
        field = p.kernels.field_status(ball.x, ball.q, ball.theta, ball.isotropic, threads=p.threads)[2]
        data = self._data_square(ball.data.residual, applied) / ball.relaxation**2
        if not sparse:
            return field, 0.0, data
        sparse.analyse(ball.x)
        dual = np.empty_like(sparse.field)
        p.kernels.clip_coefficients(sparse.field, sparse.theta, sparse.weights, dual, threads=p.threads)
        return field, float(_squares(sparse.coefficients - sparse.field + dual).sum()), data

    def _field_square(self, first, second):
        """|first - second|^2 of fields."""
        if first is second:
            return 0.0
        return float(_squares(np.subtract(first, second, out=self._difference[0])).sum())

    def _data_square(self, first, second):
        """|first - second|^2 of spectra."""
        if first is second:
            return 0.0
        p = self.ball.problem
        squares = _squares(np.subtract(first, second, out=self._difference[1]))
        return p.pixels * float(squares @ np.repeat(p.copies.astype(np.float64), 2))


def _frozen(array):
    view = array.view()
    view.flags.writeable = False
    return view


def _squares(array):
    """Sums of squares over all axes but the last one; real and imaginary parts by turns."""
    parts = array.reshape(-1, array.shape[-1]).view(array.real.dtype)
    # not by BLAS, whose bits depend on its threads
    return np.einsum("ij,ij->j", parts, parts).astype(np.float64)


def _like(name, value, like):
    """What was proposed for a field, in its dtype; None leaves the field as it is."""
    if value is None:
        return like
    value = np.asarray(value)
    if value.shape != like.shape:
        raise ValueError(f"learned.propose: expected {name} of shape {like.shape}, got {value.shape}")
    if not np.can_cast(value.dtype, like.dtype, "same_kind"):
        raise TypeError(f"learned.propose: expected {name} of dtype {like.dtype}, got {value.dtype}")
    return value.astype(like.dtype, copy=False)
