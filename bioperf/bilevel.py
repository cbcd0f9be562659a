"""The general form of the bilevel problem: any loss, penalties and linear operator (mathematics.md, "General form")."""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from ._validation import as_images, check_callback, check_choice, check_count, check_finite, check_number
from .functions import Loss, Penalty, Zero
from .functions._splitting import SMALL, Block, Splitting, hessian_product, norm, probe
from .kernels import get_backend, threads_for
from .progress import Record, outcome
from .solution import Solution

__all__ = ["BilevelProblem", "solve_bilevel"]

# Penalty of the data constraint, in units of the objective's curvature over |A|^2.
DATA_PENALTY = 100.0
# How far xbar may be from the face, relative, in units of tol.
FACE_DISTANCE = 100.0
# The KKT residual of the lower level, in units of tol: what it leaves is what the constraints contradict each other by.
LOWER_TOL, LOWER_TOL_EXACT = 0.1, 0.01
# The data constraint is the tighter one; an objective below this times curvature |x|^2 counts as 0.
DATA_TOL_FACTOR, OBJECTIVE_FLOOR = 0.1, 0.5e-6


@dataclass(frozen=True, eq=False)
class BilevelProblem:
    """min_x f(x) + g(x) over the solutions of the lower level min_x h(A x) + phi(x).

    With any lower-level solution xbar and ybar = A xbar it is solved as

        min_x  f(x) + g(x)   subject to   |A x - ybar| <= epsilon,   phi(x) <= (1 + kappa) phi(xbar)

    which is the same problem where epsilon = kappa = 0, and its relaxation elsewhere.

    Parameters
    ----------
    A : ndarray, sparse matrix, scipy.sparse.linalg.LinearOperator or operator of bioperf
        Real; of shape (m, n) on x flattened, or with ``A(x)``, ``A.adjoint(z)`` and ``A.shape`` on images.
    loss : bioperf.functions.Loss
        h, with m data, which decide between float32 and float64 (A does if they are integers).
    penalty : bioperf.functions.Penalty
        phi, its weight inside.
    objective : object
        f, smooth and strongly convex, with ``value(x)`` and ``gradient(x)``: ``functions.SquaredDistance``, whose
        docstring says what else is used.
    regulariser : bioperf.functions.Penalty
        g.
    epsilon, kappa : float
        >= 0; epsilon is absolute, in the units of ``|A x - ybar|_2``.

    Attributes
    ----------
    shape : tuple
        x's: as objective, penalty or regulariser declare, else ``A.shape`` of an operator on images, else (n,).
    dtype : numpy.dtype

    Raises
    ------
    TypeError, ValueError
        If a part is of an unknown type or the shapes do not match; the message names the part.
    """

    A: object
    loss: Loss
    penalty: Penalty
    objective: object
    regulariser: Penalty = field(default_factory=Zero)
    epsilon: float = 0.0
    kappa: float = 0.0
    shape: tuple = field(init=False, repr=False)
    dtype: np.dtype = field(init=False, repr=False)
    operator: object = field(init=False, repr=False)

    def __post_init__(self):
        for name, kind in (("loss", Loss), ("penalty", Penalty), ("regulariser", Penalty)):
            _check_type(name, getattr(self, name), kind)
        if not all(callable(getattr(self.objective, method, None)) for method in ("value", "gradient")):
            raise TypeError(f"objective: expected an object with value(x) and gradient(x), got {self.objective!r}")
        check_number("epsilon", self.epsilon)
        check_number("kappa", self.kappa)
        if self.epsilon == 0 and not self.loss.strictly_convex:
            raise ValueError(
                "loss: some counts are 0, where the Poisson loss is linear and A x is not the same at all solutions; "
                "set epsilon > 0 or leave these rows out"
            )
        single = (self.loss.b.dtype, getattr(self.A, "dtype", None))[self.loss.integer] == np.float32
        derived = {"dtype": np.dtype(np.float32 if single else np.float64)}
        derived["loss"] = self.loss.astype(derived["dtype"])
        derived["operator"] = operator = _DataOperator(self.A, self.loss.b.shape, derived["dtype"])
        derived["shape"] = operator.shape = self._common_shape(operator)
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        for part in (self.penalty, self.regulariser):
            part.check_size(math.prod(self.shape))
        operator.check()
        gradient = self.objective.gradient(np.zeros(self.shape, self.dtype))
        if np.shape(gradient) != self.shape:
            raise ValueError(f"objective: its gradient has shape {np.shape(gradient)}, x has {self.shape}")

    def _common_shape(self, operator):
        """x's shape, on which all parts that declare one agree."""
        declared = {name: getattr(self, name) for name in ("objective", "penalty", "regulariser")}
        declared = {name: getattr(part, "shape", None) for name, part in declared.items()}
        declared["A"] = operator.shape if operator.on_images else None
        declared = {name: tuple(shape) for name, shape in declared.items() if shape is not None}
        first = next(iter(declared), "A")
        size = math.prod(operator.shape)
        for name, shape in declared.items():
            if math.prod(shape) != size:
                raise ValueError(f"{name}: made for x of shape {shape}, but A takes {size} entries")
            if shape != declared[first]:
                raise ValueError(f"{name}: made for x of shape {shape}, but {first} for {declared[first]}")
        return declared.get(first, operator.shape)


