"""Training, evaluation and calibration; ``mask2kan`` never imports it."""

import os

# How long PyTorch's threads wait awake for each other; libgomp reads it when torch is imported. The
# default, milliseconds, makes steps half as long again beside another busy program; a shorter wait
# slows steps on quiet cores, where threads then have to be woken.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
