"""How weights come to be, and how good they are: training, evaluation, calibration.

Imports ``mask2kan`` and is never imported by it, so inference carries no training code.
"""