class _DataOperator:
    """A as a map from arrays of x's shape to arrays of the data's shape."""

    def __init__(self, A, data_shape, dtype):
        self.data_shape, self.dtype = data_shape, dtype
        self.on_images = not (isinstance(A, np.ndarray | LinearOperator) or sparse.issparse(A))
        if self.on_images:
            if not (callable(A) and hasattr(A, "adjoint") and hasattr(A, "shape")):
                raise TypeError(
                    f"A: expected an array, a sparse matrix, a LinearOperator or an operator of bioperf, got {A!r}"
                )
            self._forward, self._adjoint, self.shape = A, A.adjoint, tuple(A.shape)
            return
        if len(A.shape) != 2:
            raise ValueError(f"A: expected two axes, got shape {A.shape}")
        if A.dtype is not None and np.dtype(A.dtype).kind not in "fiub":
            raise TypeError(f"A: expected a real operator, got dtype {A.dtype}; stack real and imaginary parts")
        if not isinstance(A, LinearOperator):
            A = A.astype(dtype, copy=False)
            check_finite("A", A.data if sparse.issparse(A) else A)
        matrix = aslinearoperator(A)
        self._forward = lambda x: matrix.matvec(x.ravel())
        self._adjoint = lambda z: matrix.rmatvec(z.ravel())
        self.shape = A.shape[1:]

    def check(self):
        """TypeError or ValueError if the data have another size, are complex, or there is no adjoint."""
        image = np.asarray(self._forward(np.zeros(self.shape, self.dtype)))
        if image.dtype.kind == "c":
            raise TypeError("A: expected a real operator, but A x is complex; stack real and imaginary parts")
        if image.size != math.prod(self.data_shape):
            raise ValueError(f"A: A x has {image.size} entries, but the loss has {math.prod(self.data_shape)} data")
        try:
            self.adjoint(np.zeros(self.data_shape, self.dtype))
        except NotImplementedError:
            raise TypeError("A: has no adjoint; give the LinearOperator an rmatvec") from None

    def __call__(self, x):
        return np.asarray(self._forward(x), self.dtype).reshape(self.data_shape)

    def adjoint(self, z):
        return np.asarray(self._adjoint(z), self.dtype).reshape(self.shape)


class _Sublevel(Penalty):
    """The indicator of phi <= level."""

    def __init__(self, penalty, level):
        self.penalty, self.level = penalty, level

    def _prox(self, v, step):
        return self.penalty.project_sublevel(v, self.level)

    def conjugate(self, y):
        return self.penalty.support(y, self.level)


class _Ball(Penalty):
    """The indicator of |z - centre| <= radius."""

    def __init__(self, centre, radius):
        self.centre, self.radius = centre, radius

    def _prox(self, v, step):
        distance = norm(v - self.centre)
        return self.centre + (v - self.centre) * (min(1.0, self.radius / distance) if distance > 0 else 1.0)

    def conjugate(self, y):
        return float(np.vdot(y, self.centre)) + self.radius * norm(y)


