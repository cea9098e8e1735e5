"""Find a model's weights in whatever a training run saved around them.

Trainers wrap weights in tables (``state_dict``, ``model``, ``ema`` …), put prefixes before their
names (``module.``, ``model.``, ``_orig_mod.`` …) and foreign entries beside them (losses, metrics,
a second model). The weights are recognised by names that every Mask2Former has; the prefix before
them is dropped with everything that does not carry it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mask2kan.checkpoints.files.arrays import Array
from mask2kan.checkpoints.files.stored import StoredTensor
from mask2kan.checkpoints.files.torch_files import OddTensor
from mask2kan.errors import CheckpointError

MAX_TENSORS = 20_000
MAX_TABLES = 50_000
MAX_SETS = 64  # of a file: students, teachers and averages are a few
MAX_DEPTH = 6
TOP = "top level"  # the name of what lies there without a prefix
SHOWN = 8

# Added to the names by torch.compile, DataParallel, FSDP, activation checkpointing and Fabric
_WRAPPERS = {
    *("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    "_forward_module",
}
_PLAIN_TABLES = ("model", "state_dict", "model_state_dict", "module", "net")
_AVERAGED = re.compile(r"(?<![a-z])(ema|averaged?|polyak|swa)(?![a-z])")


class Layout(NamedTuple):
    """How one code base names a Mask2Former.

    Attributes:
        anchor: matches a name from its start; the group is what stands before the layout's own.
        roots: what the layout's own names start with.
    """

    anchor: re.Pattern[str]
    roots: tuple[str, ...]


_PREFIX = r"((?:[^.]+\.)*?)"
LAYOUTS = {
    "detectron2": Layout(
        re.compile(_PREFIX + r"sem_seg_head\."),
        ("backbone.", "sem_seg_head.", "criterion.", "pixel_mean", "pixel_std"),
    ),
    "transformers": Layout(
        re.compile(_PREFIX + r"(?:model\.)?pixel_level_module\."),
        ("model.", "pixel_level_module.", "transformer_module.", "class_predictor.", "criterion."),
    ),
    "mmsegmentation": Layout(
        re.compile(_PREFIX + r"(?:decode|panoptic)_head\.(?:pixel_decoder|query_feat|cls_embed)\."),
        ("backbone.", "decode_head.", "panoptic_head."),
    ),
    "native": Layout(
        re.compile(_PREFIX + r"transformer_decoder\.(?:query_feat|class_embed|mask_embed)\."),
        ("backbone.", "pixel_decoder.", "transformer_decoder."),
    ),
}


@dataclasses.dataclass
class WeightSet:
    """One model's weights.

    Attributes:
        name: where they lie, tables and prefix.
        layout: a key of ``LAYOUTS``; "" where no Mask2Former was recognised.
        entries: by the layout's own names; ``StoredTensor`` or ``Array``.
        foreign: names of the tensors beside them that belong to none.
        notes: what a user should know about how they were found.
    """

    name: str
    layout: str
    entries: dict[str, Any]
    foreign: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def averaged(self) -> bool:
        """Whether they are a running average of a training's weights."""
        return bool(_AVERAGED.search(self.name.lower()))


def choose(loaded: Any, wanted: str | None = None) -> WeightSet:
    """Choose a set of weights: the ``wanted`` one, an average, or the largest.

    Raises:
        CheckpointError: when there are none, or none of that name.
    """
    sets = list(weight_sets(loaded))
    if not sets:
        if wanted is not None:
            raise CheckpointError(f"It has no named sets of weights, so none is {wanted!r:.60}.")
        return plain(loaded)
    if wanted is not None:
        return _named(sets, wanted)
    chosen = max(sets, key=lambda found: (_preferred(found, loaded), len(found.entries)))
    if len(sets) > 1:
        names = ", ".join(found.name for found in sets[:SHOWN])
        chosen.notes.append(
            f"It holds {len(sets)} sets of weights ({names}); {chosen.name} was taken. "
            "weights= (--weights) chooses another."
        )
        if chosen.averaged:
            _complete(chosen, sets)
    if chosen.foreign:
        more = ", …" if len(chosen.foreign) > 3 else ""
        plural = "s" if len(chosen.foreign) > 1 else ""
        chosen.notes.append(
            f"Left out {len(chosen.foreign)} tensor{plural} beside the model's weights "
            f"({', '.join(chosen.foreign[:3])}{more})."
        )
    return chosen


def _preferred(found: WeightSet, loaded: Any) -> bool:
    """Prefer averages. mmengine's EMAHook swaps the two tables when it saves."""
    swapped = found.layout == "mmsegmentation" and "ema_state_dict" in loaded
    return found.averaged != swapped


