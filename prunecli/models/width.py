"""A model's width: a factor on the sizes of its hidden layers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Width = Annotated[float, Field(gt=0, le=64)]


def scaled(base: int, width: float) -> int:
    """`base` times `width` as a whole number, at least 1; halves go to the even one."""
    return max(1, round(base * width))
