"""The values Python sends to the viewer, field by field.

The same shapes are written for JavaScript in ``viewer/payload.js``; a test compares the two.
"""

from __future__ import annotations

from typing import Any, TypedDict

# Gradio's description of a served file: ``path`` and, once it has passed Gradio, ``url``.
File = dict[str, Any]


class ClassShare(TypedDict):
    """A class of a model: its colour (R, G, B) and its share of the picture, 0 to 1."""

    name: str
    colour: list[int]
    share: float


class ScoreMap(TypedDict):
    """A smoothed score as 16-bit codes (``packing.packed_codes``) over ``extent``, low and high.

    ``smoothing`` is the sigma of the Gaussian as a share of the longer side.
    """

    codes: File
    extent: list[float]
    smoothing: float


class Side(TypedDict):
    """One model's answer.

    Attributes:
        side: ``left`` or ``right``.
        source: what the model is asked for by.
        title: for readers.
        head: ``KAN`` or ``MLP``.
        facts: head, backbone, parameters, device and time, in words.
        stages: what took how long, in words.
        notes: for readers of this answer.
        score: its name; ``score_title`` for readers.
        calibrated: whether ``range`` and ``threshold`` were measured.
        calibrated_on: the data, in words; may be empty.
        range: of the colours, low and high.
        threshold: the default.
        curve: of [rate, threshold, recall] on the calibration data, rates growing; empty where it
            was not measured.
        classes: all, by label.
        labels: one byte a pixel, little-endian two above 255 classes.
    """

    side: str
    source: str
    title: str
    head: str
    facts: str
    stages: str
    notes: list[str]
    score: str
    score_title: str
    calibrated: bool
    calibrated_on: str
    range: list[float]
    threshold: float
    curve: list[list[float]]
    classes: list[ClassShare]
    labels: File
    scores: ScoreMap


class Answers(TypedDict):
    """Both models' answers to one picture.

    Attributes:
        size: (H, W) of the maps; ``source_size`` that of the picture.
        truth: one byte a pixel, 0 known, 1 anomaly, 255 void; None without one.
        smallest: pixels of the smallest region that is reported by default.
        unlike: whether the picture is unlike what the models were trained on.
    """

    size: list[int]
    source_size: list[int]
    picture: File
    truth: File | None
    smallest: int
    unlike: bool
    sides: list[Side]


class Result(Answers):
    """The same, as the answer to a request.

    Attributes:
        token: of the request; 0 for the first result, which nobody asked for.
        run: its number, by which later questions name it.
        name: of the picture's file.
        example: the example's name, or empty.
    """

    token: int
    run: str
    name: str
    example: str


class Refusal(TypedDict):
    """The sentence that stands where the result would have been."""

    token: int
    error: str
