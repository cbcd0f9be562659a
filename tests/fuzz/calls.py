"""Targets: the public functions.  One or two arguments of a good call are replaced by what they do not take, or by a
view of the same numbers, which must give the same bits."""

import contextlib
import functools
import inspect
import json
import re
import tempfile
import traceback
from pathlib import Path

import numpy as np

import bioperf
from bioperf import DivergenceError, coils, masks, targets
from bioperf.io import InputError, OutputError

from .harness import Failure, check, target

SHAPE = (12, 10)
PACKAGE = str(Path(bioperf.__file__).parent)


class Odd:
    """An object that answers nothing, or the wrong thing."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array")

    def __float__(self):
        raise ValueError("no number")

    def __repr__(self):
        return "Odd()"


class Subclass(np.ndarray):
    """An array whose arithmetic is not the usual."""

    def __array_ufunc__(self, *arguments, **options):
        raise RuntimeError("no arithmetic")


ANYTHING = (
    None, "text", "", b"x", object(), [], {}, (), 1j, float("nan"), float("inf"), -float("inf"), True, False, 10**400,
    -1,
    0, 1, 2, 3, -2.5, 0.5, 1e-320, 1e300, -1e300, 1e-30, 7, 10**9, 2**63, Ellipsis, {1}, [[1], [1, 2]], ["a"], [None],
    Odd(), np.array("x"), np.array(None), np.float64(0.5), np.float32(1), np.int64(3), np.bool_(True), np.nan,
    np.datetime64("2020"), np.array([]), np.zeros((0, 5)), np.array([1.0, 2.0]), np.array([0.5]), np.array(0.5),
    np.ones(SHAPE), np.ones((2, *SHAPE), np.float32), np.full(SHAPE, np.nan), "nlm", "haar", "admm", "\n\n\x1b", "cuda",
    (12, 10), (0, 0), (-1, 10), (2**40, 2**40), ((1, 2), 3), [12, 10], (12.0, 10), "12", np.array([12, 10]),
    lambda x: x,
    lambda: None, int, np.add, Path("none"), range(3), iter([1]), -0.0, 1 + 1e-16, np.float16(0.1), np.longdouble(0.1),
    memoryview(b"abc"), bytearray(b"abc"), slice(3), NotImplemented, ValueError("x"), np.ma.masked, frozenset(),
)  # fmt: skip
_HUGE = (10**9, 2**63, 10**400, (2**40, 2**40))


# Views of the same numbers


def _strided(a):
    wide = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def _reversed(a):
    return np.ascontiguousarray(a[tuple(slice(None, None, -1) for _ in a.shape)])[
        tuple(slice(None, None, -1) for _ in a.shape)
    ]


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _swapped(a):
    return a.astype(a.dtype.newbyteorder(">"))


def _mapped(a):
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, a)
        return np.load(file.name, mmap_mode="r")


def _unaligned(a):
    raw = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:]
    return raw.view(a.dtype).reshape(a.shape)


def _matrix(a):
    return np.matrix(a) if a.ndim == 2 else a.view(np.recarray) if False else a.copy(order="F")


def _masked_nowhere(a):
    return np.ma.masked_array(a.copy(), mask=False)


VIEWS = (_strided, _reversed, np.asfortranarray, _read_only, _swapped, _mapped, _unaligned, _matrix, _masked_nowhere)


# Damaged arrays


def _place(a, value):
    def change(case):
        changed = np.array(a)
        with np.errstate(all="ignore"):
            changed[tuple(int(case.rng.integers(n)) for n in a.shape)] = value
        return changed

    return change


def _damaged_array(case, a):
    rng, what = case.rng, case.rng.random()
    if what < 0.25 and a.size:
        kind = case.pick(("float16", "int32", "uint8", "bool", "complex64", "complex128", "object", "str", "float128",
            "S3", "M8[s]", "float32", "float64"))  # fmt: skip
        with contextlib.suppress(ValueError, TypeError):
            return a.astype(kind)
    if what < 0.5:
        axis = int(rng.integers(max(1, a.ndim)))
        changes = (
            lambda: a[0], lambda: a[None], lambda: a[..., None], lambda: a.T, lambda: a[:-1], lambda: a[..., :-1],
            lambda: a[:0], lambda: a[..., :0], lambda: np.zeros((3, 0, *a.shape), a.dtype), lambda: a.ravel(),
            lambda: np.concatenate([a, a], axis), lambda: a.ravel()[0], lambda: a.reshape((1,) * 20 + a.shape),
            lambda: a[:1], lambda: a[..., :1], lambda: a.tolist(), lambda: list(a),
            lambda: np.broadcast_to(a, (2, *a.shape)),
            lambda: np.ma.masked_array(a, mask=rng.random(a.shape) < 0.3), lambda: a.copy().view(Subclass),
            lambda: np.array([a, None], object), lambda: a.view(np.uint8),
            lambda: np.ma.masked_less(a.real, np.median(a.real)),
        )  # fmt: skip
        return case.pick(changes)()
    value = case.pick((np.nan, np.inf, -np.inf, 1e30, 1e300, 1e-45, -1.0, 0.0, 1e38, 2.0))
    if what < 0.75 and a.size:
        return _place(a if a.dtype.kind in "fc" else a.astype(float), value)(case)
    factor = case.pick((0.0, 1e-30, 1e30, 1e-300, 1e300, -1.0, 1e15, 1e-15, 1e-42, 1e7))
    with np.errstate(all="ignore"):
        return (a * np.asarray(factor, a.real.dtype if a.dtype.kind in "fc" else float)).astype(a.dtype, copy=False)


# Outcomes


def _words(value):
    text = (
        repr(value) if not isinstance(value, np.ndarray) else f"array {value.shape} {value.dtype} {value.ravel()[:3]}"
    )
    return text.replace("\n", " ")[:300]


def _documented(error, huge):
    """Whether this is an error that the docstrings name: raised by the package itself, and of the argument's name."""
    if isinstance(error, DivergenceError | OutputError | InputError | ImportError):
        return True
    if isinstance(error, MemoryError):
        return huge
    if not isinstance(error, TypeError | ValueError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    text = str(error)
    inside = frames[-1].filename.startswith(PACKAGE)
    return inside and re.match(r"^[A-Za-z_][^:\n]{0,400}: ", text) is not None and len(text) < 700


def _finite(found):
    if isinstance(found, np.ndarray):
        return found.dtype.kind not in "fc" or bool(np.isfinite(found).all())
    if isinstance(found, float | np.floating):
        return not np.isnan(found)
    return True


def check_solution(solution):
    """A certificate that holds."""
    check(isinstance(solution.x, np.ndarray) and np.isfinite(solution.x).all(), "x has NaN or infinity")
    objective, bound = np.asarray(solution.objective), np.asarray(solution.lower_bound)
    check(np.isfinite(objective).all() and not np.isnan(bound).any(), f"objective {objective}, bound {bound}")
    scale = np.maximum(np.abs(objective), np.abs(bound))
    single = solution.x.real.dtype == np.float32
    # the upper level's objective is below its bound where constraints are violated
    slack = (1e-3 if single else 1e-6) * scale + 1e-30
    if not solution.infeasibility:
        check((bound <= objective + slack).all(), f"lower bound {bound} above the objective {objective}")
    check(isinstance(solution.status, str) and solution.status, "no status")


def check_any(found):
    if hasattr(found, "lower_bound"):
        check_solution(found)
    elif isinstance(found, tuple):
        for part in found:
            check_any(part)
    else:
        check(_finite(found), f"not finite: {_words(found)}")


def anything(found):
    """Of a transform, in which NaN stays NaN."""
    check(isinstance(found, np.ndarray), "no array")


def _values(found):
    """What is compared between views."""
    if hasattr(found, "x") and isinstance(found.x, np.ndarray):
        return [found.x, np.asarray(found.objective)]
    if isinstance(found, tuple):
        return [value for part in found for value in _values(part)]
    return [np.asarray(found)] if isinstance(found, np.ndarray | float | int | np.generic) else []


class Call:
    """A function, its good arguments by name, and what is to be checked of its result."""

    def __init__(self, function, arguments, *, verify=check_any, fixed=(), names=None):
        self.function, self.arguments, self.verify = function, arguments, verify
        self.fixed = set(fixed)
        self.names = names

    def good(self):
        found = self.arguments()
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in found.items()}


