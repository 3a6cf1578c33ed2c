"""What results must reach, and how many clips do."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

COMPARISONS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True)
class Goal:
    """A number of every row and its bound. sums: the two numbers whose ratio it is, so that sums can be compared."""

    key: str
    comparison: str
    bound: float
    sums: tuple[str, str] | None = None

    def reached(self, value: float) -> bool:
        return bool(COMPARISONS[self.comparison](value, self.bound))

    def __str__(self) -> str:
        return f"{self.comparison} {self.bound:g}"


GOALS = {
    "frames": (
        Goal("mouth_l1_ratio", "<=", 0.80, ("mouth_l1", "geometry_mouth_l1")),
        Goal("eye_l1_ratio", "<=", 0.90, ("eye_l1", "geometry_eye_l1")),
        Goal("psnr_gain", ">=", 1.0),
        Goal("ms_ssim_gain", ">", 0.0),
        Goal("gmsd_gain", ">", 0.0),
        Goal("mouth_sharpness", ">=", 0.8),
        Goal("flicker_ratio", "<=", 1.2, ("flicker", "real_flicker")),
    ),
    "commanded": (
        Goal("mouth_correlation", ">=", 0.95),
        Goal("eye_correlation", ">=", 0.85),
        Goal("pose_error", "<=", 2.0),
    ),
    "drift": (Goal("psnr", ">=", 40.0),),
}


def _is_number(value) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def judge(part: str, rows: list[dict]) -> dict[str, dict]:
    """Rows of a part against its goals.

    Returns {key: {goal, mean, ratio_of_sums, reached, clips_passed, clips}}: mean over the clips that have the number,
    `reached` by that mean. Numbers that no clip has are left out; ratio_of_sums is None where the number is no ratio.
    """
    result = {}
    for goal in GOALS.get(part, ()):
        members = [row for row in rows if _is_number(row.get(goal.key))]
        if not members:
            continue
        values = [row[goal.key] for row in members]
        over, under = ([sum(row[key] for row in members) for key in goal.sums] if goal.sums else (None, None))
        result[goal.key] = {
            "goal": str(goal),
            "mean": float(np.mean(values)),
            "ratio_of_sums": over / max(under, 1e-9) if goal.sums else None,
            "reached": goal.reached(float(np.mean(values))),
            "clips_passed": sum(map(goal.reached, values)),
            "clips": len(values),
        }
    return result
