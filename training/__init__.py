"""How weights come to be, and how good they are: training, evaluation, calibration.

Imports ``mask2kan`` and is never imported by it, so inference carries no training code.
"""

import os

# How long PyTorch's threads wait awake for each other (libgomp reads it when torch is imported). By
# default for milliseconds: beside another busy program they then keep each other off the cores, and
# a step takes half as long again as with a short wait. Waiting shorter still slows steps on quiet
# cores, where threads then have to be woken.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
