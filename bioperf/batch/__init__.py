"""Many items in one run: a manifest in, outputs with their certificates out, killed and resumed without a loss.

``manifest.py`` reads the rows, ``run.py`` runs them (``execution.py``: one item), ``journal.py`` keeps what is done,
``resources.py`` says what may be used, ``cluster.py`` runs them on the workers of a Dask cluster.
"""

from .manifest import Item, read_manifest, split
from .run import Outcome, Preview, preview_batch, run_batch

__all__ = ["Item", "Outcome", "Preview", "preview_batch", "read_manifest", "run_batch", "split"]