def run_call(case, call):
    arguments = call.good()
    names = [name for name in arguments if name not in call.fixed]
    arrays = [name for name in names if isinstance(arguments[name], np.ndarray) and arguments[name].ndim]
    if arrays and case.chance(0.2):
        return _run_view(case, call, arguments, case.pick(arrays))
    huge, hostile = False, {}
    for name in case.rng.choice(names, min(len(names), int(case.rng.integers(1, 3))), replace=False):
        name, value = str(name), arguments[str(name)]
        if isinstance(value, np.ndarray) and value.ndim and case.chance(0.8):
            arguments[name] = _damaged_array(case, value)
        elif isinstance(value, tuple) and value and case.chance(0.6):
            arguments[name] = tuple(case.pick(ANYTHING) if case.chance(0.5) else part for part in value)
        else:
            arguments[name] = case.pick(ANYTHING)
        hostile[name] = arguments[name]
        huge = huge or any(arguments[name] is value for value in _HUGE) or "10000" in _words(arguments[name])
    case.note({name: _words(value) for name, value in hostile.items()})
    if any(name in call.arguments() and _too_large(name, value) for name, value in hostile.items()):
        return False
    before = {
        name: value.copy() for name, value in arguments.items() if type(value) is np.ndarray and value.dtype != object
    }
    try:
        found = call.function(**arguments)
    except Exception as error:
        if _documented(error, huge) or any(callable(value) for value in hostile.values()):
            return False
        raise Failure(f"undocumented {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        for name, value in before.items():
            check(np.array_equal(arguments[name], value, equal_nan=value.dtype.kind in "fc"), f"{name} was changed")
    masked = [
        name
        for name, value in hostile.items()
        if np.ma.isMaskedArray(value) and value.ndim and np.ma.getmaskarray(value).any()
    ]
    check(not masked, f"masked entries of {masked} were taken for data")
    call.verify(found)
    return True


def _too_large(name, value):
    """Arguments that ask for hours of honest work."""
    return (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and 10**5 < value < (10**500 if name in ("max_iter", "rounds", "trials") else 10**100)
    )


def _run_view(case, call, arguments, name):
    view = case.pick(VIEWS)
    value = arguments[name]
    if value.dtype.kind not in "fciub":
        return False
    case.note(name, view.__name__)
    expected = _values(call.function(**arguments))
    changed = view(value)
    check(np.array_equal(np.asarray(changed), value), "the view is not of the same numbers")
    found = _values(call.function(**{**arguments, name: changed}))
    check(len(found) == len(expected), "another kind of result")
    for a, b in zip(found, expected, strict=True):
        check(
            a.shape == b.shape and a.dtype == b.dtype, f"{a.shape} {a.dtype} of the view, {b.shape} {b.dtype} of a copy"
        )
        check(a.tobytes() == b.tobytes(), "a view of the same numbers gives other bits")
    return True


def from_signature(function, **values):
    """The good arguments, with the defaults of the others."""
    parameters = inspect.signature(function).parameters.values()
    defaults = {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    return lambda: defaults | values


# The good calls


@functools.cache
def data():
    """Small problems: images, psf, masks, k-space, coils."""
    rng = np.random.default_rng(0)
    image = np.clip(
        np.add.outer(np.linspace(0, 0.4, 12), np.linspace(0, 0.4, 10)) + (rng.random(SHAPE) > 0.7) * 0.2, 0, 1
    )
    psf = np.array([[0.0, 1, 0], [1, 3, 1], [0, 1, 0]]) / 7
    A = bioperf.Blur(psf, SHAPE)
    y = A(image) + 0.01 * rng.normal(size=SHAPE)
    mask = masks.gaussian(SHAPE, 0.6, seed=1)
    F = bioperf.MaskedFourier(mask)
    kspace = F(image) + 0.01 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)) * mask
    maps = coils.simulate_maps(SHAPE, 2)
    C = bioperf.MultiCoilFourier(mask, maps)
    return {
        "image": image, "psf": psf, "A": A, "y": y, "y32": y.astype(np.float32), "mask": mask, "F": F, "kspace": kspace,
        "maps": maps, "C": C, "coils": C(image.astype(complex)), "stack": np.stack([y, y[::-1]]),
        "kspace64": kspace.astype(np.complex64), "full": masks.gaussian((24, 20), 0.7, calibration=10, seed=2),
    }  # fmt: skip