class _Nothing:
    """0, the lower level's smooth part."""

    quadratic = True

    def gradient(self, x):
        return np.zeros_like(x)


def solve_bilevel(problem, *, lower=None, constraint="auto", tol=1e-6, max_iter=20000, lower_tol=None, callback=None):
    """Solve the general bilevel problem by a proximal ADMM at both levels (mathematics.md, "General form").

    Upper level, with z = x for g, s = x for phi (K x, where the penalty is composed with K), p = A x:

    1. z <- prox of g;  s <- projection onto phi <= t;  p <- projection onto |p - ybar| <= epsilon, each of
       (beta (K x + 1e-3 z) + y) / (beta + 1e-3 beta)
    2. x <- argmin f(x) + sum beta/2 |K x - z + y/beta|^2 + tau/2 |x - x_k|^2, inexactly: a triangular solve or CG
       where f is quadratic, else Newton-CG
    3. y <- y + 1.6 beta (K x - z)

    The lower level is the same splitting with f = 0 and the terms h(A x), phi(x).  The residuals balance the
    penalties beta.

    Where epsilon = kappa = 0, phi <= phi(xbar) and A x = ybar touch without crossing; multipliers need not exist,
    and the residual then falls like k^-1/2.  The same points are those with A x = ybar at which the lower level's
    multiplier u is a subgradient of phi: half-lines and rays, with which tens of steps do.

    Parameters
    ----------
    problem : BilevelProblem
    lower : Solution or ndarray of x's shape, optional
        xbar, if the lower level was solved before.
    constraint : {"auto", "ball"}
        "auto": the set of subgradients (details["constraint"] is then "face") where epsilon = kappa = 0, phi is a
        norm or SquaredL2, u is known (for a composed phi: from the Solution of this function's lower level) and xbar
        is within 100 tol of the set; the sublevel set ("ball") otherwise.
    tol : float
        Converged: kkt_residual, |gap| (where there is a bound) and infeasibility["penalty"] at most tol,
        infeasibility["data"] at most tol/10.  float32 reaches about 1e-5.
    max_iter : int
        For each level.
    lower_tol : float, optional
        The KKT residual at which the lower level stops; by default tol/10, and tol/100 if epsilon = kappa = 0.
    callback : callable, optional
        Called with a ``Progress`` every few iterations; returning True stops the level that ``stage`` names.

    Returns
    -------
    Solution
        ``x`` is the copy that the prox of g made, or that the projection made if g is zero or composed: exactly
        sparse, or inside its box.  ``objective`` is f(x) + g(x).  ``lower_bound`` is the largest dual value met,
        valid for any multipliers; -inf if f declares no ``strong_convexity``.  ``infeasibility`` has "penalty",
        (phi(x) - t)+ / t with t = (1 + kappa) phi(xbar), and "data", (|A x - ybar| - epsilon)+ / |ybar|.
        ``kkt_residual`` is the larger of the relative |grad f(x) + sum K^T y| and |K x - z|.  ``details`` has
        "lower" (xbar's Solution, or None), "lower_image" (xbar), "penalty_bound" (t), "constraint", "penalties".
        Of the lower level, ``lower_bound`` is the trivial bound, that of h alone, where phi is composed or leaves a
        group free, and details["multiplier"] is u.

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    DivergenceError
        If NaN or infinity appears; the message names the iteration.

    References
    ----------
    Liu et al., "Bilevel Integrative Optimization for Ill-posed Inverse Problems"; Fazel et al., "Hankel matrix rank
    minimization with applications to system identification and realization", 2013 (the semi-proximal ADMM).
    """
    _check_type("problem", problem, BilevelProblem)
    check_choice("constraint", constraint, ("auto", "ball"))
    tol = check_number("tol", tol, strict=True)
    max_iter = check_count("max_iter", max_iter)
    exact = problem.epsilon == 0 and problem.kappa == 0
    if lower_tol is None:
        lower_tol = max(tol * (LOWER_TOL_EXACT if exact else LOWER_TOL), 16 * float(np.finfo(problem.dtype).eps))
    lower_tol = check_number("lower_tol", lower_tol, strict=True)
    check_callback(callback)
    here = lower is None
    if here:
        lower = _solve_lower(problem, lower_tol, max_iter, callback)
    given = isinstance(lower, Solution)
    xbar = as_images("lower", lower.x if given else lower).astype(problem.dtype, copy=False)
    if xbar.shape != problem.shape:
        raise ValueError(f"lower: expected shape {problem.shape}, got {xbar.shape}")
    face = None
    if constraint == "auto" and exact and (not given or lower.converged):
        face = _face(problem, xbar, lower.details.get("multiplier") if given else None, tol)
        if face is not None and problem.penalty.operator is None:
            xbar = face.prox(xbar, 1.0)  # where it is but for rounding: now the constraints have a point in common
    solution = _solve_upper(problem, xbar, face, tol, max_iter, callback)
    if here and not lower.converged:
        solution.converged, solution.status = False, f"lower level {lower.status}; upper level {solution.status}"
    solution.details |= {"lower": lower if given else None, "lower_image": xbar}
    return solution


