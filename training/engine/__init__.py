"""Running a training: steps, checkpoints of a run, resuming, processes and devices."""
