"""Soft limits of motion: what the frame network never saw is held back before it is drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UserError
from ..face.model import FaceModel
from ..motion.clip import MotionClip
from ..motion.schedule import KNEE
from ..motion.schedule import soft_limit as soft_size
from .appearance import Appearance

# How far regions may leave neutral: 4-norm of their coefficients in the face model's standard deviations. 99 % of the
# frames that the networks were trained on stay below the knee, 0.7 of it. Unlike the length, the 4-norm minds one
# coefficient that goes far (a jaw open four times) more than many that go together (a laugh).
EXPRESSION_LIMITS = {"gaze": 8.8, "eyelids": 8.2, "brows": 7.5, "mouth": 10.4, "rest": 7.9}
# Pitch, yaw, roll relative to the camera, in radians; and how far a head may turn in any case from where it is in the
# portrait, which may show it in profile.
TURN_LIMITS = (math.radians(30), math.radians(35), math.radians(40))
LEAST_TURN = math.radians(8)
# The face stays this share of the crop's side away from the crop's border ...
CROP_MARGIN = 0.02
# ... but may move so far in any case and at most, in inter-ocular distances; the same for the log of its scale.
SHIFT_ROOM, SCALE_ROOM = (0.15, 1.5), (0.1, 0.4)
# Share of a limit by which motion is shortened before the user is told: less is not seen.
TOLD_FROM = 0.05
# How much of its usual motion the torso takes, see `dense_flow`.
TORSO = {"follow": 1.0, "stay": 0.0}
REGION_NAMES = {"gaze": "gaze", "eyelids": "eyelids", "brows": "brows", "mouth": "mouth", "rest": "cheeks"}
POSE_NAMES = ("nod", "head turn", "head tilt", "head position", "head position", "head size")


def torso_share(torso: str) -> float:
    """Share of its usual motion that the torso takes. Raises UserError for anything but "follow" and "stay"."""
    if torso not in TORSO:
        raise UserError(f"There is no torso mode called '{torso}'. Choose one of: {', '.join(TORSO)}.")
    return TORSO[torso]


def pose_room(appearance: Appearance) -> tuple[Tensor, Tensor]:
    """How far each pose coefficient may go below and above the portrait's own: (6,) and (6,), all positive."""
    own = appearance.pose.double()
    turn = torch.tensor(TURN_LIMITS, dtype=torch.float64)
    # Never more than the limit itself: a face seen from one side does not show its other side.
    below, above = (torch.minimum((turn + sign * own[:3]).clamp(min=LEAST_TURN), turn) for sign in (1, -1))
    points = appearance.landmarks[:, :2].double() / appearance.size
    low, high = points.min(0).values, points.max(0).values
    scale = own[5].exp()
    left, right = ((room - CROP_MARGIN).div(scale).clamp(*SHIFT_ROOM) for room in (low, 1 - high))
    reach = torch.cat([(low - 0.5).abs(), (high - 0.5).abs()]).max().clamp(min=1e-3)
    grow = ((0.5 - CROP_MARGIN) / reach).log().clamp(*SCALE_ROOM)[None]
    return torch.cat([below, left, torch.full_like(grow, SCALE_ROOM[1])]), torch.cat([above, right, grow])


def limit_expression(expression: Tensor, face_model: FaceModel) -> tuple[Tensor, Tensor]:
    """Expression (T, 64) in which every region keeps its direction and its size is softly limited.

    Also returns by how much each region was shortened, in shares of its limit (T, 5).
    """
    limited, shortened = expression.clone(), []
    for name, part in face_model.slices.items():
        values, limit = expression[:, part].double(), EXPRESSION_LIMITS[name]
        size = (values / face_model.exp_std[part].double()).norm(p=4, dim=1)
        allowed = soft_size(size, limit)
        beyond = size > KNEE * limit
        limited[beyond, part] = (values * (allowed / size.clamp(min=1e-9))[:, None])[beyond].float()
        shortened.append((size - allowed) / limit)
    return limited, torch.stack(shortened, 1)


def limit_pose(offset: Tensor, appearance: Appearance) -> tuple[Tensor, Tensor]:
    """Pose offsets (T, 6) softly limited coefficient by coefficient, and by how much, in shares of the room (T, 6)."""
    below, above = pose_room(appearance)
    values = offset.double()
    room = torch.where(values < 0, below, above)
    allowed = soft_size(values.abs(), room)
    beyond = values.abs() > KNEE * room
    return torch.where(beyond, values.sign() * allowed, values).float(), (values.abs() - allowed) / room


def soft_limit(motion: MotionClip, face_model: FaceModel, appearance: Appearance) -> tuple[MotionClip, str | None]:
    """Motion within what the frame network can draw for this portrait, and a sentence for the user if that matters.

    Up to 0.7 of each limit nothing changes, not by a bit; from there on values approach the limit smoothly, in order,
    and never pass it. No motion stays no motion, whatever the portrait's pose.
    """
    expression, regions = limit_expression(motion.expression, face_model)
    pose, turns = limit_pose(motion.pose, appearance)
    shortened = torch.cat([regions, turns], 1)
    if not (shortened > 0).any():
        return motion, None
    told = shortened > TOLD_FROM
    note = None
    if told.any():
        names = [REGION_NAMES[name] for name in face_model.slices] + list(POSE_NAMES)
        where = dict.fromkeys(name for name, hit in zip(names, told.any(0).tolist(), strict=True) if hit)
        note = (
            f"The motion goes beyond what can be drawn well from this portrait in {int(told.any(1).sum())} of "
            f"{len(motion)} frames ({', '.join(where)}), and is held back there."
        )
    return motion.with_changes(expression=expression, pose=pose), note
