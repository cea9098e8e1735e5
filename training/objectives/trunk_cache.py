"""Features of a trunk that does not learn, computed once per crop and stored on disk.

The decoder's attention masks depend on ``mask_embed``, so only the trunk, nine tenths of the work,
is cached: as float16 (about 1e-3 relative), in an unnamed temporary file, which the system removes
even when the program is killed.
"""

from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2kan.errors import NumericsError
from mask2kan.media.files import is_full
from mask2kan.modeling.mask2kan import Mask2KAN
from mask2kan.modeling.pixel_decoder import Features

Row = NDArray[np.float16]
logger = logging.getLogger(__name__)


class TrunkCache:
    """The pixel decoder's outputs of crops, by the number of their view.

    Args:
        model: its trunk is in evaluation mode and does not change.
        gigabytes: of disk; what does not fit, or finds the disk full, is computed every time.
        folder: of the temporary file.

    Attributes:
        misses: crops computed so far.
    """

    def __init__(self, model: Mask2KAN, gigabytes: float, folder: str | None = None) -> None:
        self._model = model
        self._capacity = int(gigabytes * 1e9)
        self._folder = folder
        self._file: Any = None  # an io.FileIO, which ``tempfile`` wraps on Windows
        self._slots: dict[int, int] = {}
        self._shapes: list[torch.Size] = []
        self.misses = 0

    @torch.no_grad()
    def __call__(self, images: Tensor, views: Sequence[int]) -> Features:
        """Return float32 features of (B, 3, H, W) images, all batches of one size.

        Equal numbers in ``views`` (B) mean equal crops.
        """
        rows = [self._row(images[b : b + 1], view) for b, view in enumerate(views)]
        batch = torch.from_numpy(np.stack(rows)).to(images.device).float()
        sizes = [shape.numel() for shape in self._shapes]
        *levels, mask_features = (
            part.unflatten(1, shape)
            for part, shape in zip(batch.split(sizes, 1), self._shapes, strict=True)
        )
        return Features(mask_features, levels)

    def _row(self, image: Tensor, view: int) -> Row:
        """Flatten all features of one crop; computed alone, so its batch changes no number."""
        if view in self._slots:
            return self._read(self._slots[view])
        self.misses += 1
        mask_features, levels = self._model.trunk(image)
        parts = [*levels, mask_features]
        self._shapes = [part.shape[1:] for part in parts]
        row = torch.cat([part.flatten().half() for part in parts]).cpu()
        if not row.isfinite().all():
            raise NumericsError(
                "The trunk's features are not finite in float16; set views=0 to train without "
                "keeping them."
            )
        self._write(view, row.numpy())
        return row.numpy()

    def _write(self, view: int, values: Row) -> None:
        slot = len(self._slots)
        if (slot + 1) * values.nbytes > self._capacity:
            if slot and self.misses == slot + 1:
                logger.info("the features' file is full with %d crops; more are computed", slot)
            return
        if self._file is None:
            # Unbuffered: a full disk shows at once.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        try:
            self._file.seek(slot * values.nbytes)
            whole = self._file.write(values.tobytes()) == values.nbytes
        except OSError as error:
            if not is_full(error):
                raise
            whole = False
        if whole:
            self._slots[view] = slot
        else:
            self._capacity = slot * values.nbytes
            logger.warning("the disk of the features' file is full with %d crops", slot)

    def _read(self, slot: int) -> Row:
        count = sum(shape.numel() for shape in self._shapes)
        assert self._file is not None
        self._file.seek(slot * count * 2)
        return np.frombuffer(self._file.read(count * 2), np.float16)
