"""What the native layers of one forward share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minicpm.cache import CachePlan, Segment
from minicpm.ops.native import required
from minicpm.ops.rope import Angles


@dataclass(frozen=True)
class NativeStep:
    """`handle` knows addresses only; the angles and the plan, whose tables it reads, are held beside it."""

    handle: Any
    angles: Angles
    plan: CachePlan

    @cached_property
    def pages(self) -> tuple[Tensor, ...]:
        """The pages of each segment's sequence, int32."""
        return tuple(torch.from_numpy(np.array(table, dtype=np.int32)) for table in self.plan.tables)

    @classmethod
    def of(cls, angles: Angles, segments: Sequence[Segment], plan: CachePlan) -> NativeStep:
        """For the segments of a batch with a cache."""
        native = required()
        angles = Angles(angles.cos.contiguous(), angles.sin.contiguous())
        handle = native.Step(
            len(angles.cos), angles.cos.data_ptr(), angles.sin.data_ptr(), angles.cos.shape[1]
        )
        for segment, table in zip(segments, plan.tables, strict=True):
            handle.add(segment.start, segment.count, table.buffer_info()[0])
        return cls(handle, angles, plan)
