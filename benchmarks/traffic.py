"""What each kernel of the facade reads, writes and computes, and arrays to call it on.

Compare with the formulas of kernels/_reference.py.  Arrays are named by a letter; a digit tells two of a kind apart,
and a capital is one for each item of a batch:

    x image       q field (2, image)       f spectrum (half, complex)     w coefficients (7, image)
    p magnitudes of an image, >= 0         g, h reals in (0, 1) of a spectrum's shape, h (1, spectrum)
    z complex image       c coils (8, complex image)       m mask, a real image of zeros and ones

An array that is updated in place is read and written.  Each is counted once, however often a cache has to fetch it;
vectors along an axis and numbers are not counted.
"""

import numpy as np

COILS, BANDS, ITEMS = 8, 7, 4
# To be passed on from an argument's place to what ``Arrays`` has under that name.
LAPLACIAN, COPIES, FILTERS = "laplacian", "copies", "filters"


class Each:
    """An argument: a vector of float64 with that number for each item."""

    def __init__(self, value):
        self.value = value


class Sums:
    """An argument: where the sums of each item go; (items, count), or (items,) without a count."""

    def __init__(self, *count):
        self.count = count


class Kernel:
    """One kernel: its arrays, and ``flops`` operations for each element of the array ``per`` (a root counts as one)."""

    def __init__(self, name, reads, writes, flops, per, arguments, call=None, **options):
        self.name, self.flops, self.per = name, flops, per
        self.reads, self.writes = reads.split(), writes.split()
        self.arguments, self.options, self._call = arguments, options, call

    def bytes(self, arrays):
        return sum(arrays.nbytes(name) for name in (*self.reads, *self.writes))

    def operations(self, arrays):
        return self.flops * arrays.elements(self.per)

    def bound(self, kernels, arrays, threads):
        """A function of no arguments that calls the kernel once on these arrays."""
        if self._call:
            return self._call(getattr(kernels, self.name), arrays, threads)
        function, values = getattr(kernels, self.name), [arrays.value(a) for a in self.arguments]
        options = {key: arrays.value(a) for key, a in self.options.items()}
        return lambda: function(*values, threads=threads, **options)


