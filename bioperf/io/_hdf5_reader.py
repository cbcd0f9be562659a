"""The program of the process that reads HDF5 files; see ``hdf5.py``.  It imports nothing of the package.

Arguments: the file, what to read ("kspace" or "mask"), the name of a dataset or group (or ""), the limit on
values.  Output: a line of JSON, ``{"error": ...}`` or ``{"layout": ..., "arrays": [[name, dtype, shape], ...],
...}``, and the arrays' bytes.
"""

import json
import math
import sys
from contextlib import suppress

import h5py
import numpy as np

MEBIBYTE = 2**20
MOST_ACQUISITIONS = 2**22
BLOCK = 256  # acquisitions read at a time
REFERENCES = ("reconstruction_rss", "reconstruction_esc")
INDICES = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set")
COUNTS = (
    "flags", "number_of_samples", "active_channels", "discard_pre", "discard_post", "center_sample",
    "encoding_space_ref", "trajectory_dimensions",
)  # fmt: skip


class Refused(Exception):
    """What is wrong; what to do."""


def main(path, wanted, name, max_values):
    allow_memory(1024 * MEBIBYTE)
    try:
        with h5py.File(path, "r") as file:
            facts, arrays = read(file, wanted, name, int(max_values))
    except Refused as refusal:
        facts, arrays = {"error": str(refusal)}, {}
    except MemoryError:
        facts, arrays = {"error": "needs more memory than its sizes account for; it is damaged, or too large"}, {}
    except Exception as error:  # of whatever kind h5py raises on damaged files
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        facts, arrays = {"error": f"cannot be read as HDF5 ({reason}); copy or export it again"}, {}
    arrays = {key: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for key, a in arrays.items()}
    facts["arrays"] = [[key, a.dtype.str, a.shape] for key, a in arrays.items()]
    out = sys.stdout.buffer
    out.write(json.dumps(facts).encode() + b"\n")
    for a in arrays.values():
        out.write(a.reshape(-1).view(np.uint8))
    out.flush()


def read(file, wanted, name, max_values):
    """The facts and the arrays to hand over."""
    if wanted == "mask":
        return {"layout": "mask"}, {"mask": values(dataset(file, name or "mask"), "biuf", max_values)}
    group = child(file, name or "dataset")
    if isinstance(group, h5py.Group) and "data" in names(group) and "xml" in names(group):
        return acquisitions(group, max_values)
    kspace = dataset(file, name or "kspace")
    facts, arrays = {"layout": "arrays", "name": name or "kspace"}, {"kspace": values(kspace, "c", max_values)}
    if "mask" in names(file):
        arrays["mask"] = values(dataset(file, "mask"), "biuf", max_values)
    for reference in REFERENCES:
        if reference in names(file) and "reference" not in arrays:
            arrays["reference"] = values(dataset(file, reference), "f", max_values)
    if "ismrmrd_header" in names(file):
        # Of use for the voxel size only: a damaged one is left alone
        with suppress(Exception):
            facts["xml"] = text(dataset(file, "ismrmrd_header")[()])
    return facts, arrays


def names(group):
    return [name.decode(errors="replace") for name in group.id]


def child(group, name):
    """The object of that path below the group, or None; links to other places are not followed."""
    for part in filter(None, name.split("/")):
        if not isinstance(group, h5py.Group) or not group.id.links.exists(part.encode()):
            return None
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise Refused(f"{part[:60]!r} is a link, which is not followed; store the data in its place")
        group = group[part]
    return group


def dataset(file, name):
    found = child(file, name)
    if not isinstance(found, h5py.Dataset):
        held = ", ".join(repr(n[:60]) for n in names(file)[:8]) or "nothing"
        raise Refused(f"has no dataset {name[:60]!r} (it holds {held}); name the one to read")
    if found.is_virtual or found.external:
        raise Refused(f"{name[:60]!r} keeps its values in other files, which are not opened; store them in this one")
    return found


def values(found, kinds, max_values):
    """The dataset's values, after its type, size and chunks were checked."""
    name = found.name.strip("/")
    if found.dtype.kind not in kinds or found.dtype.itemsize > 16:
        expected = {"c": "complex64 or complex128", "f": "float32 or float64"}.get(kinds, "0 and 1")
        raise Refused(f"{name[:60]!r} holds values of type {str(found.dtype)[:60]}; store {expected}")
    check_size(name, found.shape, max_values)
    if found.chunks and math.prod(found.chunks) > max_values:
        raise Refused(
            f"{name[:60]!r} is stored in chunks of {math.prod(found.chunks)} values; rechunk it with h5repack"
        )
    allow_memory(4 * math.prod(found.shape) * found.dtype.itemsize + 256 * MEBIBYTE)
    return found[()]


def check_size(name, shape, max_values):
    if shape is None or len(shape) == 0 or math.prod(shape) == 0:
        raise Refused(f"{name[:60]!r} holds no array of values (shape {shape}); give k-space")
    if math.prod(shape) > max_values:
        raise Refused(
            f"{name[:60]!r} has {math.prod(shape)} values, more than the limit of {max_values}; "
            "raise the limit (--max-values, max_values=)"
        )


def acquisitions(group, max_values):
    """ISMRMRD: the header's XML, the acquisitions' headers as columns, and their samples end to end."""
    data = dataset(group, "data")
    check_size("data", data.shape, max_values)
    if data.size > MOST_ACQUISITIONS:
        raise Refused(f"lists {data.size} acquisitions; it is damaged, or to be split")
    allow_memory(data.shape[0] * 2048 + 256 * MEBIBYTE)
    heads = data.fields("head")[...].ravel()
    columns = {name: heads[name].astype(np.int64) for name in COUNTS}
    columns |= {name: heads["idx"][name].astype(np.int64) for name in INDICES}
    columns["sample_time_us"] = heads["sample_time_us"].astype(np.float64)
    lengths = columns["number_of_samples"] * columns["active_channels"]
    total = int(lengths.sum())
    check_size("data", (total,), max_values)
    allow_memory(40 * total + 512 * MEBIBYTE)
    samples = np.empty(total, np.complex64)
    position = 0
    for start in range(0, len(heads), BLOCK):
        for k, acquired in enumerate(data.fields("data")[start : start + BLOCK], start):
            if acquired.size != 2 * lengths[k]:
                raise Refused(f"acquisition {k} has {acquired.size} numbers for {lengths[k]} samples; export it again")
            samples[position : position + lengths[k]] = np.ascontiguousarray(acquired, np.float32).view(np.complex64)
            position += lengths[k]
    return {"layout": "ismrmrd", "xml": text(dataset(group, "xml")[...])}, columns | {"samples": samples}


def text(value):
    value = value.ravel()[0] if isinstance(value, np.ndarray) else value
    value = value.decode() if isinstance(value, bytes) else value
    if len(value) > MEBIBYTE:
        raise Refused("has a header of more than 1 MiB; it is damaged")
    return value


def allow_memory(amount):
    """Let this process take that many bytes beyond what it has now, where the system can say so (Linux)."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = pages * resource.getpagesize() + amount
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
