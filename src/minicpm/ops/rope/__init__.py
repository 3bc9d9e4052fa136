"""Rotary position embedding: angles from a description, rotation of heads."""

from minicpm.ops.rope.angles import Angles, rope_angles

__all__ = ["Angles", "rope_angles"]
