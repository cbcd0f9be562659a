"""What every family of the CUDA backend needs: arrays, launches, geometry, numbers, and sums in a fixed order.

Kernels take flat (one-dimensional) C-contiguous arrays, so that one compiled version serves images of 1, 2 and 3
axes.  A kernel is declared with its arguments' types, one letter each::

    @kernel("T T D r i i")
    def _scale(x, out, factors, weight, size, blocks): ...

    T  array of the launch's dtype              t  scalar of the launch's dtype
    R  array of that dtype's real type          r  scalar of that dtype's real type
    D  float64 array                            d  float64 scalar
    I  int64 array                              i  int64 scalar
    C  array of that dtype's complex type

(r4: a tuple of four such scalars, its length known to the compiler)

and is launched by a ``Launcher``, which converts what it is given (no array is copied), and finds the stream::

    run = Launcher(x)                                    # stream, device and scratch of the arrays' kind
    run(_scale, blocks, x, out, factors, 0.5, size, blocks)

The launch's dtype is the Launcher's (that of x, unless another is named).  Integers and floats are cast to the
declared type, so that a Python float never carries a float32 kernel to float64.  Inside a kernel write constants as
``real(x, 0.5)``, add ``np.float64(value)`` to a sum (``float`` leaves a float32 as it is, and the simulator's sum
would become one), index as ``x[at(i)]`` (an unsigned index needs no test for a negative one) and divide indices with
``quotient``; a power-of-two width is a shift.  Loops of variable bounds are ``while`` loops: the trip count of a
``range`` with a step costs a 64-bit division, and one without a step costs two selections an iteration.

Nothing here allocates by Numba, synchronises or copies to or from the host where the arrays are torch's, so that
every in-place launcher can be captured in a CUDA graph (after one call that compiles its kernels).

Geometry.  Items (the images of a batch) are numbered by the blocks: block b belongs to item ``b // blocks`` where
``blocks``, the blocks an item has, depends on the item's shape only.  So no item's sums depend on its neighbours.
An item of n0 x n1 x n2 elements is cut into *units* of ROWS rows along n0 and ``width`` columns along n2 (``Grid``);
a thread walks down one column of a unit, so that what it needs of the row before or after is in its registers.

Sums are float64 in a fixed order: a thread's own, a tree in shared memory (``block_sums``), then the blocks of an item
by one block (``Launcher.finish``).  The same bits in every run.

In the simulator (NUMBA_ENABLE_CUDASIM=1) NumPy arrays and torch's CPU tensors stand for device arrays, and a block
has few threads, which cost much there while a loop inside a thread is cheap.

Compiled kernels are kept in ``__pycache__`` by the time stamp of the file that defines the kernel: after an edit of
this file remove them (``find . -name '*.nbi' -delete``).
"""

import functools
import math
import sys
import threading
import warnings

import numpy as np
from numba import cuda, types
from numba.cuda.extending import overload as _numba_overload

SIMULATED = "simulator" in cuda.jit.__module__
if SIMULATED:
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
    from numba.cuda.simulator.kernelapi import FakeCUDAShared
    from numba.np.numpy_support import as_dtype

    def _shared_array(self, shape, dtype):
        """One array a line for all threads of a block; with Numba's own two threads may make one each."""
        frame = sys._getframe(1)
        line = frame.f_code.co_filename, frame.f_lineno
        return self._allocations.setdefault(line, np.empty(shape, as_dtype(dtype)))

    FakeCUDAShared.array = _shared_array
    # A barrier there is a loop that asks every thread, and slow while each may keep the interpreter for 5 ms.
    sys.setswitchinterval(1e-4)

THREADS = 4 if SIMULATED else 256  # of every block
_WIDTHS = (1, 2) if SIMULATED else (32, 256)  # least and greatest width of a unit: whole warps along the last axis
ROWS = 2 if SIMULATED else 4  # of a unit
MAX_BLOCKS = 2 if SIMULATED else 1024  # an item may have
MAX_COLUMNS = 8  # of sums that one kernel makes

at = np.uint64  # an index

# --- declaring kernels ----------------------------------------------------------------------

