"""Choosing a face: what Encode Portrait, Track Motion from Video and Dub Video share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..fd2talk_core.errors import UserError

if TYPE_CHECKING:
    from ..fd2talk_core.video.faces import FaceChoice

# A literal, because importing the pack must load nothing heavy; a test compares it with fd2talk_core.
FACE_ORDERS = ("largest first", "left to right", "nearest to point")


def first_box(box) -> tuple[float, float, float, float] | None:
    """BOUNDING_BOX, which core nodes hand over as a box, a list of boxes or one list per image -> x0, y0, x1, y1."""
    while isinstance(box, (list, tuple)):
        if not box:
            raise UserError("The connected bounding box is empty: nothing was found there. Disconnect it or set a box.")
        box = box[0]
    if box is None:
        return None
    return (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])


def index_input(what: str) -> io.Int.Input:
    return io.Int.Input(
        "face_index",
        default=0,
        min=0,
        max=31,
        tooltip=f"Which face to {what} when there are several, counted from 0 in the order of face_order; "
        "usually 0 is the largest, 1 the next.",
    )


def mark_inputs(what: str) -> list[io.Input]:
    return [
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip=f"Optional, instead of counting: white where the face to {what} is.",
        ),
        io.BoundingBox.Input(
            "box",
            optional=True,
            socketless=False,
            force_input=True,
            tooltip=f"Optional, instead of counting: a box around the face to {what}, in pixels. It goes before the "
            "mask.",
        ),
    ]


def order_inputs() -> list[io.Input]:
    def point(id: str, what: str) -> io.Float.Input:
        return io.Float.Input(
            id, default=0.5, min=0.0, max=1.0, step=0.01, optional=True, tooltip=what, advanced=True
        )  # fmt: skip

    return [
        io.Combo.Input(
            "face_order",
            options=list(FACE_ORDERS),
            default=FACE_ORDERS[0],
            optional=True,
            tooltip="How face_index counts: from the largest face, from the left edge of the picture, or from the "
            "point of point_x and point_y.",
            advanced=True,
        ),
        point("point_x", "For nearest to point: 0 is the picture's left edge, 1 its right edge."),
        point("point_y", "For nearest to point: 0 is the picture's upper edge, 1 its lower edge."),
    ]


def face_choice(
    index: int = 0,
    order: str = FACE_ORDERS[0],
    point: tuple[float, float] = (0.5, 0.5),
    mask: torch.Tensor | None = None,
    box=None,
) -> FaceChoice:
    """What the inputs say, as fd2talk_core takes it. mask: MASK of any shape, the first of several."""
    from ..fd2talk_core.video.faces import FaceChoice

    if mask is not None:
        if not mask.numel():
            raise UserError("The mask has no pixels. Connect another, or none.")
        mask = mask.reshape(-1, *mask.shape[-2:])[0].float().cpu().numpy()
    return FaceChoice(order, index, point, first_box(box), mask)
