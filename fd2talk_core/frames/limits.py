"""Soft limits of motion: what the frame network never saw is held back before it is drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UserError
from ..face.landmarks import FACE_OVAL
from ..face.model import FaceModel, rotation_matrix
from ..motion.clip import MotionClip
from ..motion.schedule import KNEE
from ..motion.schedule import soft_limit as soft_size
from .appearance import Appearance

# How far regions may leave neutral: 4-norm of their coefficients in the face model's standard deviations. 99 % of the
# frames that the networks were trained on stay below the knee, 0.7 of it. Unlike the length, the 4-norm minds one
# coefficient that goes far (a jaw open four times) more than many that go together (a laugh).
EXPRESSION_LIMITS = {"gaze": 8.8, "eyelids": 8.2, "brows": 7.5, "mouth": 10.4, "rest": 7.9}
# How far the jaw opens, in full `jaw_open`s: the widest mouths of training (99.9 %) are 1.2 of them, 0.7 of this.
JAW_LIMIT = 1.7
# Pitch, yaw, roll relative to the camera, in radians; and how far a head may turn in any case from where it is in the
# portrait, which may show it in profile.
TURN_LIMITS = (math.radians(30), math.radians(35), math.radians(40))
LEAST_TURN = math.radians(8)
# The face stays this share of the crop's side away from the crop's border ...
CROP_MARGIN = 0.02
# ... but its place may change so much in any case, and at most so much, in inter-ocular distances; and the log of its
# size.
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


def turn_room(appearance: Appearance) -> tuple[Tensor, Tensor]:
    """How far pitch, yaw and roll may go below and above the portrait's own, in radians: (3,) and (3,), positive."""
    own, most = appearance.pose[:3].double(), torch.tensor(TURN_LIMITS, dtype=torch.float64)
    # Never more than the limit itself: a face seen from one side does not show its other side.
    below, above = (torch.minimum((most + sign * own).clamp(min=LEAST_TURN), most) for sign in (1, -1))
    return below, above


def _held(values: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (T, n) softly limited to length 1 of the 4-norm in units of `room` (T, n), and what was lost (T,)."""
    size = (values / room).norm(p=4, dim=1)
    allowed = soft_size(size, 1.0)
    shorter = torch.where(size > KNEE, allowed / size.clamp(min=1e-9), 1.0)
    return values * shorter[:, None], size - allowed


def limit_expression(expression: Tensor, face_model: FaceModel) -> tuple[Tensor, Tensor]:
    """Expression (T, 64) in which the jaw's opening, then every region's size, is softly limited.

    Also returns by how much each region was shortened, in shares of its limit (T, 5).
    """
    limited, std = expression.clone(), face_model.exp_std.double()
    values = expression.double() / std
    jaw = face_model.controls["jaw_open"].double() / std
    opening = (values @ jaw) / (jaw @ jaw)
    beyond = opening > KNEE * JAW_LIMIT
    excess = torch.where(beyond, opening - soft_size(opening.clamp(min=0), JAW_LIMIT), 0.0)
    values = values - excess[:, None] * jaw
    shortened = []
    for name, part in face_model.slices.items():
        limit = torch.full((1, part.stop - part.start), EXPRESSION_LIMITS[name], dtype=torch.float64)
        held, lost = _held(values[:, part], limit)
        changed = (lost > 0) | (beyond if name == "mouth" else False)
        limited[changed, part] = (held * std[part])[changed].float()
        shortened.append(lost + excess / JAW_LIMIT if name == "mouth" else lost)
    return limited, torch.stack(shortened, 1)


def limit_pose(offset: Tensor, face_model: FaceModel, appearance: Appearance) -> tuple[Tensor, Tensor]:
    """Pose offsets (T, 6) with softly limited turn, size and place, in this order, each given those before it.

    Also returns by how much turn (3 times), place (2) and size were shortened, in shares of the room (T, 6).
    """
    own, values = appearance.pose.double(), offset.double().clone()
    below, above = turn_room(appearance)
    shortened = torch.zeros_like(values)
    turn, lost = _held(values[:, :3], torch.where(values[:, :3] < 0, below, above))
    # Which of the three is to blame: those that go far.
    far = values[:, :3].abs() > 0.5 * torch.where(values[:, :3] < 0, below, above)
    shortened[:, :3], values[:, :3] = lost[:, None] * far, turn
    shape = face_model.vertices(appearance.alpha, torch.zeros_like(appearance.beta)).double()[list(FACE_OVAL)]
    turned = shape @ rotation_matrix(own[:3] + values[:, :3]).transpose(1, 2)  # (T, 36, 3)
    points = turned[..., :2] + own[3:5]  # inter-ocular distances from the crop's centre
    low, high = points.amin(1), points.amax(1)
    reach = 0.5 - CROP_MARGIN
    grow = (reach / torch.cat([low.abs(), high.abs()], 1).amax(1).clamp(min=1e-3)).log() - own[5]
    room = torch.where(values[:, 5] < 0, SCALE_ROOM[1], grow.clamp(*SCALE_ROOM))
    size, shortened[:, 5] = _held(values[:, 5:], room[:, None])
    values[:, 5:] = size
    reach = reach / (own[5] + size).exp()  # (T, 1)
    room = torch.where(values[:, 3:5] < 0, low + reach, reach - high).clamp(*SHIFT_ROOM)
    for index in (3, 4):
        held, shortened[:, index] = _held(values[:, index : index + 1], room[:, index - 3 : index - 2])
        values[:, index : index + 1] = held
    return values.float(), shortened


def soft_limit(motion: MotionClip, face_model: FaceModel, appearance: Appearance) -> tuple[MotionClip, str | None]:
    """Motion within what the frame network can draw for this portrait, and a sentence for the user if that matters.

    Up to 0.7 of each limit nothing changes, not by a bit; from there on values approach the limit smoothly, in order,
    and never pass it. No motion stays no motion, whatever the portrait's pose.
    """
    expression, regions = limit_expression(motion.expression, face_model)
    pose, turns = limit_pose(motion.pose, face_model, appearance)
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