KERNELS = []  # every kernel, in the order of declaration: the tests compile them all

_REAL = {"f": "f", "d": "d", "F": "f", "D": "d"}
_COMPLEX = {"f": "F", "d": "D", "F": "F", "D": "D"}
_TYPES = {"f": types.float32, "d": types.float64, "F": types.complex64, "D": types.complex128}


class Kernel:
    """A CUDA kernel with the types it is compiled for; ``dtypes`` are the launch's dtypes, as NumPy's characters."""

    def __init__(self, function, spec, dtypes, registers):
        self.name, self.function, self.dtypes, self.registers = function.__name__, function, dtypes, registers
        self.spec = tuple(spec.split())
        if SIMULATED:
            self._compiled = dict.fromkeys("fdFD", cuda.jit(_quiet(function)))
        else:
            free = cuda.jit(cache=True)(function)
            limited = cuda.jit(cache=True, max_registers=registers)(function) if registers else free
            self._compiled = {"f": limited, "F": limited, "d": free, "D": free}
        KERNELS.append(self)

    def compiled(self, dtype):
        """Numba's dispatcher for launches of the dtype with this character."""
        return self._compiled[dtype]

    def limit(self, dtype):
        """The most registers a thread may have, or None."""
        return self.registers if dtype in "fF" else None

    def signature(self, dtype):
        """Numba's types of the arguments where the launch's dtype is the one with this character."""
        scalar = {"t": dtype, "r": _REAL[dtype], "c": _COMPLEX[dtype], "d": "d", "i": "i"}

        def numba_type(code):
            kind = scalar[code[0].lower()]
            number = types.int64 if kind == "i" else _TYPES[kind]
            if code[1:]:
                return types.UniTuple(number, int(code[1:]))
            return types.Array(number, 1, "C") if code.isupper() else number

        return tuple(numba_type(code) for code in self.spec)


def _quiet(function):
    """The simulator's kernel: a device is silent about NaN and infinity, NumPy in a thread of its own is not."""
    body = cuda.jit(device=True)(function)

    def run(*arguments):
        with np.errstate(all="ignore"):
            body(*arguments)

    return run


def kernel(spec, dtypes="fdFD", registers=None):
    """Declare a kernel: ``spec`` gives a letter for each argument, see the module's docstring.

    ``registers`` is the most that a thread may have in single precision: 64 let a multiprocessor run four blocks, half
    its threads.
    """
    return lambda function: Kernel(function, spec, dtypes, registers)


# A function of a kernel.  In the simulator a function without ``cuda.`` in it is a plain Python function.
device = cuda.jit(device=True)
plain = (lambda function: function) if SIMULATED else device


def overload(function):
    """``numba.extending.overload`` for CUDA; in the simulator the Python function itself runs."""
    return (lambda typed: typed) if SIMULATED else _numba_overload(function, target="cuda")


# --- real and complex numbers ---------------------------------------------------------------


def is_complex(z):
    return isinstance(getattr(z, "dtype", z), types.Complex)


def _single(a):
    return getattr(a, "dtype", a) in (types.float32, types.complex64)


def real(a, value):
    """The value as a real number of the precision of a, an array or a number."""
    return np.float32(value) if a.dtype in (np.dtype("f"), np.dtype("F")) else np.float64(value)


@overload(real)
def _real_by_type(a, value):
    if _single(a):
        return lambda a, value: np.float32(value)
    return lambda a, value: np.float64(value)


def zero(a):
    """0 of the dtype of a, an array or a number."""
    return a.dtype.type(0)


@overload(zero)
def _zero_by_type(a):
    make = {
        types.float32: lambda a: np.float32(0),
        types.float64: lambda a: np.float64(0),
        types.complex64: lambda a: np.complex64(0),
        types.complex128: lambda a: np.complex128(0),
    }
    return make[getattr(a, "dtype", a)]


def times(scale, z):
    """scale z for a real scale, which a complex product would first make complex."""
    return scale * z


@overload(times)
def _times_by_type(scale, z):
    if is_complex(z):
        return lambda scale, z: complex(scale * z.real, scale * z.imag)
    return lambda scale, z: scale * z


