"""The ball iteration of ``solve_bio`` in torch, unrolled, and the training of ``LearnedStages`` through it."""

import copy
import math
from dataclasses import dataclass

import numpy as np

from .._fourier import FourierProblem
from .._safeguard import LearnedProblem
from .._validation import check_count, check_number
from ..bio import CHECK_EVERY, solve_bio
from ..io.whole import check_writable
from . import require_torch
from .stages import FARTHEST, RELAXATIONS, LearnedStages, features

__all__ = ["StageProblem", "UnrolledBall", "stage_problem", "train_stages"]

START = (1.0, 100.0, 1.6)  # b_v, b_p, relaxation
EARLIER = 0.3  # the weight of the stages of the second half together, beside the last one
ROUNDING = 1e-7  # relative distances below this count as equal


@dataclass(frozen=True)
class StageProblem:
    """An upper-level problem with its solution: real 2-D images, no sparsity term.

    A : Blur or MaskedFourier
    ybar : ndarray, shape A.data_shape
    x0, target, solution : ndarray, float64, shape A.shape
        The start, D, and the solution to high accuracy.
    total_variation_bound, epsilon : float
    isotropic : bool
    """

    A: object
    ybar: np.ndarray
    x0: np.ndarray
    target: np.ndarray
    solution: np.ndarray
    total_variation_bound: float
    epsilon: float
    isotropic: bool

    def features(self):
        return features(
            LearnedProblem(self.x0, self.target, self.total_variation_bound, self.epsilon, 1.0, self.isotropic)
        )


def stage_problem(A, y, *, isotropic=True, tol=1e-7, max_iter=4000, **options):
    """A ``StageProblem`` from one observation (float64), solved by ``solve_bio`` with these options."""
    solution = solve_bio(A, y, isotropic=isotropic, tol=tol, max_iter=max_iter, **options)
    lower = solution.details["lower"]
    x0 = options["lower"] if lower is None else lower.x
    known = (solution.details[name] for name in ("total_variation_bound", "epsilon"))
    return StageProblem(A, A(x0), x0, solution.details["target"], solution.x, *known, bool(isotropic))


