"""The CUDA backend's multi-coil kernels: images by sensitivity maps, and the data update in k-space.

Images, maps, spectra, data and fields are (coils, *spatial) and complex, the mask and an image (*spatial).  A thread
takes a pixel of all coils, so that what the coils share is read once.
"""

from numba import cuda, types

from ._cuda_common import (
    THREADS,
    Launcher,
    at,
    block_sums,
    conjugate_times,
    first_element,
    flat_blocks,
    kernel,
    product,
    real,
    square,
    times,
    zero,
)


def _coils(pixels, **stacks):
    """The coils of the stacks, all the same number."""
    counts = {name: product(a.shape) // pixels if product(a.shape) % pixels == 0 else 0 for name, a in stacks.items()}
    first = next(iter(counts.values()))
    for name, a in stacks.items():
        if counts[name] < 1 or counts[name] != first:
            raise ValueError(f"{name}: expected (coils, *spatial) with {pixels} pixels, got shape {tuple(a.shape)}")
    return first


@kernel("T T T i i i", dtypes="FD")
def _weigh_by_maps(x, maps, out, coils, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        value, here, c = x[at(e)], e, 0
        while c < coils:
            out[at(here)] = maps[at(here)] * value
            here += size
            c += 1
        e += blocks * THREADS


@kernel("T T T i i i", dtypes="FD")
def _combine_by_maps(images, maps, out, coils, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        total, here, c = zero(out), e, 0
        while c < coils:
            total += conjugate_times(maps[at(here)], images[at(here)])
            here += size
            c += 1
        out[at(e)] = total
        e += blocks * THREADS


@kernel("T T R T r r r D i i i", dtypes="FD")
def _update_coils(spectra, field, mask, data, scale, relaxation, shrink, partial, coils, size, blocks):
    _, e = first_element(blocks)
    one, total_field, total_error = real(mask, 1), 0.0, 0.0
    while e < size:
        sampled = mask[at(e)] != 0
        kept = one - relaxation * (shrink if sampled else one)
        here, c = e, 0
        while c < coils:
            error = times(scale, spectra[at(here)]) - data[at(here)]
            value = times(relaxation, error) + times(kept, field[at(here)])
            field[at(here)] = value
            if sampled:
                total_field += square(value)
                total_error += square(error)
            here += size
            c += 1
        e += blocks * THREADS
    sums = cuda.shared.array((2, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total_field
    sums[1, cuda.threadIdx.x] = total_error
    block_sums(sums, 0, partial)


@kernel("T R T r T i i i", dtypes="FD")
def _pull_coils(field, mask, data, shrink, out, coils, size, blocks):
    _, e = first_element(blocks)
    one, sampled = real(mask, 1), shrink + shrink - real(mask, 1)
    while e < size:
        pull, here, c = sampled if mask[at(e)] != 0 else one, e, 0
        while c < coils:
            out[at(here)] = data[at(here)] + times(pull, field[at(here)])
            here += size
            c += 1
        e += blocks * THREADS


def coil_images(x, maps, out, threads=1):
    size = product(x.shape)
    coils, blocks = _coils(size, maps=maps, out=out), flat_blocks(size, 1)
    Launcher(x)(_weigh_by_maps, blocks, x, maps, out, coils, size, blocks)


def coil_combine(images, maps, out, threads=1):
    size = product(out.shape)
    coils, blocks = _coils(size, images=images, maps=maps), flat_blocks(size, 1)
    Launcher(out)(_combine_by_maps, blocks, images, maps, out, coils, size, blocks)


def coil_update(spectra, field, mask, data, scale, relaxation, shrink, threads=1):
    run, size = Launcher(field), product(mask.shape)
    coils, blocks = _coils(size, spectra=spectra, field=field, data=data), flat_blocks(size, 1)
    partial, sums = run.scratch(2 * blocks), run.scratch(2)
    numbers = scale, relaxation, shrink
    run(_update_coils, blocks, spectra, field, mask, data, *numbers, partial, coils, size, blocks)
    run.finish(partial, blocks, 2, 0, sums)
    return run.totals(sums)


def coil_pull(field, mask, data, shrink, out, threads=1):
    size = product(mask.shape)
    coils, blocks = _coils(size, field=field, data=data, out=out), flat_blocks(size, 1)
    Launcher(field)(_pull_coils, blocks, field, mask, data, shrink, out, coils, size, blocks)