def _solve_lower(problem, tol, max_iter, callback):
    """min h(A x) + phi(x), from x = 0."""
    A, loss, penalty = problem.operator, problem.loss, problem.penalty
    x = np.zeros(problem.shape, problem.dtype)
    data = Block("data", loss, A, x)
    blocks = [data]
    if not isinstance(penalty, Zero):
        blocks.append(Block("penalty", penalty.outer, penalty.operator, x))
        blocks[1].penalty = data.square_norm or 1.0

    def report(splitting):
        x = splitting.point()
        # scaled into the domain of phi's conjugate, h's gradient and -A^T of it are dual feasible
        dual = loss.gradient(data.z)
        slope = -A.adjoint(dual)
        inside = penalty.clip_dual(slope) if penalty.operator is None else np.zeros_like(slope)
        scale = norm(inside) / (norm(slope) or 1.0)
        kkt = splitting.kkt_residual(x)
        return x, kkt / tol, {
            "objective": loss.value(data.z) + penalty.value(x),
            "lower_bound": -loss.conjugate(scale * dual) - penalty.outer.conjugate(inside),
            "kkt_residual": kkt,
        }  # fmt: skip

    reference = norm(A.adjoint(loss.gradient(loss.prox(A(x), 1.0))))
    splitting = Splitting(_Nothing(), blocks, x, reference, data.square_norm)
    solution = _solve(splitting, report, "lower level", tol, max_iter, callback)
    solution.details["multiplier"] = blocks[-1].subgradient
    return solution


def _face(problem, xbar, multiplier, tol):
    """The set where the lower level's multiplier is a subgradient of phi; None if there is none or xbar is off it."""
    A, loss, penalty = problem.operator, problem.loss, problem.penalty
    if not math.isfinite(loss.value(A(xbar))):
        raise ValueError("lower: A x is outside the domain of the loss; pass a solution of the lower level")
    image = xbar if penalty.operator is None else penalty.operator(xbar)
    if multiplier is None and penalty.operator is None:
        multiplier = -A.adjoint(loss.gradient(A(xbar)))
    face = None if multiplier is None else penalty.outer.face(multiplier, tol)
    if face is None or norm(image - face.prox(image, 1.0)) > FACE_DISTANCE * tol * norm(xbar):
        return None
    return face


