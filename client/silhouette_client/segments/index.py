"""Which segments a person is near: what `SimilarSegments` answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.segments.segment import Segment


class StoredSegments:
    """The segments of a node, for `serving.service.SegmentIndex`.

    Args:
        segments: As the vault gives them.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = tuple(one for one in segments if len(one.centre) and np.linalg.norm(one.centre) > 0)

    def __len__(self) -> int:
        """How many have a centre."""
        return len(self._segments)

    def similar(self, record: ProfileRecord, count: int) -> list[tuple[str, float]]:
        """Names and cosines of the segments nearest to a profile, the nearest first; only those of its model."""
        if record.vector is None:
            return []
        own = record.vector / max(float(np.linalg.norm(record.vector)), 1e-12)
        found = [
            (one.name, float(one.centre @ own / np.linalg.norm(one.centre)))
            for one in self._segments
            if one.model == record.model and len(one.centre) == len(own)
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:count]
