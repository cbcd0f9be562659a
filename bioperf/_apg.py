"""The paper's other lower-level method: FISTA with an inner TV prox (Beck and Teboulle, 2009)."""

import numpy as np

from ._kkt import CHECK_EVERY, KKT_FACTOR, beyond_rounding, rounding_floors
from .progress import Record, outcome
from .solution import Solution


def solve_apg(problem, y, gamma, isotropic, tol, max_iter, x0, penalty, change_tol, callback):
    """FISTA with x <- prox_{TV gamma/L}(w - A^T(A w - y)/L); the prox by the fast gradient projection on its dual."""
    kernels, threads, d = problem.kernels, problem.threads, len(problem.shape)
    record = Record("lower level (APG)", max_iter, callback)
    data = problem.fft.coefficients(y)
    lipschitz = float(np.max(np.abs(problem.transfer))) ** 2
    bound = gamma / lipschitz
    x = np.array(x0)
    momentum_point, t = x.copy(), 1.0
    dual = np.zeros(problem.field_shape, problem.dtype)
    field, divergence = np.empty_like(dual), np.empty_like(x)
    tiny = np.finfo(float).tiny
    rounding, tv_rounding = rounding_floors(problem, y, gamma)
    converged = stopped = False
    kkt_tol = KKT_FACTOR * np.sqrt(tol)

    def correlate(spectrum):
        return problem.fft.inverse(np.conj(problem.transfer) * spectrum, np.empty_like(x))

    for done in range(1, max_iter + 1):
        residual = problem.transfer * problem.fft.coefficients(momentum_point) - data
        z = momentum_point - correlate(residual) / problem.dtype.type(lipschitz)
        # FISTA converges if the prox errors are summable: ever more inner steps, from the last dual field
        steps = min(10 + done, 100)
        dual = tv_prox_dual(kernels, z, dual, bound, isotropic, steps, field, divergence, threads)
        kernels.gradient_adjoint(dual, ndim=d, out=divergence, threads=threads)
        new = z - divergence
        change = float(np.linalg.norm(new - x) / max(float(np.linalg.norm(new)), tiny))
        t_next = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        momentum_point = new + problem.dtype.type((t - 1) / t_next) * (new - x)
        x, t = new, t_next

        if done % CHECK_EVERY and done < max_iter and (change_tol is None or change > change_tol):
            continue
        residual = problem.transfer * problem.fft.coefficients(x) - data
        kernels.gradient(x, ndim=d, out=field, threads=threads)
        tv = problem.total_variation(x, isotropic)
        residual_square = problem.square_norm(residual)
        objective = 0.5 * residual_square + gamma * tv
        pairing = lipschitz * float(np.vdot(dual, field))
        complementarity = beyond_rounding(gamma * tv - pairing, gamma * tv_rounding, objective)
        correction = lipschitz * divergence
        error = float(np.linalg.norm(correlate(residual) + correction))
        kkt = beyond_rounding(error, rounding, float(np.linalg.norm(correction)))
        converged = (complementarity <= tol and kkt <= kkt_tol) or (change_tol is not None and change <= change_tol)
        # The prox satisfies stationarity at the momentum point only: no exact multiplier, no finite bound.
        stopped = record.add(
            done, x, max(complementarity / tol, kkt / kkt_tol), objective=objective, lower_bound=0.0,
            complementarity=complementarity, kkt_residual=kkt, change=change,
        )  # fmt: skip
        if converged or stopped:
            break

    measured = f"complementarity {complementarity:.1e}, KKT residual {kkt:.1e}, relative change {change:.1e}"
    return Solution(
        x=x,
        objective=objective,
        lower_bound=0.0,
        infeasibility={},
        kkt_residual=kkt,
        iterations=done,
        converged=bool(converged),
        status=outcome(converged, stopped, done, measured),
        history=record.history(),
        seconds=record.seconds,
        **problem.what_ran(),
        details={"total_variation": tv},
    )


def tv_prox_dual(kernels, z, dual, bound, isotropic, steps, field, divergence, threads):
    """Dual field p, |p| <= bound, with prox(z) = z - grad^T p, by steps of fast gradient projection."""
    d = z.ndim
    step = z.dtype.type(1 / (4 * d))
    point, t = dual, 1.0
    for _ in range(steps):
        kernels.gradient_adjoint(point, ndim=d, out=divergence, threads=threads)
        kernels.gradient(z - divergence, ndim=d, out=field, threads=threads)
        new = point + step * field
        if isotropic:
            norm = np.sqrt(np.sum(new * new, axis=0))
            new *= z.dtype.type(bound) / np.maximum(norm, z.dtype.type(bound))
        else:
            kernels.project_box(new, -bound, bound, out=new, threads=threads)
        t_next = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        point = new + z.dtype.type((t - 1) / t_next) * (new - dual)
        dual, t = new, t_next
    return dual
