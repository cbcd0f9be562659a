"""What every public function does with arguments that are none."""

import numpy as np
import pytest

import bioperf
from bioperf import _validation as v

SHAPE = (12, 10)
IMAGE = np.random.default_rng(0).random(SHAPE)
PSF = np.ones((3, 3)) / 9


class Silent:
    """Neither an array nor printable."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array")

    def __repr__(self):
        raise RuntimeError("no words")


class Odd(np.ndarray):
    """An array whose arithmetic is not the usual."""

    def __array_ufunc__(self, *arguments, **options):
        raise RuntimeError("no arithmetic")


REFUSED = {
    "no array": (
        lambda: v.as_images("a", Silent()),
        TypeError,
        "a: expected an array of numbers, got an object of type",
    ),
    "masked": (lambda: v.as_images("a", np.ma.masked_greater(IMAGE, 0.5)), ValueError, "a: has masked entries"),
    "masked mask": (lambda: v.as_mask("a", np.ma.masked_array([1, 0], [0, 1])), ValueError, "a: has masked entries"),
    "text as a number": (lambda: v.check_number("a", "0.5"), TypeError, "a: expected a number, got '0.5'"),
    "number too large": (lambda: v.check_number("a", 10**400), ValueError, "a: must be a finite number"),
    "array as a number": (lambda: v.check_number("a", IMAGE), TypeError, "a: expected a number, got array"),
    "numbers that are none": (lambda: v.check_numbers("a", [[1], [1, 2]], ()), TypeError, "a: expected an array"),
    "array as a choice": (lambda: v.check_choice("a", IMAGE, ("b", "c")), ValueError, "a: expected one of 'b', 'c'"),
    "word as a flag": (lambda: v.check_flag("a", "no"), TypeError, "a: expected True or False, got 'no'"),
    "array as a flag": (lambda: v.check_flag("a", IMAGE), TypeError, "a: expected True or False, got array"),
    "two as a flag": (lambda: v.check_flag("a", 2), TypeError, "a: expected True or False, got 2"),
    "no such axis": (lambda: v.check_axis("a", 3, 3), ValueError, "a: there is no axis 3 of 3"),
    "axis in words": (lambda: v.check_axis("a", "x", 3), TypeError, "a: expected the number of an axis, got 'x'"),
    "size": (lambda: v.check_size("a", (2**40, 2**40)), ValueError, "a: .* more pixels than any memory holds"),
    "batch": (lambda: v.batch_of((2,), a=[[1], [1, 2]]), TypeError, "a: expected an array of numbers"),
    "kind of TV": (
        lambda: bioperf.solve_lower(BLUR, IMAGE, 0.1, isotropic="no"),
        TypeError,
        "isotropic: expected True",
    ),
    "kind of TV, upper": (
        lambda: bioperf.solve_bio(BLUR, IMAGE, target="identity", tv_weight=0.1, isotropic=IMAGE),
        TypeError,
        "isotropic: expected True",
    ),
    "channels": (lambda: bioperf.deblur(IMAGE[None], PSF, channel_axis=1.5), TypeError, "channel_axis: expected the"),
    "channels elsewhere": (
        lambda: bioperf.deblur(IMAGE[None], PSF, channel_axis=4),
        ValueError,
        "channel_axis: there is",
    ),
    "centre": (lambda: bioperf.MaskedFourier(IMAGE > 0.5, centred="yes"), TypeError, "centred: expected True or False"),
    "seed": (lambda: bioperf.masks.radial(SHAPE, 0.5, seed=np.zeros((0, 5))), TypeError, "seed: expected an integer"),
    "coils": (lambda: bioperf.coils.simulate_maps(SHAPE, 10**400), ValueError, "coils: .* any memory holds"),
    "operator of nre": (lambda: bioperf.nre("A", IMAGE, IMAGE), TypeError, "A: expected an operator"),
    "axes of noise": (lambda: bioperf.estimate_noise(IMAGE, ndim=1.0), TypeError, "ndim: expected an integer"),
}
BLUR = bioperf.Blur(PSF, SHAPE)


@pytest.mark.parametrize("name", REFUSED)
def test_one_error_that_names_the_argument(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=f"^{message}") as caught:
        call()
    assert caught.type is kind and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_values_are_shown_on_one_line():
    assert v.shown("a\nb") == repr("a\nb") and v.shown(1.5) == "1.5"
    assert "\n" not in v.shown(np.zeros((30, 30))) and len(v.shown(np.zeros((30, 30)))) <= 80
    assert v.shown(Silent()) == "an object of type Silent"


def test_threads_are_as_many_as_a_machine_may_have():
    assert v.check_threads(None) is None and v.check_threads(3) == 3
    assert 16 <= v.check_threads(10**400) == v.check_threads(10**5)
    T = bioperf.UndecimatedWavelet("db2", 1)
    np.testing.assert_array_equal(T.forward(IMAGE, threads=10**5), T.forward(IMAGE, threads=1))


@pytest.mark.parametrize("value", [True, False, 1, 0, np.True_, np.int64(0)])
def test_flags(value):
    assert v.check_flag("a", value) is bool(value)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", [np.matrix, lambda a: a.view(Odd), lambda a: np.ma.masked_array(a, False), list])
def test_other_arrays_are_plain_ones(kind):
    found = v.as_images("a", kind(IMAGE))
    assert type(found) is np.ndarray and found.flags.c_contiguous
    np.testing.assert_array_equal(found, IMAGE)
    np.testing.assert_array_equal(BLUR(kind(IMAGE)), BLUR(IMAGE))