class UnrolledBall:
    """The operator T of the ball iteration (mathematics.md 4c) for a batch of problems of one shape, differentiable.

    Fields as in ``LearnedState``, with an axis for the batch in front; eta = 1.

    Parameters
    ----------
    problems : sequence of StageProblem
    dtype : numpy dtype, float32 or float64
    """

    def __init__(self, problems, dtype=np.float64):
        self.torch = torch = require_torch("unrolled iterations")
        first = problems[0]
        if any(p.A.shape != first.A.shape or p.isotropic != first.isotropic for p in problems):
            raise ValueError("problems: must have one shape and one kind of total variation")
        if len(first.A.shape) != 2 or first.target.dtype.kind != "f":
            raise ValueError(f"problems: expected real images with 2 axes, got shape {first.A.shape}")
        self.isotropic, self.shape = first.isotropic, first.A.shape
        self.pixels = math.prod(self.shape)
        fourier = FourierProblem(first.A, np.float64)
        complex_dtype = np.result_type(dtype, np.complex64)

        def stack(arrays, as_dtype=dtype):
            return torch.from_numpy(np.stack([np.asarray(a) for a in arrays]).astype(as_dtype))

        self.transfer = stack([p.A.transfer(np.float64) for p in problems], complex_dtype)
        self.data = stack([p.A.coefficients(p.ybar, fourier.fft)[0] for p in problems], complex_dtype)
        self.target_spectrum = stack([fourier.fft.coefficients(p.target) for p in problems], complex_dtype)
        self.start_image = stack([p.x0 for p in problems])
        self.solution = stack([p.solution for p in problems])
        self.bound = stack([p.total_variation_bound for p in problems])
        self.epsilon = stack([p.epsilon for p in problems])
        rows, columns = fourier.fft.laplacian()
        self.laplacian = torch.from_numpy(np.add.outer(rows, columns).astype(dtype))
        self.copies = torch.from_numpy(fourier.copies.astype(dtype))
        self.tiny = float(np.finfo(dtype).tiny) ** 0.5

    def take(self, indices):
        """Some of the problems."""
        taken = copy.copy(self)
        for name in ("transfer", "data", "target_spectrum", "start_image", "solution", "bound", "epsilon"):
            setattr(taken, name, getattr(self, name)[indices])
        return taken

    def gradient(self, x):
        return self.torch.stack([self.torch.roll(x, -1, axis) - x for axis in (-2, -1)], 1)

    def divergence(self, p):
        return sum(self.torch.roll(p[:, k], 1, axis) - p[:, k] for k, axis in enumerate((-2, -1)))

    def square_norm(self, spectrum):
        """|x|^2 from the Fourier coefficients of x."""
        return self.pixels * ((spectrum.real**2 + spectrum.imag**2) * self.copies).sum((-2, -1))

    def magnitude(self, q):
        # tiny: the derivative at 0 is 0
        squares = (q**2).sum(1, keepdim=True) if self.isotropic else q**2
        return (squares + self.tiny).sqrt()

    def clip(self, q):
        """clip(q, theta); the derivative of theta is that with its active set held."""
        torch = self.torch
        magnitude = self.magnitude(q)
        flat = magnitude.flatten(1)
        with torch.no_grad():
            descending = flat.sort(1, descending=True).values
            excess = descending.cumsum(1) - self.bound[:, None]
            index = torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype)
            count = (descending * index > excess).sum(1, keepdim=True).clamp(min=1)
            active = flat > excess.gather(1, count - 1) / count
            inside = flat.sum(1) <= self.bound
        theta = ((flat * active).sum(1) - self.bound) / active.sum(1).clamp(min=1)
        theta = torch.where(inside, torch.zeros_like(theta), theta)
        return q * torch.clamp(theta[:, None, None, None] / magnitude, max=1)

    def start(self):
        """(q, residual) that ``solve_bio`` starts from."""
        q = self.gradient(self.start_image)
        return q, self.transfer * self.torch.fft.rfft2(self.start_image, norm="forward") - self.data

    def apply(self, q, residual, b_v, b_p, relaxation):
        """x, and T of the fields; penalties of shape (batch,)."""
        fft = self.torch.fft
        clipped = self.clip(q)
        shrink = self.torch.clamp(self.epsilon / (self.square_norm(residual) + self.tiny).sqrt(), max=1)
        shrink, b_v, b_p = (value[:, None, None] for value in (shrink, b_v, b_p))
        right = self.target_spectrum + b_v * fft.rfft2(self.divergence(q - 2 * clipped), norm="forward")
        right = right + b_p * self.transfer.conj() * (self.data + (2 * shrink - 1) * residual)
        spectrum = right / (1 + b_p * self.transfer.abs() ** 2 + b_v * self.laplacian)
        x = fft.irfft2(spectrum, s=self.shape, norm="forward")
        q = q + relaxation * (self.gradient(x) - q + clipped)
        return x, q, residual + relaxation * (self.transfer * spectrum - self.data - shrink * residual)

    def run(self, b_v, b_p, relaxation, extrapolation):
        """The images of all stages; as ``solve_bio``, without a proposal in the first and in examined iterations."""
        now, before, images = self.start(), None, []
        for k, coefficients in enumerate(extrapolation):
            applied = now
            if proposes(k):
                applied = [z + c * (z - z0) for c, z, z0 in zip(coefficients, now, before, strict=True)]
            before = now
            x, *now = self.apply(*applied, b_v, b_p, relaxation)
            images.append(x)
        return images

    def distances(self, images):
        """log10 of |x - solution| / |solution|, shape (stages, batch)."""
        scale = self.solution.norm(dim=(-2, -1))
        relative = [(x - self.solution).norm(dim=(-2, -1)) / scale for x in images]
        return (self.torch.stack(relative) + ROUNDING).log10()


