"""Cases of a training, preprocessed once and kept in a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data import Plan, preprocess, repeat_edge_slices
from MaskSAMCore.data.case_cache import (
    CaseCache,
    CaseSource,
    StoredArrays,
    entry_name,
    gigabytes,
)
from MaskSAMCore.data.dataset import Dataset, LabelledCase, load_cases
from MaskSAMCore.data.planning import CaseFingerprint, case_fingerprint
from MaskSAMCore.data.preprocessing import plan_shape
from MaskSAMCore.data.synthesis.windows import CachedLabelmap, IndexedLabelmap, synthesized_case
from MaskSAMCore.data.windows import CachedCase, IndexedCase
from MaskSAMCore.geometry import apply_axes, axis_mapping
from MaskSAMCore.io.files import sha256

# Cache entries of another version are made anew.
_VERSION = 1
# Largest size in bytes of the voxels that are sampled of each class.
_SAMPLE_BYTES = 120_000


@dataclass(frozen=True)
class ExaminedCase:
    """Facts about a case that was read and checked.

    Attributes:
        fingerprint: grid and foreground intensities.
        classes: indices of the classes that occur, without the background.
    """

    fingerprint: CaseFingerprint
    classes: frozenset[int]

    @classmethod
    def of(cls, number: int, case: LabelledCase) -> ExaminedCase:
        """Examine a case whose number is the seed of its foreground sample."""
        found: set[int] = set()
        for plane in case.labelmap:  # plane by plane, because sorting makes a copy
            found.update(np.unique(plane).tolist())
        fingerprint = case_fingerprint(case.channels, case.labelmap, number)
        return cls(fingerprint, frozenset(found - {0}))


@dataclass(frozen=True)
class PreparedCases:
    """Cases that each process opens for itself.

    Attributes:
        cases: training cases; empty if images are synthesised from labelmaps.
        labelmaps: labelmaps to synthesise training images from; else empty.
        validation: validation cases, with their labelmaps at their own resolution.
        entries: names of the cache's entries of these cases.
    """

    cases: tuple[CaseSource[IndexedCase], ...]
    labelmaps: tuple[CaseSource[IndexedLabelmap], ...]
    validation: tuple[CaseSource[IndexedCase], ...]
    entries: frozenset[str]


class CasePreparation:
    """Preprocessing of a dataset's cases for a plan.

    Args:
        dataset: dataset that has been examined.
        split: names of the cases under "train" and "val".
        plan: preprocessing.
        every_slice: True if windows are centred on every slice, for which the first and the last
            slice of a training case are repeated.
        cache: cache of the preprocessed cases.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: dict[str, list[str]],
        plan: Plan,
        every_slice: bool,
        cache: CaseCache,
    ) -> None:
        self.dataset = dataset
        self.split = split
        self.plan = plan
        self.repeated = plan.window[0] // 2 if every_slice else 0
        self.cache = cache
        self._entries = {
            name: self._entry(name, number, side)
            for side, names in split.items()
            for number, name in enumerate(names)
        }

    def missing(self) -> list[str]:
        """Return the names of the cases that the cache does not hold."""
        return [
            name
            for side, names in self.split.items()
            for name in names
            if self.cache.find(self._entries[name], self._array_names(side)) is None
        ]

    def classes_in(self, name: str) -> frozenset[int]:
        """Return the indices of the classes that occur in a case of the cache."""
        found = self.cache.find(self._entries[name], ("classes",))
        return frozenset() if found is None else frozenset(found.read("classes").tolist())

    def prepare(
        self, examined: dict[str, ExaminedCase], report: Callable[[str], None]
    ) -> PreparedCases:
        """Preprocess the cases that the cache does not hold, and return all cases.

        Args:
            examined: results of :meth:`ExaminedCase.of`, at least for the cases of :meth:`missing`.
            report: function that receives lines of text for the user.

        Raises:
            MaskSAMError: the disk has too little space, or the cache cannot be written.
        """
        missing = set(self.missing())
        if missing:
            needed = sum(
                self._size(examined[name].fingerprint, side)
                for side, names in self.split.items()
                for name in names
                if name in missing
            )
            report(
                f"preprocessing {len(missing)} cases once, to {self.cache.folder}: up to"
                f" {gigabytes(needed)} on disk"
            )
            self.cache.check_space(needed)
        stored: dict[str, StoredArrays] = {}
        for side, names in self.split.items():
            for number, name in enumerate(names):
                entry = self._entries[name]
                # Another training that shares the cache may have stored the case meanwhile.
                if name in missing and self.cache.find(entry, self._array_names(side)) is None:
                    arrays = self._arrays(name, number, side, examined[name])
                    stored[name] = self.cache.store(entry, arrays, keep=True)
                else:
                    stored[name] = StoredArrays(self.cache.folder / entry)
        train = [stored[name] for name in self.split["train"]]
        synthesized = self.dataset.scheme is not None
        return PreparedCases(
            cases=() if synthesized else tuple(CachedCase(each) for each in train),
            labelmaps=tuple(CachedLabelmap(each) for each in train) if synthesized else (),
            validation=tuple(CachedCase(stored[name], True) for name in self.split["val"]),
            entries=frozenset(self._entries.values()),
        )

    def _array_names(self, side: str) -> tuple[str, ...]:
        if side == "val":
            return (*IndexedCase.ARRAYS, "reference", "classes")
        kind = IndexedCase if self.dataset.scheme is None else IndexedLabelmap
        return (*kind.ARRAYS, "classes")

    def _entry(self, name: str, number: int, side: str) -> str:
        """Return the name of a case's entry, which depends on the files, the plan and the side."""
        (case,) = self.dataset.select([name])
        scheme = self.dataset.scheme
        plan = self.plan.to_dict()
        facts = {
            "version": _VERSION,
            "files": [_checksum(path) for path in (*case.images, case.labelmap)],
            "values": list(self.dataset.values),
            "labels": None if scheme is None else scheme.description,
            "plan": {key: plan[key] for key in ("orientation", "spacing", "normalization")},
            "side": side,
            "repeated": self.repeated if side == "train" else 0,
            "seed": number if side == "val" and scheme is not None else 0,
        }
        return entry_name(name, facts)

    def _size(self, case: CaseFingerprint, side: str) -> int:
        """Return the largest possible size of a case's arrays in bytes."""
        axes, _ = axis_mapping(case.ijk_to_ras, self.plan.orientation)
        shape = [case.shape[axis] for axis in axes]
        depth, rows, columns = plan_shape(shape, [case.spacing[axis] for axis in axes], self.plan)
        own = int(np.prod(shape))
        sample = _SAMPLE_BYTES * len(self.dataset.classes)
        if side == "train" and self.dataset.scheme is not None:
            return own + sample
        voxels = (depth + 2 * self.repeated) * rows * columns
        size = voxels * (4 * len(self.plan.channels) + 1) + sample
        return size + own if side == "val" else size

    def _arrays(
        self, name: str, number: int, side: str, examined: ExaminedCase
    ) -> dict[str, NDArray[np.generic]]:
        """Read and preprocess a case."""
        (case,) = load_cases(self.dataset, [name])
        classes = {"classes": np.array(sorted(examined.classes), np.int64)}
        scheme, plan = self.dataset.scheme, self.plan
        if side == "train" and scheme is not None:
            labelmap = IndexedLabelmap.from_case(case, scheme, plan.orientation)
            return {**labelmap.to_arrays(), **classes}
        if scheme is not None:
            case = synthesized_case(case, scheme, number)
        prepared = preprocess(case.channels, plan, case.labelmap)
        if side == "train":
            if self.repeated:
                prepared = repeat_edge_slices(prepared, self.repeated)
            indexed = IndexedCase.from_case(prepared)
        else:
            axes, flips = axis_mapping(case.channels[0].ijk_to_ras, plan.orientation)
            indexed = IndexedCase.from_case(prepared, apply_axes(case.labelmap, axes, flips))
        return {**indexed.to_arrays(), **classes}


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file; empty for one that cannot be read, which is reported later."""
    try:
        return sha256(path)
    except OSError:
        return ""