@functools.cache
def calls():
    d, light = data(), {"max_iter": 12, "threads": 1}
    F24 = bioperf.MaskedFourier(np.fft.ifftshift(np.ones((24, 20), bool)), real=False)
    many = np.stack([F24(np.ones((24, 20)) + 0j), F24(np.eye(24, 20) + 0.5 + 0j)])
    T = bioperf.UndecimatedWavelet("haar", 1)

    def operator(A, argument):
        return Call(lambda x: A(x), lambda: {"x": argument})

    def adjoint(A, argument):
        return Call(lambda z: A.adjoint(z), lambda: {"z": argument})

    def blur(psf, shape):
        A = bioperf.Blur(psf, shape)
        check(np.isfinite(A.gram_spectrum).all() or A.norm() > 1e150, "norm")
        return A(np.zeros(A.shape))

    def masked(mask, real, centred):
        A = bioperf.MaskedFourier(mask, real=real, centred=centred)
        return A.adjoint(A(np.ones(A.shape)))

    def multicoil(mask, maps, centred):
        A = bioperf.MultiCoilFourier(mask, maps, centred=centred)
        return A.adjoint(A(np.ones(A.shape, complex)))

    def transform(kind):
        def use(x, **options):
            T = kind(**options)
            c = T.forward(x)
            back = T.adjoint(c)
            x = np.asarray(x)
            size = np.abs(back - x).max()
            check(size <= 1e-4 * np.abs(x).max() + 1e-37 or not np.abs(x).max() < 1e30, f"not its inverse: {size}")
            return c

        return use

    def metric(function, **more):
        large = np.kron(d["image"], np.ones((2, 2)))
        return Call(function, lambda: {"x": large, "reference": large[::-1], **more})

    def select(problem, **arguments):
        return bioperf.select_hyperparameters(problem, **arguments).x

    tv = bioperf.TVWeight(d["F"], d["kspace"], max_iter=20, tol=1e-2)
    lower = functools.partial(Call, bioperf.solve_lower)
    bio = functools.partial(Call, bioperf.solve_bio)

    def made_problem(A, y, **arguments):
        problem = bioperf.TVWavelet(A, y, **arguments)
        return problem.constrained((1.0, 1.0)).x

    return {
        "operators": (
            Call(blur, lambda: {"psf": d["psf"], "shape": SHAPE}), operator(d["A"], d["image"]),
            adjoint(d["A"], d["image"]),
            Call(masked, lambda: {"mask": d["mask"], "real": True, "centred": False}), operator(d["F"], d["image"]),
            adjoint(d["F"], d["kspace"]),
            Call(multicoil, lambda: {"mask": d["mask"], "maps": d["maps"], "centred": False}),
            operator(d["C"], d["image"].astype(complex)), adjoint(d["C"], d["coils"]),
        ),
        "transforms": (
            Call(transform(bioperf.Wavelet), lambda: {"x": d["image"][:, :8], "name": "haar", "level": 1, "ndim": 2},
                verify=anything),
            Call(transform(bioperf.UndecimatedWavelet),
                lambda: {"x": d["image"], "name": "haar", "level": 2, "ndim": 2}, verify=anything),
            Call(transform(bioperf.UndecimatedWavelet), lambda: {"x": d["y32"], "name": "db2", "level": 2, "ndim": 2},
                verify=anything),
            Call(transform(bioperf.Wavelet), lambda: {"x": d["image"][:8, :8], "name": "db2", "level": 1, "ndim": 2},
                verify=anything),
            Call(transform(bioperf.DCT), lambda: {"x": d["y32"], "ndim": 2}, verify=anything),
            Call(lambda c: T.adjoint(c), lambda: {"c": T.forward(d["image"])}, verify=anything),
        ),
        "masks": tuple(
            Call(function, from_signature(function, shape=SHAPE, rate=0.5))
            for function in (masks.cartesian, masks.gaussian, masks.poisson_disc, masks.radial)
        ),
        "metrics": (
            metric(bioperf.psnr, data_range=1.0), metric(bioperf.ssim, data_range=1.0), metric(bioperf.rlne),
            Call(bioperf.nre, lambda: {"A": d["A"], "x": d["image"], "y": d["y"]}),
        ),
        "estimates": (
            Call(bioperf.estimate_noise, lambda: {"y": d["y"], "ndim": 2}),
            Call(bioperf.estimate_kspace_noise, lambda: {"kspace": d["kspace"], "mask": d["mask"], "centred": False}),
            Call(bioperf.hermitian_noise, lambda: {"kspace": d["kspace"], "mask": d["mask"], "centred": False}),
            Call(coils.estimate_maps, from_signature(coils.estimate_maps, kspace=many, mask=np.ones((24, 20), bool))),
            Call(coils.calibration_region, lambda: {"mask": d["mask"], "centred": False}),
            Call(coils.simulate_maps, lambda: {"shape": SHAPE, "coils": 2, "distance": 1.5}),
        ),
        "solve_lower": (
            lower(from_signature(bioperf.solve_lower, A=d["A"], y=d["y"], tv_weight=0.01, **light)),
            lower(from_signature(bioperf.solve_lower, A=d["A"], y=d["y32"], tv_weight=0.01, **light)),
            lower(from_signature(bioperf.solve_lower, A=d["F"], y=d["kspace"], tv_weight=0.01, **light)),
            lower(from_signature(bioperf.solve_lower, A=d["C"], y=d["coils"], tv_weight=0.01, **light)),
            lower(from_signature(bioperf.solve_lower, A=d["A"], y=d["stack"], tv_weight=0.01, **light)),
            lower(from_signature(bioperf.solve_lower, A=d["F"], y=d["kspace64"], tv_weight=0.01, wavelet_weight=0.01,
                wavelet="undecimated", **light)),
            lower(from_signature(bioperf.solve_lower, A=d["A"], y=d["y"], tv_weight=0.01, method="apg", **light)),
        ),
        "solve_bio": (
            bio(from_signature(bioperf.solve_bio, A=d["A"], y=d["y"], tv_weight=0.01, target="identity", epsilon=0.05,
                kappa=0.1, **light)),
            bio(from_signature(bioperf.solve_bio, A=d["A"], y=d["y32"], tv_weight=0.01,
                target=d["image"].astype(np.float32), epsilon=0.05, **light)),
            bio(from_signature(bioperf.solve_bio, A=d["F"], y=d["kspace"], tv_weight=0.01, target="identity",
                epsilon=0.05, sparsity_weight=0.01, transform="undecimated", **light)),
            bio(from_signature(bioperf.solve_bio, A=d["C"], y=d["coils"], tv_weight=0.01, target="identity",
                epsilon=0.05, **light)),
            bio(from_signature(bioperf.solve_bio, A=d["A"], y=d["stack"], tv_weight=0.01, target="identity",
                epsilon=0.05, **light)),
            bio(from_signature(bioperf.solve_bio, A=d["A"], y=d["y"], tv_weight=0.01, target="identity",
                splitting="slack", **light)),
        ),
        "deblur": (
            Call(bioperf.deblur, from_signature(bioperf.deblur, y=d["y"], psf=d["psf"], target="identity", **light)),
            Call(bioperf.deblur, from_signature(bioperf.deblur, y=d["y32"], psf=d["psf"], **light)),
            Call(bioperf.deblur, from_signature(bioperf.deblur, y=d["y32"], psf=d["psf"], target="identity",
                boundary="unknown", **light)),
            Call(bioperf.deblur, from_signature(bioperf.deblur, y=np.stack([d["y"]] * 3, -1), psf=d["psf"],
                target="identity", channel_axis=-1, **light)),
        ),
        "reconstruct_mri": (
            Call(bioperf.reconstruct_mri,
                from_signature(bioperf.reconstruct_mri, kspace=d["kspace"], mask=d["mask"], target="identity",
                    **light)),
            Call(bioperf.reconstruct_mri,
                from_signature(bioperf.reconstruct_mri, kspace=d["kspace64"], mask=d["mask"], real=True, **light)),
            Call(bioperf.reconstruct_mri,
                from_signature(bioperf.reconstruct_mri, kspace=d["coils"], mask=d["mask"], maps=d["maps"],
                    target="identity", **light)),
        ),
        "selection": (
            Call(select, from_signature(bioperf.select_hyperparameters, problem=tv, method="grid", trials=2,
                threads=1), fixed=("options",)),
            Call(select, from_signature(bioperf.select_hyperparameters, problem=tv, method="random", trials=2,
                threads=1)),
            Call(made_problem, lambda: {"A": d["F"], "y": d["kspace"], "reference": None, "wavelet": None,
                "isotropic": True, "tol": 1e-2, "max_iter": 10}),
        ),
        "targets": (
            Call(lambda y, **o: bioperf.solve_bio(d["A"], y, target=targets.NonLocalMeans(**o), tv_weight=0.01,
                max_iter=5).x, lambda: {"y": d["y"], "strength": 0.05}),
            Call(lambda y, **o: bioperf.solve_bio(d["A"], y, target=targets.Deconvolution(**o), tv_weight=0.01,
                max_iter=5).x, lambda: {"y": d["y"], "alpha": 0.05}),
        ),
    }  # fmt: skip


