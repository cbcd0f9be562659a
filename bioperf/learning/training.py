"""Training the denoising network: seeded, and resumed bit for bit from checkpoints."""

import copy
import csv
import io
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .._validation import check_callback, check_choice, check_count, check_number
from ..io.errors import InputError
from ..io.whole import check_writable, write_whole
from . import require_torch
from .patches import Patches, as_training_image, digest_of
from .weights import digest, read_tensors, write_tensors

__all__ = ["Settings", "train_denoiser"]

logger = logging.getLogger(__name__)

# Relative to the level, errors count the same at every level; this keeps the weakest noise from counting for more.
LEVEL_FLOOR = 0.01
EMA_DECAY = 0.999
# The part of the steps that raises the learning rate, and the one from which batch normalisation keeps its statistics.
WARM_UP, FREEZE = 0.01, 0.75
VALIDATION_SIDE = 192
_LEAST = {"steps": 1, "batch": 1, "patch": 8, "seed": 0}
_COLUMNS = ("step", "seconds", "loss", "rate", "psnr")


@dataclass(frozen=True)
class Settings:
    """How to train; what a checkpoint must agree on to be continued.

    steps, batch, patch : int
        Steps of Adam, patches a step, pixels along a patch's side.
    lowest, highest : float
        Range of the noise level, for intensities in [0, 1].
    learning_rate : float
        The highest one: reached after 1 % of the steps, then lowered to 0 by a cosine.
    seed : int
    precision : "bfloat16" or "float32"
        Of the inner layers while training.
    """

    steps: int = 40000
    batch: int = 8
    patch: int = 64
    lowest: float = 0.0
    highest: float = 0.11
    learning_rate: float = 1e-3
    seed: int = 0
    precision: str = "bfloat16"

    def __post_init__(self):
        # Python's own numbers, which a checkpoint's record can hold
        checked = {name: check_count(name, getattr(self, name), least) for name, least in _LEAST.items()} | {
            "learning_rate": check_number("learning_rate", self.learning_rate, strict=True),
            "lowest": check_number("lowest", self.lowest),
            "highest": check_number("highest", self.highest, strict=True, maximum=1.0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.highest < self.lowest:
            raise ValueError(f"highest: must be at least lowest = {self.lowest:g}, got {self.highest:g}")
        check_choice("precision", self.precision, ("bfloat16", "float32"))

    def rate(self, step):
        """The learning rate of a step."""
        warm = max(1, round(WARM_UP * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


def train_denoiser(
    images, out, settings=None, *, validation=None, initial=None, checkpoint_every=1000, device="cpu", threads=None,
    restart=False, callback=None, note="",
):  # fmt: skip
    """Train ``DilatedDenoiser`` on patches with white Gaussian noise and write the averaged weights.

    Adam on ``mean(((denoised - clean) / (level + 0.01))^2)`` with warm-up and a cosine, weights averaged with decay
    0.999; batch normalisation keeps its statistics in the last quarter of the steps, and throughout those of
    ``initial``.

    Parameters
    ----------
    images : list of 2-D ndarrays
        uint8, or floats with intensities in [0, 1] (``read_training_images``); at least a patch large.
    out : str or Path
        The weights (safetensors).  Beside it stand OUT.checkpoint (safetensors too, removed at the end) and
        OUT.csv (step, seconds, loss, rate, validation PSNR); all of them whole at any time.  A checkpoint of the
        same settings and images is continued: the result is the same bit for bit as without the interruption,
        with the same number of threads.
    settings : Settings, optional
    validation : list of 2-D ndarrays, optional
        None: every 25th of ``images`` is kept for it (if there are 25).
    initial : str or Path, optional
        Weights to start from.
    checkpoint_every : int
        Steps between checkpoints and validations.
    device : str
        "cpu" or "cuda".
    threads : int, optional
        torch's threads; None leaves them as they are.
    restart : bool
        Ignore a checkpoint.
    callback : callable (dict) -> bool, optional
        Called after every step with step, loss and, after a validation, psnr; True stops (the checkpoint is
        written), unless that was the last step.
    note : str
        For the record inside the file, such as the command.

    Returns
    -------
    list of dict
        The rows of the log.

    Raises
    ------
    ImportError
        Without torch.
    TypeError, ValueError
        For images or arguments that cannot be used, before the first step.
    InputError, OutputError
        For a checkpoint of other settings, unusable initial weights, or a path that cannot be written, before the
        first step.
    FloatingPointError
        If the loss is no longer finite.
    """
    torch = require_torch("training")
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        raise TypeError(f"settings: expected Settings, got {settings!r}")
    if not isinstance(note, str):
        raise TypeError(f"note: expected text, got {note!r}")
    check_callback(callback)
    checkpoint_every = check_count("checkpoint_every", checkpoint_every)
    if check_choice("device", device, ("cpu", "cuda")) == "cuda" and not torch.cuda.is_available():
        raise ValueError('device: no CUDA device is at hand; pass "cpu"')
    out = Path(out)
    place, log = (out.with_name(out.name + suffix) for suffix in (".checkpoint", ".csv"))
    for path in (out, place, log):
        check_writable(path)
    images = [as_training_image(f"images[{i}]", image, settings.patch) for i, image in enumerate(images)]
    if not images:
        raise ValueError("images: none; pass at least one")
    if validation is not None:
        validation = [as_training_image(f"validation[{i}]", image) for i, image in enumerate(validation)]
    else:
        validation = images[::25] if len(images) >= 25 else []
        images = [image for i, image in enumerate(images) if i % 25 or not validation]
    if threads is not None:
        torch.set_num_threads(check_count("threads", threads))
    run = _Run(torch, settings, images, initial, device)
    identity = asdict(settings) | {"images": digest_of(images), "initial": run.initial}
    rows, spent = [], 0.0
    if place.exists() and not restart:
        rows, spent = run.restore(place, identity)
        logger.info("continuing at step %d", run.step)

    begin = time.perf_counter() - spent
    losses = []
    while run.step < settings.steps:
        losses.append(run.advance())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"step {run.step}: the loss is not finite; lower the learning rate")
        row = {"step": run.step, "loss": losses[-1]}
        due = run.step % checkpoint_every == 0 or run.step == settings.steps
        if due:
            row |= {"loss": float(np.mean(losses)), "rate": settings.rate(run.step), "psnr": run.validate(validation)}
            losses = []
        stop = callback is not None and callback(dict(row))
        if due:
            rows.append(row | {"seconds": time.perf_counter() - begin})
        if (due or stop) and run.step < settings.steps:
            run.save(place, identity, rows, time.perf_counter() - begin)
            _write_log(log, rows)
            if stop:
                return rows
    record = identity | {"threads": torch.get_num_threads(), "torch": torch.__version__, "note": note}
    write_tensors(out, run.averaged(), "denoiser", record)
    _write_log(log, rows)
    place.unlink(missing_ok=True)
    return rows


class _Run:
    """The state of a training: network, average, optimiser, step."""

    def __init__(self, torch, settings, images, initial, device):
        from .network import DilatedDenoiser

        self.torch, self.settings, self.device = torch, settings, torch.device(device)
        self.patches = Patches(
            images, batch=settings.batch, side=settings.patch, levels=(settings.lowest, settings.highest),
            seed=settings.seed,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = DilatedDenoiser()
        self.initial = None
        if initial is not None:
            shapes = {name: tuple(t.shape) for name, t in _floats(self.network).items()}
            tensors, _ = read_tensors(initial, "denoiser", shapes)
            self.network.load_state_dict(tensors, strict=False)
            self.initial = digest(tensors)
        self.network = self.network.to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        self.optimiser = torch.optim.Adam(self.network.parameters())
        self.step = 0

    def advance(self):
        """One step of Adam; the loss."""
        torch, settings = self.torch, self.settings
        self.network.train()
        if self.initial is not None or self.step >= FREEZE * settings.steps:
            self.network.norms.eval()
        clean, noisy, level = (torch.from_numpy(a).to(self.device) for a in self.patches.draw(self.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            denoised = self.network(noisy.contiguous(memory_format=torch.channels_last), level)
        weight = (1 / (level + LEVEL_FLOOR)).view(-1, 1, 1, 1)
        loss = (weight * (denoised - clean)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate(self.step)
        self.optimiser.step()
        self.step += 1
        with torch.no_grad():
            # fewer at first, so that the start is forgotten
            decay = min(EMA_DECAY, self.step / (self.step + 10))
            for mean, now in zip(_floats(self.average).values(), _floats(self.network).values(), strict=True):
                mean.lerp_(now, 1 - decay)
        return loss.item()

    def validate(self, images):
        """Mean PSNR in dB of the middles of the images, at half of the highest level; NaN without images."""
        if not images:
            return math.nan
        level = 0.5 * self.settings.highest
        rng = np.random.default_rng(self.settings.seed)
        values = []
        for image in images:
            i, j = (max(0, (n - VALIDATION_SIDE) // 2) for n in image.shape)
            clean = image[i : i + VALIDATION_SIDE, j : j + VALIDATION_SIDE].astype(np.float32)
            clean /= 255 if image.dtype == np.uint8 else 1
            noisy = clean + np.float32(level) * rng.standard_normal(clean.shape, np.float32)
            denoised = self.denoise(noisy, level)
            values.append(-10 * math.log10(float(np.mean((denoised - clean) ** 2, dtype=np.float64))))
        return float(np.mean(values))

    def denoise(self, image, level):
        """One image by the averaged network, in float32."""
        torch = self.torch
        with torch.inference_mode():
            batch = torch.from_numpy(image)[None, None].to(self.device)
            return self.average(batch, torch.tensor([level], device=self.device))[0, 0].cpu().numpy()

    def averaged(self):
        return _floats(self.average)

    def save(self, place, identity, rows, seconds):
        tensors = {f"network.{name}": t for name, t in _floats(self.network).items()}
        tensors |= {f"average.{name}": t for name, t in _floats(self.average).items()}
        for name, parameter in self.network.named_parameters():
            moments = self.optimiser.state[parameter]
            tensors |= {f"first.{name}": moments["exp_avg"], f"second.{name}": moments["exp_avg_sq"]}
        record = {"identity": identity, "step": self.step, "rows": rows, "seconds": seconds}
        write_tensors(place, tensors, "checkpoint", record)

    def restore(self, place, identity):
        """Continue from a checkpoint; the rows of its log and the seconds spent."""
        torch = self.torch
        shapes = {}
        for prefix, named in (
            ("network", _floats(self.network)), ("average", _floats(self.average)),
            ("first", dict(self.network.named_parameters())), ("second", dict(self.network.named_parameters())),
        ):  # fmt: skip
            shapes |= {f"{prefix}.{name}": tuple(t.shape) for name, t in named.items()}
        tensors, record = read_tensors(place, "checkpoint", shapes)
        step, rows, seconds = _progress_of(place, record, identity, self.settings.steps)
        with torch.no_grad():
            for prefix, network in (("network", self.network), ("average", self.average)):
                for name, tensor in _floats(network).items():
                    tensor.copy_(tensors[f"{prefix}.{name}"])
        self.step = step
        for name, parameter in self.network.named_parameters():
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": torch.empty_like(parameter).copy_(tensors[f"first.{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"second.{name}"]),
            }
        return rows, seconds


def _floats(network):
    """Parameters and statistics by name, without the counters of batches."""
    return {name: t for name, t in network.state_dict().items() if t.is_floating_point()}


def _progress_of(place, record, identity, steps):
    """Step, rows and seconds of a checkpoint's record; InputError unless it is of this run."""
    found, step, rows, seconds = (record.get(name) for name in ("identity", "step", "rows", "seconds"))
    if not isinstance(found, dict):
        raise InputError(f"{place}: does not say of which run it is; restart (--restart)")
    absent = object()
    differing = [name for name in identity | found if found.get(name, absent) != identity.get(name, absent)]
    if differing:
        raise InputError(
            f"{place}: is of a run with other {', '.join(differing)[:200]}; give the same, or restart (--restart)"
        )
    if type(step) is not int or not 0 < step < steps:
        raise InputError(f"{place}: is of step {step!r:.40}, not of one from 1 to {steps - 1}; restart (--restart)")
    numbers = [seconds, *(value for row in rows for value in row.values())] if _is_table(rows) else [None]
    if not all(type(number) in (int, float) for number in numbers) or not 0 <= seconds < math.inf:
        raise InputError(f"{place}: the log in it is damaged; restart (--restart)")
    return step, rows, seconds


def _is_table(rows):
    return isinstance(rows, list) and all(isinstance(row, dict) and set(row) == set(_COLUMNS) for row in rows)


def _write_log(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda temporary: temporary.write_text(text.getvalue()))