def square(z):
    """|z|^2"""
    return z.real * z.real + z.imag * z.imag


@overload(square)
def _square_by_type(z):
    if is_complex(z):
        return lambda z: z.real * z.real + z.imag * z.imag
    return lambda z: z * z


def inner(a, b):
    """Re(conj(a) b)"""
    return a.real * b.real + a.imag * b.imag


@overload(inner)
def _inner_by_type(a, b):
    if is_complex(a):
        return lambda a, b: a.real * b.real + a.imag * b.imag
    return lambda a, b: a * b


def conjugate_times(a, b):
    """conj(a) b"""
    return np.conj(a) * b


@overload(conjugate_times)
def _conjugate_times_by_type(a, b):
    if is_complex(a):
        return lambda a, b: complex(a.real * b.real + a.imag * b.imag, a.real * b.imag - a.imag * b.real)
    return lambda a, b: a * b


def magnitude(z):
    return abs(z)


@overload(magnitude)
def _magnitude_by_type(z):
    if is_complex(z):
        return lambda z: math.sqrt(z.real * z.real + z.imag * z.imag)
    return lambda z: abs(z)


def clip(z, threshold):
    """z with its magnitude lowered to the threshold, a real number of z's precision; NaN stays NaN."""
    if z.dtype.kind == "f":
        lowered = threshold if z > threshold else z
        return -threshold if lowered < -threshold else lowered
    size = abs(z)
    return z if size <= threshold else z * (threshold / size)


@overload(clip)
def _clip_by_type(z, threshold):
    def clip_real(z, threshold):
        lowered = threshold if z > threshold else z
        return -threshold if lowered < -threshold else lowered

    def clip_complex(z, threshold):
        size = math.sqrt(z.real * z.real + z.imag * z.imag)
        scale = threshold / size
        return z if size <= threshold else complex(scale * z.real, scale * z.imag)

    return clip_complex if is_complex(z) else clip_real


def ball_scale(size, threshold):
    """The factor that shrinks a vector of norm ``size`` to norm at most ``threshold``; both of one precision."""
    return 1.0 if size <= threshold else threshold / size


@overload(ball_scale)
def _ball_scale_by_type(size, threshold):
    one = np.float32(1) if size == types.float32 else np.float64(1)
    return lambda size, threshold: one if size <= threshold else threshold / size