def _register(name, share):
    @target(f"call-{name}", share)
    def run(case):
        return run_call(case, case.pick(calls()[name]))


for _name, _share in (
    ("operators", 6), ("transforms", 4), ("masks", 3), ("metrics", 3), ("estimates", 4), ("solve_lower", 7),
    ("solve_bio", 6),
    ("deblur", 3), ("reconstruct_mri", 2), ("selection", 1.5), ("targets", 1),
):  # fmt: skip
    _register(_name, _share)


@target("state", 2)
def states(case):
    """States of solvers that hold what no file keeps."""
    from bioperf.checkpoint import load_state, save_state

    state = {"stage": "upper", "upper": {"x": data()["image"], "iteration": 3}, "a": [1, 2.5, None, "t", True]}
    place = case.pick((state, state["upper"], state["upper"]))
    key = case.pick(("x", "new", "", "a.b", "a/b", "..", 3, "\n", "é", "document", "sha256", "k" * 300, None, "\ud800"))
    place[key] = value = case.pick(
        (*ANYTHING, *(view(data()["image"]) for view in VIEWS), np.zeros((3, 0)), np.array(1j), np.float16([1]))
    )
    case.note(repr(key), _words(value))
    path = case.folder / "state.npz"
    try:
        save_state(path, state)
    except (TypeError, ValueError, OutputError) as error:
        check(not path.exists(), "a file is left")
        check(_documented(error, False), f"undocumented {error!r}")
        return False
    found = load_state(path)
    kept = found["upper"] if place is state["upper"] else found
    if isinstance(value, np.ndarray):
        check(
            kept[key].dtype == value.dtype.newbyteorder("=")
            and np.array_equal(kept[key], value, equal_nan=value.dtype.kind in "fc"),
            "array",
        )
    elif not (isinstance(value, float) and np.isnan(value)):
        check(kept[key] == json.loads(json.dumps(value, default=float)), f"{kept[key]!r} for {value!r}")
    return True


