"""The fuzzing campaign: malformed files, arguments and command lines by the hundred thousand; see ``campaign.py``."""