@plain
def quotient(a, b):
    """a // b for 0 <= a, b < 2**32, by a 32-bit division."""
    return np.int64(np.uint32(a) // max(np.uint32(b), np.uint32(1)))  # the compiler sees that b is not 0


# --- geometry -------------------------------------------------------------------------------


class Grid:
    """How one item of ``shape`` (1, 2 or 3 axes) is cut: a kernel takes ``n0, n1, n2, shift, blocks`` (``arguments``).

    n0 = n1 = 1 in 1-D and n1 = 1 in 2-D, so the rows along the first axis are n0 in 2-D and 3-D.  ``blocks`` is the
    number of blocks the item has, 2**shift the width of a unit.  With ``rows`` = 1 a unit is part of one line, for
    kernels with many numbers a pixel, whose registers are better spent on more threads (``unit_line``).
    """

    def __init__(self, shape, rows=ROWS):
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"expected 1, 2 or 3 spatial axes, got shape {tuple(shape)}")
        self.n0 = shape[0] if len(shape) > 1 else 1
        self.n1 = shape[1] if len(shape) > 2 else 1
        self.n2 = shape[-1]
        self.axes, self.size = len(shape), self.n0 * self.n1 * self.n2
        narrow, wide = _WIDTHS
        width = min(wide, max(narrow, 1 << (self.n2 - 1).bit_length()))
        self.shift = width.bit_length() - 1
        units = -(-self.n0 // rows) * self.n1 * -(-self.n2 // width)
        if units >= 1 << 31:
            raise ValueError(f"shape {tuple(shape)} is too large for the CUDA kernels")
        self.blocks = min(MAX_BLOCKS, -(-units // (THREADS // width)))
        self.arguments = (self.n0, self.n1, self.n2, self.shift, self.blocks)


def flat_blocks(size, per_thread=4):
    """Blocks for one item of ``size`` elements that are walked one by one (see ``first_element``)."""
    return min(MAX_BLOCKS, -(-size // (THREADS * per_thread)))


@device
def first_unit(blocks, shift):
    """(item, first unit of this thread); it goes on by ``unit_stride`` while the unit is below ``unit_count``."""
    item = quotient(cuda.blockIdx.x, blocks)
    block = np.int64(cuda.blockIdx.x) - item * blocks
    return item, block * (THREADS >> shift) + (cuda.threadIdx.x >> shift)


@plain
def unit_stride(blocks, shift):
    return blocks * (THREADS >> shift)


@plain
def unit_count(n0, n1, n2, shift):
    return quotient(n0 + (ROWS - 1), ROWS) * n1 * ((n2 + (1 << shift) - 1) >> shift)


@device
def unit_place(unit, n1, n2, shift):
    """(first row of n0, index along n1, index along n2) of this thread in the unit; the last may be >= n2.

    The rows are ``first <= i < min(first + ROWS, n0)``; element (i, j, m) is number (i n1 + j) n2 + m.
    """
    parts = (n2 + (1 << shift) - 1) >> shift
    line = quotient(unit, parts)
    m = ((unit - line * parts) << shift) + (cuda.threadIdx.x & ((1 << shift) - 1))
    band = quotient(line, n1)
    return band * ROWS, line - band * n1, m


@plain
def line_count(n0, n1, n2, shift):
    """``unit_count`` where a unit is part of one line."""
    return n0 * n1 * ((n2 + (1 << shift) - 1) >> shift)


@device
def unit_line(unit, n1, n2, shift):
    """(index along n0, along n1, along n2) of this thread where a unit is part of one line; the last may be >= n2."""
    parts = (n2 + (1 << shift) - 1) >> shift
    line = unit if parts == 1 else quotient(unit, parts)
    m = ((unit - line * parts) << shift) + (cuda.threadIdx.x & ((1 << shift) - 1))
    i = line if n1 == 1 else quotient(line, n1)
    return i, line - i * n1, m


@device
def first_element(blocks):
    """(item, first element of this thread) of a flat item; it goes on by ``blocks * THREADS``."""
    item = quotient(cuda.blockIdx.x, blocks)
    return item, (np.int64(cuda.blockIdx.x) - item * blocks) * THREADS + cuda.threadIdx.x


# --- sums in a fixed order ------------------------------------------------------------------
#
# A kernel that sums ends with, for C columns of which the last ``maxima`` are maxima (of numbers >= 0, or NaN)::
#
#     sums = cuda.shared.array((C, THREADS), types.float64)
#     sums[0, cuda.threadIdx.x] = a thread's sum ...
#     block_sums(sums, maxima, partial)
#
# and its launcher with ``run.finish(partial, blocks, columns, maxima, out)``.


@plain
def larger(a, b):
    """The larger number, NaN if one is NaN."""
    return b if b > a or b != b else a


@device
def reduce_block(sums, columns, maxima):
    """sums[c, 0] <- the total (for the last ``maxima`` columns the maximum) of row c; all threads must call."""
    t, half = cuda.threadIdx.x, THREADS >> 1
    while half > 0:
        cuda.syncthreads()
        if t < half:
            for c in range(columns):
                one, other = sums[c, t], sums[c, t + half]
                sums[c, t] = one + other if c < columns - maxima else larger(one, other)
        half >>= 1
    cuda.syncthreads()


@device
def block_sums(sums, maxima, partial):
    """partial[blockIdx, c] <- the total of row c of ``sums`` over the block's threads; all threads must call."""
    columns = sums.shape[0]
    reduce_block(sums, columns, maxima)
    c = np.int64(cuda.threadIdx.x)
    while c < columns:
        partial[at(np.int64(cuda.blockIdx.x) * columns + c)] = sums[c, 0]
        c += THREADS


@device
def gather_sums(partial, item, blocks, columns, maxima, sums):
    """sums[c, 0] <- the total over the item's blocks of what they left in ``partial``; all threads must call."""
    t = cuda.threadIdx.x
    for c in range(columns):
        total, b = 0.0, np.int64(t)
        while b < blocks:
            value = partial[at((item * blocks + b) * columns + c)]
            total = total + value if c < columns - maxima else larger(total, value)
            b += THREADS
        sums[c, t] = total
    reduce_block(sums, columns, maxima)


@kernel("D d d d d", dtypes="d")
def fill_numbers(out, a, b, c, d):
    """out <- the four numbers: parameters of one item, by a launch, which unlike a copy can be captured in a graph."""
    if cuda.threadIdx.x == 0:
        out[0] = a
        out[1] = b
        out[2] = c
        out[3] = d


@kernel("D D i i i", dtypes="d")
def finish_sums(partial, out, blocks, columns, maxima):
    """out[item, c] <- the total of partial[item, :blocks, c]; one block for each item."""
    item = np.int64(cuda.blockIdx.x)
    sums = cuda.shared.array((MAX_COLUMNS, THREADS), types.float64)
    gather_sums(partial, item, blocks, columns, maxima, sums)
    c = np.int64(cuda.threadIdx.x)
    while c < columns:
        out[at(item * columns + c)] = sums[c, 0]
        c += THREADS


# --- arrays and launches --------------------------------------------------------------------


def product(shape):
    return math.prod(int(n) for n in shape)


def check_sizes(expected, **arrays):
    """Raises ValueError where an array has another number of elements."""
    for name, a in arrays.items():
        if product(a.shape) != expected:
            raise ValueError(f"{name}: expected {expected} elements, got shape {tuple(a.shape)}")


def expect(count, **arrays):
    """Raises ValueError for an array of more or fewer elements: a kernel would leave its memory."""
    for name, a in arrays.items():
        if product(a.shape) != count:
            raise ValueError(f"{name}: expected {count} elements, got shape {tuple(a.shape)}")


def items_of(a):
    """The length of the first axis of a batch that is not empty."""
    if len(a.shape) < 2 or not product(a.shape):
        raise ValueError(f"expected one item or more along the first axis, got shape {tuple(a.shape)}")
    return int(a.shape[0])


def is_tensor(a):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(a, torch.Tensor)


def is_device_array(a):
    """Whether the kernels take it: what has the CUDA array interface; in the simulator what is on the CPU."""
    if SIMULATED:
        return isinstance(a, np.ndarray) or (is_tensor(a) and a.device.type == "cpu")
    return a.is_cuda if is_tensor(a) else hasattr(a, "__cuda_array_interface__")


def dtype_of(a):
    """NumPy's dtype of a device array."""
    return np.dtype(str(a.dtype).removeprefix("torch.")) if is_tensor(a) else np.dtype(a.dtype)


def _flat(a, dtype):
    """The array as kernels take it: flat, the same memory."""
    if not is_device_array(a):
        raise TypeError(f"expected an array in device memory, got {type(a).__name__}")
    if dtype_of(a) != dtype:
        raise ValueError(f"expected a device array of {dtype}, got {dtype_of(a)}")
    if is_tensor(a) and (a.is_conj() or a.is_neg()):
        raise ValueError("expected a tensor whose conjugation is resolved; call resolve_conj()")
    if SIMULATED:
        a = a.detach().numpy() if is_tensor(a) else a
        if not a.flags.c_contiguous:
            raise ValueError(f"expected a C-contiguous device array, got strides {a.strides}")
        return FakeCUDAArray(a.reshape(-1))  # else each argument would be a copy, though two may share their memory
    description = dict(a.__cuda_array_interface__)
    shape, strides = description["shape"], description.get("strides")
    if strides is not None:
        step = dtype.itemsize
        for length, stride in zip(reversed(shape), reversed(strides), strict=True):
            if length > 1 and stride != step:
                raise ValueError(f"expected a C-contiguous device array, got shape {shape} and strides {strides}")
            step *= length
    description |= {"shape": (math.prod(shape),), "strides": None}
    return cuda.from_cuda_array_interface(description, owner=a, sync=False)


@functools.lru_cache(maxsize=64)
def _external_stream(pointer):
    return cuda.external_stream(pointer)


def _stream(a):
    """The stream an array's library works on now."""
    if SIMULATED:
        return 0
    if is_tensor(a):
        torch = sys.modules["torch"]
        if a.device.index != torch.cuda.current_device():
            raise ValueError(f"the arrays are on {a.device}: call inside `with torch.cuda.device({a.device.index}):`")
        pointer = torch.cuda.current_stream(a.device).cuda_stream
    else:
        pointer = a.__cuda_array_interface__.get("stream")
    return _external_stream(pointer) if pointer else 0


@functools.lru_cache(maxsize=4096)
def _configured(compiled, blocks, stream):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small image makes a small grid
        return compiled.configure(blocks, THREADS, stream)


_simulator = threading.Lock()  # which runs one kernel at a time


class Launcher:
    """Launches kernels on the stream of the array ``like``, for its dtype or the one given."""

    def __init__(self, like, dtype=None):
        if not is_device_array(like):
            raise TypeError(f"expected an array in device memory, got {type(like).__name__}")
        self.like, self.stream = like, _stream(like)
        self.dtype = np.dtype(dtype_of(like) if dtype is None else dtype)
        real_type, complex_type = _REAL[self.dtype.char], _COMPLEX[self.dtype.char]
        self.real = np.dtype(real_type)
        self._dtypes = {"T": self.dtype, "R": self.real, "C": np.dtype(complex_type)}
        self._dtypes |= {"D": np.dtype("d"), "I": np.dtype("int64")}

    def __call__(self, kernel, blocks, *arguments):
        """Launch so many blocks of THREADS threads."""
        if kernel.dtypes == "d":
            dtypes = self._dtypes | {"T": np.dtype("d"), "R": np.dtype("d"), "C": np.dtype("D")}
        else:
            dtypes = self._dtypes

        def convert(code, value):
            dtype = dtypes[code[0].upper()]
            if code[1:]:
                return tuple(dtype.type(number) for number in value)
            return _flat(value, dtype) if code.isupper() else dtype.type(value)

        converted = [convert(code, value) for code, value in zip(kernel.spec, arguments, strict=True)]
        if SIMULATED:
            with _simulator:
                kernel.compiled(self.dtype.char)[blocks, THREADS](*converted)
        else:
            _configured(kernel.compiled(self.dtype.char), blocks, self.stream)(*converted)

    def empty(self, shape, dtype=np.float64):
        """An array of the kind of ``like``, on its stream: torch's allocator for tensors, Numba's for the others."""
        if is_tensor(self.like):
            torch = sys.modules["torch"]
            return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device=self.like.device)
        if SIMULATED:
            return np.empty(shape, dtype)
        return cuda.device_array(shape, dtype, stream=self.stream)

    def scratch(self, count, dtype=np.float64):
        """Uninitialised work memory; it may be dropped as soon as the kernels that use it are launched."""
        work = self.empty(count, dtype)
        if SIMULATED:
            work[:] = float("nan") if np.dtype(dtype).kind in "fc" else -1
        return work

    def numbers(self, *values):
        """One-item parameter arrays (1,) of at most four numbers."""
        out = self.scratch(4)
        self(fill_numbers, 1, out, *values, *[0.0] * (4 - len(values)))
        return [out[k : k + 1] for k in range(len(values))]

    def finish(self, partial, blocks, columns, maxima, out):
        """out (items, columns) <- the totals of the blocks' sums (items, blocks, columns), each in a fixed order."""
        items = product(out.shape) // columns
        self(finish_sums, items, partial, out, blocks, columns, maxima)

    def to_device(self, a):
        """A copy of a NumPy array, of the kind of ``like``."""
        if is_tensor(self.like):
            return sys.modules["torch"].from_numpy(np.array(a)).to(self.like.device)
        return np.array(a) if SIMULATED else cuda.to_device(a, stream=self.stream)

    def totals(self, sums):
        """The numbers of a small float64 array as Python floats: waits for the device."""
        return tuple(float(value) for value in self.to_host(sums).reshape(-1))

    def to_host(self, a):
        """The array as NumPy's, after everything launched before."""
        if is_tensor(a):
            return a.cpu().numpy()
        return a if SIMULATED else a.copy_to_host(stream=self.stream)
