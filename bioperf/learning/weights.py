"""Weight files: safetensors whose content is checked against the hash and the shapes that it must have."""

import hashlib
import json
from pathlib import Path

from ..io.errors import InputError
from ..io.images import check_file
from ..io.whole import write_whole

__all__ = ["FORMAT", "digest", "read_tensors", "write_tensors"]

FORMAT = "bioperf"
MAX_BYTES = 2**26
_METADATA = {"format", "kind", "sha256", "record", "record_sha256"}


def digest(tensors):
    """SHA-256 over names, shapes, types and values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        total.update(f"{name} {array.shape} {array.dtype.str};".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def write_tensors(path, tensors, kind, record):
    """Write float32 tensors with their hash and a record (a dict for JSON), whole or not at all.

    The same arguments give the same bytes.
    Raises TypeError for tensors of another type or a record that JSON cannot hold, OutputError for the path.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if str(tensor.dtype) != "torch.float32":
            raise TypeError(f"tensors: {name!r} is {tensor.dtype}, expected torch.float32")
    text = json.dumps(record)
    metadata = {"format": FORMAT, "kind": kind, "sha256": digest(tensors), "record": text, "record_sha256": _hash(text)}
    content = _in_order(save(tensors, metadata))
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def _in_order(content):
    """The same file with the names of its header sorted: safetensors leaves the order of the metadata to chance."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    # The values that follow are aligned to 8 bytes
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def read_tensors(path, kind, shapes=None):
    """The tensors (float32, on the CPU) and the record of a file that ``write_tensors`` wrote.

    Parameters
    ----------
    path : str or Path
    kind : str
        What the file must be: "denoiser", "checkpoint" or "stages".
    shapes : dict of name -> tuple, optional
        What it must hold.

    Raises
    ------
    InputError
        For a file that is missing, truncated, damaged or of another kind.  Nothing in it is ever executed.
    """
    from safetensors.torch import load

    content = _content(Path(path))
    metadata = _metadata(path, content)
    if metadata.get("format") != FORMAT or metadata.get("kind") != kind:
        found = repr(metadata.get("kind"))[:40] if metadata.get("format") == FORMAT else "something else"
        raise InputError(f"{path}: holds {found}, not a {kind} of bioperf; give a file written for that")
    try:
        tensors = load(content)
    except Exception as error:  # of whatever kind safetensors or torch raises
        raise _unreadable(path, error) from error
    _check_tensors(path, tensors, shapes)
    if metadata.get("sha256") != digest(tensors):
        raise InputError(f"{path}: the weights are not those that were written (SHA-256 differs); copy the file again")
    return tensors, _record(path, metadata)


def _content(path):
    check_file(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 20} MiB; give a file that bioperf wrote")
    return content


def _metadata(path, content):
    """The words that stand beside the tensors, from the header: its length in 8 bytes, then JSON."""
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise _unreadable(path, "the header ends behind the file")
    try:
        header = json.loads(str(content[8 : 8 + length], "utf-8"), object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _unreadable(path, "the metadata are not text")
    return metadata


def _unrepeated(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _unreadable(path, reason):
    reason = " ".join(str(reason).split())[:80] or type(reason).__name__
    return InputError(f"{path}: is not a safetensors file, or a truncated one ({reason}); copy it again")


def _check_tensors(path, tensors, shapes):
    if shapes is not None and set(tensors) != set(shapes):
        odd = sorted(set(tensors) ^ set(shapes))[0]
        raise InputError(
            f"{path}: the arrays are not this network's (the first that differs: {odd[:60]!r}); give a file of it"
        )
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape) if shapes is None else tuple(shapes[name])
        if tuple(tensor.shape) != shape or str(tensor.dtype) != "torch.float32":
            raise InputError(
                f"{path}: {name[:60]!r} is {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}, "
                f"not {shape} float32; give a file of this network"
            )


def _record(path, metadata):
    text = metadata.get("record", "{}")
    # The hash of the record came later than that of the tensors: files without it are read.
    if set(metadata) <= _METADATA and metadata.get("record_sha256", _hash(text)) == _hash(text):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            return record
    raise InputError(f"{path}: the record of how it was made is damaged; copy the file again")


def _hash(text):
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