def _solve_upper(problem, xbar, face, tol, max_iter, callback):
    A, f, g, penalty = problem.operator, problem.objective, problem.regulariser, problem.penalty
    level = (1 + problem.kappa) * penalty.value(xbar)
    ybar = A(xbar)
    if not math.isfinite(level):
        raise ValueError("lower: its penalty is infinite; pass a point where the penalty is finite")
    direction = probe(xbar)
    curvature = norm(hessian_product(f, xbar)(direction)) / norm(direction)
    if not 0 < curvature < math.inf:
        raise ValueError(
            f"objective: must be strongly convex and finite; its second derivative at xbar is {curvature:g}"
        )
    modulus = float(getattr(f, "strong_convexity", 0.0))
    blocks = [Block("data", _Ball(ybar, problem.epsilon), A, xbar)]
    if not isinstance(penalty, Zero):
        blocks.append(Block("penalty", face or _Sublevel(penalty.outer, level), penalty.operator, xbar))
    if not isinstance(g, Zero):
        blocks.append(Block("regulariser", g.outer, g.operator, xbar))
    for block in blocks:
        block.penalty = curvature
    blocks[0].penalty *= DATA_PENALTY / (blocks[0].square_norm or 1.0)
    floor = OBJECTIVE_FLOOR * curvature * norm(xbar) ** 2
    # an excess is relative to the level, or where that is 0 to phi of noise of xbar's size
    typical = penalty.value(direction * (norm(xbar) / norm(direction)))
    scale = max(level, SMALL * typical) if math.isfinite(typical) else norm(xbar)

    def report(splitting):
        x = splitting.point()
        value = float(f.value(x))
        objective, bound, gap = value + g.value(x), -math.inf, math.nan
        if modulus > 0:
            # f >= its quadratic minorant at x: exact for f = m/2 |x - D|^2, a bound for any f
            duals = [block.function.clip_dual(block.subgradient) for block in blocks]
            q = sum(block.adjoint(dual) for block, dual in zip(blocks, duals, strict=True))
            bound = value + float(np.vdot(q, x)) - norm(f.gradient(x) + q) ** 2 / (2 * modulus)
            bound -= sum(block.function.conjugate(dual) for block, dual in zip(blocks, duals, strict=True))
            gap = (objective - bound) / (max(abs(objective), abs(bound), floor) or 1.0)
        row = {
            "objective": objective,
            "lower_bound": bound,
            "gap": gap,
            "kkt_residual": splitting.kkt_residual(x),
            "penalty_infeasibility": penalty.excess(x, level) / (scale or 1.0),
            "data_infeasibility": max(0.0, norm(A(x) - ybar) - problem.epsilon) / (norm(ybar) or 1.0),
        }
        tests = [row["kkt_residual"], row["penalty_infeasibility"], row["data_infeasibility"] / DATA_TOL_FACTOR]
        return x, max(tests + ([abs(gap)] if modulus > 0 else [])) / tol, row

    reference = max(curvature * norm(xbar), norm(f.gradient(xbar)))
    splitting = Splitting(f, blocks, xbar, reference, curvature)
    solution = _solve(splitting, report, "upper level", tol, max_iter, callback)
    solution.infeasibility = {k: float(solution.history[f"{k}_infeasibility"][-1]) for k in ("penalty", "data")}
    solution.details |= {"penalty_bound": level, "constraint": "ball" if face is None else "face"}
    return solution


def _solve(splitting, report, stage, tol, max_iter, callback):
    """Run the splitting; its Solution, but for what only one level has."""
    record = Record(stage, max_iter, callback)
    x, row, converged, stopped = splitting.run(report, max_iter, record)
    measured = {name: value for name, value in row.items() if name.endswith(("gap", "residual", "infeasibility"))}
    measured = [f"{name.replace('_', ' ')} {value:.1e}" for name, value in measured.items()] + [f"tol {tol:g}"]
    history = record.history()
    return Solution(
        x=x,
        objective=row["objective"],
        lower_bound=float(np.max(history["lower_bound"])),
        infeasibility={},
        kkt_residual=row["kkt_residual"],
        iterations=splitting.iteration,
        converged=bool(converged),
        status=outcome(converged, stopped, splitting.iteration, ", ".join(measured).replace("kkt", "KKT")),
        history=history,
        seconds=record.seconds,
        backend=get_backend().name,
        fft="none",
        threads=threads_for(x.size),
        details={"penalties": {block.name: block.penalty for block in splitting.blocks}},
    )


def _check_type(name, value, kind):
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, got {value!r}")