class Arrays:
    """Arrays for images of one shape (two axes) and dtype, made when they are first asked for.

    ``place`` moves a NumPy array to where the kernels want it.
    """

    def __init__(self, shape, dtype, place=lambda a: a, items=ITEMS):
        self.shape, self.dtype, self.items, self._place = shape, np.dtype(dtype), items, place
        self.complex = np.result_type(self.dtype, np.complex64)
        spectrum = (shape[0], shape[1] // 2 + 1)
        self._forms = {
            "x": (shape, self.dtype),
            "q": ((2, *shape), self.dtype),
            "p": (shape, self.dtype),
            "w": ((BANDS, *shape), self.dtype),
            "f": (spectrum, self.complex),
            "g": (spectrum, self.dtype),
            "h": ((1, *spectrum), self.dtype),
            "z": (shape, self.complex),
            "c": ((COILS, *shape), self.complex),
            "m": (shape, self.dtype),
        }
        self._made = {}
        self.laplacian = tuple(place(np.linspace(0.5, 4, n).astype(self.dtype)) for n in spectrum)
        self.copies = place(np.full(spectrum[1], 2, self.dtype))
        root = np.sqrt(3)
        low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / 8
        self.filters = np.stack([low, low[::-1] * [1, -1, 1, -1]])

    def form(self, name):
        """Shape and dtype of the array of that name."""
        shape, dtype = self._forms[name[0].lower()]
        return ((self.items, *shape) if name[0].isupper() else shape), dtype

    def elements(self, name):
        return int(np.prod(self.form(name)[0]))

    def nbytes(self, name):
        return self.elements(name) * self.form(name)[1].itemsize

    def __getitem__(self, name):
        if name not in self._made:
            self._made[name] = self._place(self.values(name))
        return self._made[name]

    def clear(self):
        """Forget the arrays, to make room."""
        self._made.clear()

    def values(self, name):
        """What the array holds at first, in NumPy."""
        shape, dtype = self.form(name)
        count = int(np.prod(shape)) * (2 if dtype.kind == "c" else 1)
        rng = np.random.default_rng([ord(character) for character in name])
        # A block repeated: drawing that many numbers would take longer than the measurement.
        values = np.resize(rng.standard_normal(min(count, 262_139), self.dtype), count).view(dtype).reshape(shape)
        if name[0] in "gGh":
            return (0.1 + 0.5 * values**2 / (1 + values**2)).astype(dtype)
        if name[0] in "pP":
            return np.abs(values)
        return (values > 0).astype(dtype) if name[0] == "m" else values

    def vector(self, value, *count):
        """float64 numbers for each item, (items, *count), where the arrays are."""
        return self.placed(np.full((self.items, *count), value))

    def placed(self, numbers):
        return self._place(np.ascontiguousarray(numbers, np.float64))

    def value(self, argument):
        """What a kernel gets for an entry of ``Kernel.arguments``."""
        if isinstance(argument, Each):
            return self.vector(argument.value)
        if isinstance(argument, Sums):
            return self.vector(0.0, *argument.count)
        if argument in (LAPLACIAN, COPIES, FILTERS) and isinstance(argument, str):
            return getattr(self, argument)
        return self[argument] if isinstance(argument, str) else argument


def _warm_ball(source, out):
    """A projection that starts at the threshold of the call before."""

    def call(function, arrays, threads):
        threshold, radius = np.zeros(()), 0.3 * arrays.elements("x")
        return lambda: function(arrays[source], radius, threshold=threshold, out=arrays[out], threads=threads)

    return call


def _field_thresholds(function, arrays, threads):
    """A search that starts at the threshold, with its sums: one pass to confirm it."""
    magnitudes = np.sqrt(np.sum(arrays.values("Q").astype(np.float64) ** 2, axis=1))
    theta = 0.9
    excess = np.maximum(magnitudes - theta, 0).sum(axis=(1, 2))
    above = magnitudes > theta
    sums = np.stack([magnitudes.sum(axis=(1, 2)), (magnitudes * above).sum(axis=(1, 2)), above.sum(axis=(1, 2))], 1)
    field, radii, sums = arrays["Q"], arrays.placed(excess), arrays.placed(sums)
    thresholds = arrays.vector(theta)
    return lambda: function(field, radii, True, thresholds, sums, threads=threads)


def _ball_thresholds(function, arrays, threads):
    magnitudes, radii = arrays["P"], arrays.vector(0.3 * arrays.elements("x"))
    thresholds = arrays.vector(0.0)
    return lambda: function(magnitudes, radii, thresholds, threads=threads)


# Repeated calls must neither grow nor die out: shifts and penalties below make the spectra's updates contractions.
KERNELS = (
    Kernel("gradient", "x", "q", 2, "x", ["x"], out="q"),
    Kernel("gradient_adjoint", "q", "x", 3, "x", ["q"], out="x"),
    Kernel("soft_threshold", "x1", "x2", 4, "x", ["x1", 0.5], out="x2"),
    Kernel("project_nonnegative", "x1", "x2", 1, "x", ["x1"], out="x2"),
    Kernel("project_box", "x1", "x2", 2, "x", ["x1", -0.5, 0.5], out="x2"),
    # the norm first, then the projection: two passes
    Kernel("project_l2_ball", "x1 x1", "x2", 3, "x", ["x1", 1.0], out="x2"),
    # a pass to see that the threshold of the call before fits, one to clip
    Kernel("project_l1_ball", "x1 x1", "x2", 7, "x", [], _warm_ball("x1", "x2")),
    Kernel("project_l21_ball", "q1 q1", "q2", 18, "x", [], _warm_ball("q1", "q2")),
    Kernel("rank_one_solve", "x1 x1", "x2", 3, "x", ["x1", 2.0, 1e-9], out="x2"),
    Kernel("spectral_divide", "f1 g1", "f2", 3, "f", ["f1", "g1"], out="f2"),
    Kernel("haar_forward", "x1", "x2", 5.3, "x", ["x1"], level=4, out="x2"),
    Kernel("haar_inverse", "x1", "x2", 5.3, "x", ["x1"], level=4, out="x2"),
    # the one-field iteration: relaxation, thresholds
    Kernel("update_field", "x q", "q", 26, "x", ["x", "q", 1.6, 0.5, 1.0, True, 0.5]),
    Kernel("sum_above", "q", "", 6, "x", ["q", 0.5, True]),
    Kernel("field_divergence", "q", "x", 15, "x", ["q", 0.5, True, 1.0, -2.0, "x"]),
    Kernel("update_field_divergence", "x1 q", "q x2", 33, "x", ["x1", "q", 1.6, 0.5, 0.5, True, "x2"]),
    Kernel("field_status", "x q", "", 38, "x", ["x", "q", 0.5, True]),
    Kernel(
        "slack_update", "x1 q1 q2 q3 q4 q5", "q1 q2 q3 q4 q5 x2", 80, "x",
        ["x1", "q1", "q2", "q3", "q4", "q5", 0.1, 0.1, 0.01, "x2"],
    ),
    # r (in place), transfer, data
    Kernel("lower_spectrum", "f1 f2 f3", "f1", 33, "f", ["f1", "f2", "f3", LAPLACIAN, 0.1, 0.1, COPIES]),
    # x, dual, transfer, data
    Kernel("lower_kkt", "f1 f2 f3 f4", "", 27, "f", ["f1", "f2", "f3", "f4", 0.1, COPIES]),
    # r and residual (in place), target, transfer, data
    Kernel(
        "upper_spectrum", "f1 f2 f3 f4 f5", "f1 f5", 64, "f",
        ["f1", None, "f2", "f3", "f4", "f5", LAPLACIAN, 1.0, 1.0, 0.1, 1.0, 0.0, 1.6, 0.5, COPIES],
    ),
    # dual, residual, target, transfer, data
    Kernel("upper_dual", "f1 f2 f3 f4 f5", "", 40, "f", ["f1", "f2", "f3", "f4", "f5", 0.1, 0.1, COPIES]),
    # coils
    Kernel("coil_images", "z c1", "c2", 6, "c", ["z", "c1", "c2"]),
    Kernel("coil_combine", "c1 c2", "z", 8, "c", ["c1", "c2", "z"]),
    Kernel("coil_update", "c1 c2 m c3", "c2", 18, "c", ["c1", "c2", "m", "c3", 1.0, 1.6, 0.5]),
    Kernel("coil_pull", "c1 m c2", "c3", 7, "c", ["c1", "m", "c2", 0.5, "c3"]),
    # wavelets: two levels of the frames, four taps
    Kernel("frame_forward", "x", "w", 24, "x", ["x", 2, 2, "w"]),
    Kernel("frame_adjoint", "w", "x", 24, "x", ["w", 2, 2, "x"]),
    Kernel("filter_bank_forward", "x", "w", 84, "x", ["x", FILTERS, 2, 2, "w"]),
    Kernel("filter_bank_adjoint", "w", "x", 84, "x", ["w", FILTERS, 2, 2, "x"]),
    Kernel("update_coefficients", "w1 w2", "w2 w3", 12, "w", ["w1", "w2", 1.6, 0.5, 0.5, 1.0, None, "w3"]),
    Kernel("coefficient_status", "w1 w2", "", 18, "w", ["w1", "w2", 0.5, None]),
    Kernel("clip_coefficients", "w1", "w2", 2, "w", ["w1", 0.5, None, "w2"]),
    # the one-field iteration of a batch: the transfer function is shared
    Kernel(
        "update_field_batch", "X Q", "Q", 26, "X", ["X", "Q", 1.6, Each(0.5), Each(1.0), True, Each(0.5), Sums(3)],
    ),
    Kernel("field_threshold_batch", "Q", "", 6, "X", [], _field_thresholds),
    Kernel(
        "update_field_divergence_batch", "X1 Q", "Q X2", 33, "X",
        ["X1", "Q", 1.6, Each(0.5), Each(0.5), True, "X2"],
    ),
    Kernel("field_divergence_batch", "Q", "X", 15, "X", ["Q", Each(0.5), True, 1.0, -2.0, "X"]),
    Kernel("field_status_batch", "X Q", "", 38, "X", ["X", "Q", Each(0.5), True, Sums(6)]),
    Kernel(
        "lower_spectrum_batch", "F1 f2 F3", "F1", 33, "F",
        ["F1", "f2", "F3", LAPLACIAN, Each(0.1), Each(0.1), COPIES, Sums()],
    ),
    Kernel("lower_kkt_batch", "F1 F2 f3 F4", "", 32, "F", ["F1", "F2", "f3", "F4", Each(0.1), COPIES, Sums(2)]),
    Kernel(
        "upper_spectrum_batch", "F1 F2 f3 F4 F5", "F1 F5", 64, "F",
        [
            "F1", "F2", "f3", "F4", "F5", LAPLACIAN, 1.0, Each(1.0), Each(0.1), Each(1.0), 1.6, Each(0.5), COPIES,
            Sums(3),
        ],
    ),
    Kernel(
        "upper_dual_batch", "F1 F2 F3 F4 f5 F6", "", 55, "F",
        ["F1", "F2", "F3", "F4", "f5", "F6", 1.0, Each(0.1), Each(0.1), COPIES, Sums(5)],
    ),
    # the selection's models, an image each
    Kernel("update_fields", "X Q", "Q P", 26, "X", ["X", "Q", "P", 1.6, Each(0.5), Each(1.0), True]),
    Kernel("field_divergences", "Q", "X", 16, "X", ["Q", Each(0.5), Each(1.0), True, "X"]),
    Kernel("measure_coefficients", "X1 X2", "X2 P", 9, "X", ["X1", "X2", "P", 1.6, Each(0.5), Each(1.0)]),
    Kernel("reflect_coefficients", "X1", "X2", 5, "X", ["X1", Each(0.5), Each(1.0), "X2"]),
    Kernel("ball_thresholds", "P", "", 3, "X", [], _ball_thresholds),
    Kernel("spectrum_step", "F1 F2 h", "F1", 4, "F", ["F1", "F2", "h"]),
    Kernel(
        "data_step", "F1 F2 F3 F4 g1 g2 g3", "F1 F2 G", 28, "F",
        ["F1", "F2", "G", "F3", "F4", "g1", "g2", "g3", 0.1, 1.0, 1.6, 1.0],
    ),
)  # fmt: skip

# Kernels without a fixed traffic.
UNCOUNTED = {"coupled_multipliers": "a search whose passes depend on the data"}


def facade(kernels):
    """The names of the kernels of a backend."""
    names = {name for name in dir(type(kernels)) if not name.startswith("_")}
    return names | {name for name, value in vars(kernels).items() if callable(value) and not name.startswith("_")}
