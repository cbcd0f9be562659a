"""The paper's other lower-level method: FISTA with an inner prox (Beck and Teboulle, 2009)."""

import numpy as np

from ._kkt import CHECK_EVERY, KKT_FACTOR, beyond_rounding, rounding_floors
from .progress import Record, outcome
from .solution import Solution


def solve_apg(problem, y, model, tol, max_iter, x0, spread, penalty, change_tol, callback, level=None):
    """FISTA with x <- prox_{phi/L}(w - A^T(A w - y)/L); the prox by the fast gradient projection on its dual."""
    A = problem.A
    record = Record("lower level (APG)", max_iter, callback)
    lipschitz = A.norm() ** 2
    inverse = problem.real_dtype.type(1 / lipschitz)
    prox = _Prox(problem, model, lipschitz)
    x = np.array(x0)
    momentum_point, t = x.copy(), 1.0
    tiny = np.finfo(float).tiny
    rounding, tv_rounding = rounding_floors(problem, float(np.linalg.norm(y)), y.size, model.tv_weight)
    converged = stopped = False
    kkt_tol = KKT_FACTOR * np.sqrt(tol)

    first = 1
    if level is not None and level.begun:
        first = level.resume(record) + 1
        with level.restoring() as kept:
            kept.fill(x=x, momentum_point=momentum_point, **prox.fields())
            t = kept.number("t")

    for done in range(first, max_iter + 1):
        residual = A(momentum_point) - y
        if not np.isfinite(np.linalg.norm(residual)):
            record.add(done, x, np.inf, objective=np.nan)
        z = momentum_point - inverse * A.adjoint(residual)
        # FISTA converges if the prox errors are summable: ever more inner steps, from the last dual fields
        pull = prox.solve(z, min(10 + done, 100))
        new = z - pull
        change = float(np.linalg.norm(new - x) / max(float(np.linalg.norm(new)), tiny))
        t_next = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
        momentum_point = new + problem.real_dtype.type((t - 1) / t_next) * (new - x)
        x, t = new, t_next

        if done % CHECK_EVERY and done < max_iter and (change_tol is None or change > change_tol):
            continue
        residual = A(x) - y
        tv = problem.total_variation(x, model.isotropic)
        penalty_value, pairing = prox.value(x, tv)
        objective = 0.5 * float(np.linalg.norm(residual)) ** 2 + penalty_value
        complementarity = beyond_rounding(penalty_value - pairing, model.tv_weight * tv_rounding, objective)
        correction = problem.real_dtype.type(lipschitz) * pull
        error = float(np.linalg.norm(A.adjoint(residual) + correction))
        kkt = beyond_rounding(error, rounding, float(np.linalg.norm(correction)))
        converged = (complementarity <= tol and kkt <= kkt_tol) or (change_tol is not None and change <= change_tol)
        # The prox satisfies stationarity at the momentum point only: no exact multiplier, no finite bound.
        stopped = record.add(
            done, x, max(complementarity / tol, kkt / kkt_tol), objective=objective, lower_bound=0.0,
            complementarity=complementarity, kkt_residual=kkt, change=change,
        )  # fmt: skip
        if level is not None and level.due(done, stopped, converged or done == max_iter):
            level.keep(record, x=x, momentum_point=momentum_point, t=t, **prox.fields())
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


class _Prox:
    """prox of (gamma TV + gamma_w |W x|_1) / lipschitz by its dual fields p and r: z - grad^T p - W^T r."""

    def __init__(self, problem, model, lipschitz):
        self.problem, self.model, self.lipschitz = problem, model, lipschitz
        self.bounds = [model.tv_weight / lipschitz]
        self.dual = [np.zeros(problem.field_shape, problem.dtype)]
        if model.sparse_weight:
            self.bounds.append(model.sparse_weight / lipschitz)
            self.dual.append(np.zeros(model.transform.coefficient_shape(problem.shape), problem.dtype))
        # |grad|^2 <= 4 d and |W| = 1
        self.step = problem.real_dtype.type(1 / (4 * len(problem.shape) + len(self.dual) - 1))

    def fields(self):
        """The dual fields by name, which are all that one call leaves to the next."""
        return {f"dual_{k}": field for k, field in enumerate(self.dual)}

    def solve(self, z, steps):
        """grad^T p + W^T r after so many steps of fast gradient projection from the last fields."""
        point, t = self.dual, 1.0
        for _ in range(steps):
            fields = self._analyse(z - self._synthesise(point))
            new = [
                self._clip(part + self.step * field, bound, k == 0 and self.model.isotropic)
                for k, (part, field, bound) in enumerate(zip(point, fields, self.bounds, strict=True))
            ]
            t_next = 0.5 * (1 + np.sqrt(1 + 4 * t * t))
            momentum = self.problem.real_dtype.type((t - 1) / t_next)
            point = [a + momentum * (a - b) for a, b in zip(new, self.dual, strict=True)]
            self.dual, t = new, t_next
        return self._synthesise(self.dual)

    def value(self, x, tv):
        """gamma TV(x) + gamma_w |W x|_1, and the pairing of the multipliers with grad x and W x."""
        fields = self._analyse(x)
        pairing = self.lipschitz * sum(
            float(np.vdot(part, field).real) for part, field in zip(self.dual, fields, strict=True)
        )
        value = self.model.tv_weight * tv
        if self.model.sparse_weight:
            value += self.model.sparse_weight * float(np.sum(np.abs(fields[1]), dtype=np.float64))
        return value, pairing

    def _analyse(self, x):
        p = self.problem
        fields = [p.kernels.gradient(x, ndim=len(p.shape), threads=p.threads)]
        if self.model.sparse_weight:
            fields.append(self.model.transform.forward(x, threads=p.threads))
        return fields

    def _synthesise(self, fields):
        p = self.problem
        image = p.kernels.gradient_adjoint(fields[0], ndim=len(p.shape), threads=p.threads)
        for part in fields[1:]:
            image += self.model.transform.adjoint(part, threads=p.threads)
        return image

    def _clip(self, a, bound, by_pixel):
        if by_pixel:
            norm = np.sqrt(np.sum(a.real**2 + a.imag**2 if a.dtype.kind == "c" else a * a, axis=0))
        elif a.dtype.kind == "c":
            norm = np.abs(a)
        else:
            return np.clip(a, -bound, bound, out=a)
        a *= norm.dtype.type(bound) / np.maximum(norm, norm.dtype.type(bound))
        return a
