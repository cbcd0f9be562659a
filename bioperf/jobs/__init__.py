"""The work of a command on one input, from file to file: read, solve, write.

>>> from bioperf.jobs import DeblurJob
>>> job = DeblurJob("blurred.png", "restored.png", psf="psf.npy", noise_std=0.01)
>>> job.read()                                # finds all that can be wrong
>>> solution = job.solve()
>>> job.write(solution)
"""

from .deblur import DeblurJob
from .mri import MriJob
from .tune import TuneJob

__all__ = ["JOBS", "DeblurJob", "MriJob", "TuneJob"]

JOBS = {"deblur": DeblurJob, "mri": MriJob, "tune": TuneJob}