@target("write", 3)
def writers(case):
    """Images of every kind to every format: written whole and read back, or refused, and then nothing is there."""
    from bioperf.io import read_image, write_image, write_nifti, write_reconstruction

    image = case.pick(
        (data()["image"], data()["y32"], data()["stack"], np.stack([data()["y32"]] * 3, -1), data()["kspace64"])
    )
    case.note("image", image.shape, image.dtype)
    odd = case.pick(
        (
            lambda: _damaged_array(case, image),
            lambda: case.pick(ANYTHING),
            lambda: case.pick(VIEWS)(image),
            lambda: image,
        )
    )()
    name = case.pick(("o.png", "o.tif", "o.npy", "o.nii", "o.nii.gz", "o.jpg", "o", "a b\n.png", "none/o.npy"))
    case.note(name, _words(odd))
    path = case.folder / name
    write = case.pick((write_image, write_nifti, write_reconstruction))
    try:
        write(path, odd)
    except (TypeError, ValueError, OutputError, InputError) as error:
        check(_documented(error, False), f"undocumented {type(error).__name__}: {error}")
        check(not list(case.folder.iterdir()), "a file is left")
        return False
    check([p.name for p in case.folder.iterdir()] == [name], "other files are left")
    if write is write_image and isinstance(odd, np.ndarray) and np.isfinite(np.asarray(odd)).all():
        with contextlib.suppress(InputError):  # a shape that is no image, as it was written
            found, _ = read_image(path)
            if path.suffix != ".png" and found.dtype == odd.dtype and found.shape == odd.shape:
                check(np.array_equal(found, odd), "read back otherwise")
    return True
