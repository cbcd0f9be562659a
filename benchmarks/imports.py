"""Start-up time, each in a fresh interpreter: what a user waits for before anything is computed."""


class Import:
    number, repeat = 1, 5

    def timeraw_nothing(self):
        return "pass"

    def timeraw_numpy(self):
        return "import numpy"

    def timeraw_bioperf(self):
        return "import bioperf"

    def timeraw_bioperf_solvers(self):
        return "from bioperf import Blur, solve_bio, solve_lower"
