"""Hyper-parameters chosen by bilevel programming (BF-DCA) and by searches, judged by one criterion on one lower level.

>>> problem = bioperf.TVWavelet(bioperf.MaskedFourier(mask), kspace)
>>> selection = bioperf.select_hyperparameters(problem)
>>> selection.weights
"""

from .constrained import LowerSolution
from .criteria import Split, split_samples
from .iterates import LowerState
from .problems import TVWavelet
from .relaxation import BIORelaxation, TVWeight
from .result import Selection, Trial
from .select import select_hyperparameters

__all__ = [
    "BIORelaxation",
    "LowerSolution",
    "LowerState",
    "Selection",
    "Split",
    "TVWavelet",
    "TVWeight",
    "Trial",
    "select_hyperparameters",
    "split_samples",
]
