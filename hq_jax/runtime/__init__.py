"""Processes, devices, checkpoints, signals and folders of a run."""