def proposes(k):
    """Whether ``solve_bio`` lets stage k propose."""
    return k > 0 and (k + 1) % CHECK_EVERY != 0


def train_stages(
    problems, out, *, stages=10, steps=300, batch=12, learning_rate=0.05, seed=0, dtype=np.float32, threads=None,
    callback=None, note="",
):  # fmt: skip
    """Train ``LearnedStages`` end to end through the unrolled iteration and write them.

    Adam, with a cosine, on the mean of log10 |x_k - x*|/|x*| at the last stage, plus 0.3 times its mean over the
    second half of the stages before; no check is unrolled.  The same arguments give the same stages.

    Parameters
    ----------
    problems : sequence of StageProblem
        Of one shape and one kind of total variation.
    out : str or Path
        The stages (safetensors).
    stages, steps, batch : int
        Iterations that are learned, steps of Adam, problems a step.
    learning_rate : float
        The first one.
    seed : int
        Of the choice of problems.
    dtype : float32 or float64
    threads : int, optional
        torch's threads; None leaves them as they are.
    callback : callable (dict) -> bool, optional
        Called after every step with step and loss; True stops, and nothing is written.
    note : str
        For the record inside the file, such as the command.

    Returns
    -------
    list of float
        The losses.

    Raises
    ------
    ImportError
        Without torch.
    OutputError
        For a path that cannot be written.
    FloatingPointError
        If the loss is no longer finite.
    """
    torch = require_torch("training")
    check_writable(out)
    for name, value in (("stages", stages), ("steps", steps), ("batch", batch)):
        check_count(name, value)
    check_count("seed", seed, 0)
    check_number("learning_rate", learning_rate, strict=True)
    if threads is not None:
        torch.set_num_threads(check_count("threads", threads))
    batch = min(batch, len(problems))
    values = np.stack([p.features() for p in problems])
    mean, scale = values.mean(0), np.maximum(values.std(0), 1e-3)
    standard = torch.from_numpy(np.clip((values - mean) / scale, -FARTHEST, FARTHEST).astype(dtype))

    everything = UnrolledBall(problems, dtype)
    low, high = RELAXATIONS
    share = (START[2] - low) / (high - low)
    weights = {
        "offset": np.log(START[:2]),
        "slope": np.zeros((standard.shape[1], 2)),
        "logit": np.array([math.log(share / (1 - share))]),
        "extrapolation": np.zeros((stages, 2)),
    }
    weights = {name: torch.from_numpy(value.astype(dtype)).requires_grad_() for name, value in weights.items()}

    def relaxation():
        return low + (high - low) * torch.sigmoid(weights["logit"])

    optimiser = torch.optim.Adam(list(weights.values()), lr=learning_rate)
    rng, losses = np.random.default_rng(seed), []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = rng.choice(len(problems), batch, replace=False)
        ball = everything.take(chosen)
        b_v, b_p = (weights["offset"] + standard[chosen] @ weights["slope"]).exp().T
        distances = ball.distances(ball.run(b_v, b_p, relaxation(), weights["extrapolation"]))
        loss = distances[-1].mean()
        if stages > 1:
            loss = loss + EARLIER * distances[(stages - 1) // 2 : -1].mean()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"step {step + 1}: the loss is not finite; lower the learning rate")
        if callback is not None and callback({"step": step + 1, "loss": losses[-1]}):
            return losses
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    trained = {name: value.detach().numpy() for name, value in weights.items() if name != "logit"}
    trained |= {"mean": mean, "scale": scale, "relaxation": relaxation().detach().numpy()}
    record = {"stages": stages, "steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    record |= {"problems": len(problems), "shape": list(problems[0].A.shape), "isotropic": problems[0].isotropic}
    record |= {"loss": losses[-1], "torch": torch.__version__, "note": note}
    LearnedStages(trained).write(out, record)
    return losses
