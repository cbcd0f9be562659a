"""SCICO (JAX), single precision: ADMM; its statistics are switched off, which makes it two to three times faster."""

import numpy as np
import scico.numpy as snp
from scico import functional, linop, loss
from scico.optimize.admm import ADMM, CircularConvolveSolver, LinearSubproblemSolver

PACKAGE, TV = "scico", "isotropic"
PENALTY = 0.05
METHODS = {
    "deblurring": f"ADMM, exact Fourier x-update, penalty {PENALTY}",
    # with a tolerance of 1e-4 it stalls above a gap of 1e-4
    "mri": f"ADMM, x-update by at most 10 CG steps to 1e-5, penalty {PENALTY}",
}


def _make(A, y, x0, case, solver):
    C = linop.FiniteDifference(y.shape, input_dtype=y.dtype, circular=True)

    def make(iterations):
        admm = ADMM(
            f=loss.SquaredL2Loss(y=y, A=A), g_list=[case.weight * functional.L21Norm()], C_list=[C],
            rho_list=[PENALTY], x0=x0, maxiter=iterations, subproblem_solver=solver(),
            itstat_options={"display": False, "itstat_func": lambda o: (), "fields": {}},
        )  # fmt: skip
        return lambda: admm.solve().block_until_ready()

    return make


def deblurring(case):
    y = snp.array(case.y.astype(np.float32))
    psf = snp.array(case.psf.astype(np.float32))
    A = linop.CircularConvolve(h=psf, input_shape=y.shape, h_center=[k // 2 for k in psf.shape])
    return _make(A, y, y, case, CircularConvolveSolver)


def mri(case):
    y = snp.array(case.y.astype(np.complex64))
    A = linop.Diagonal(snp.array(case.mask.astype(np.complex64))) @ linop.DFT(y.shape, norm="ortho")
    return _make(A, y, A.adj(y), case, lambda: LinearSubproblemSolver(cg_kwargs={"tol": 1e-5, "maxiter": 10}))
