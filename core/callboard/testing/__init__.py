"""The kit for testing plugins: what a step costs."""

from __future__ import annotations

from callboard.testing.counting import StepCost, cost_per_step

__all__ = ["StepCost", "cost_per_step"]