def _complete(chosen: WeightSet, sets: list[WeightSet]) -> None:
    """Averages often lack what is no parameter (running statistics): take that from another."""
    for other in sets:
        missing = other.entries.keys() - chosen.entries.keys()
        if (
            other.layout == chosen.layout
            and missing
            and not chosen.entries.keys() - other.entries.keys()
        ):
            chosen.entries = {
                name: chosen.entries.get(name, value) for name, value in other.entries.items()
            }
            chosen.notes.append(
                f"{chosen.name} lacks {len(missing)} entries ({min(missing)}, …), which were "
                f"taken from {other.name}."
            )
            return


def _named(sets: list[WeightSet], wanted: str) -> WeightSet:
    exact = [found for found in sets if found.name == wanted]
    within = exact or [found for found in sets if wanted in re.split(r"[/.]", found.name)]
    if len(within) != 1:
        raise CheckpointError(
            f"It has {'no' if not within else 'several'} weights {wanted!r:.60}; "
            f"it has {', '.join(found.name for found in sets[:SHOWN])}."
        )
    return within[0]


def plain(loaded: Any) -> WeightSet:
    """Take a table of weights as it is: a part of a checkpoint, or of another model.

    Raises:
        CheckpointError: when there is none.
    """
    if not isinstance(loaded, dict):
        raise CheckpointError(f"It holds a {type(loaded).__name__}, not a table of weights.")
    inner = (loaded[key] for key in _PLAIN_TABLES if isinstance(loaded.get(key), dict))
    table = next(inner, loaded)
    return WeightSet(TOP, "", unwrapped(table))


def weight_sets(loaded: Any) -> Iterator[WeightSet]:
    """Yield every set of weights of a Mask2Former in what a file held.

    Raises:
        CheckpointError: for more than ``MAX_SETS``, or as ``unwrapped``.
    """
    count = 0
    for path, table in _tables(loaded):
        entries = unwrapped(table)
        found: list[tuple[WeightSet, list[str]]] = []
        for weights, keys in _sets_of(path, entries):  # each is compared with all names
            count += 1
            if count > MAX_SETS:
                raise CheckpointError(
                    f"It has over {MAX_SETS} sets of weights; save the model's alone, as a file of "
                    "its own."
                )
            found.append((weights, keys))
        taken = {key for _, keys in found for key in keys}
        foreign = [key for key in entries if key not in taken and is_tensor(entries[key])]
        for weights, _ in found:
            weights.foreign = foreign
            yield weights


def _sets_of(
    path: tuple[str, ...], entries: Mapping[str, Any]
) -> Iterator[tuple[WeightSet, list[str]]]:
    """Yield sets of one table, each with the names it takes."""
    claimed: set[str] = set()
    for name, layout in LAYOUTS.items():
        matches = (layout.anchor.match(key) for key in entries)
        for prefix in dict.fromkeys(match[1] for match in matches if match):
            if prefix in claimed:
                continue
            keys = [
                key
                for key in entries
                if key.startswith(prefix) and key[len(prefix) :].startswith(layout.roots)
            ]
            if not keys:
                continue
            claimed.add(prefix)
            where = "/".join([*path, *filter(None, [prefix.rstrip(".")])]) or TOP
            yield WeightSet(where, name, {key[len(prefix) :]: entries[key] for key in keys}), keys


def unwrapped(table: Mapping[Any, Any]) -> dict[str, Any]:
    """Drop the segments that wrappers of modules add to names.

    Raises:
        CheckpointError: when that makes two names one.
    """
    if len(table) > MAX_TENSORS:
        raise CheckpointError(f"It has {len(table):,} entries; up to {MAX_TENSORS:,} are read.")
    entries: dict[str, Any] = {}
    for key, value in table.items():
        name = ".".join(part for part in str(key).split(".") if part not in _WRAPPERS) or str(key)
        if name in entries and is_tensor(value):
            raise CheckpointError(f"It has {name[:80]} twice, once inside a wrapper.")
        entries[name] = value
    return entries


def _tables(loaded: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Yield the tables that hold tensors, with their places, outer ones first."""
    queue: list[tuple[tuple[str, ...], Any]] = [((), loaded)]
    seen: set[int] = set()
    for path, value in queue:  # which grows meanwhile
        if id(value) in seen or len(seen) > MAX_TABLES:
            continue
        seen.add(id(value))
        if isinstance(value, dict) and any(map(is_tensor, value.values())):
            yield path, value
        if len(path) < MAX_DEPTH:
            queue += [((*path, str(key)), inner) for key, inner in _inner(value)]


def _inner(value: Any) -> Iterable[tuple[Any, Any]]:
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)) and len(value) <= 64:
        pairs = enumerate(value)
    return [(key, inner) for key, inner in pairs if isinstance(inner, (dict, list, tuple))]


def is_tensor(value: Any) -> bool:
    """Whether a value of a file is a tensor or an array of any kind."""
    return isinstance(value, (StoredTensor, OddTensor, Array))
