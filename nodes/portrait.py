"""Encode Portrait."""

from __future__ import annotations

import comfy.model_management as mm
from comfy_api.latest import io

from ..fd2talk_core.errors import UserError
from .common import CATEGORY, AppearanceType, FrameModelType, explained, rgb, tell, to_uint8

SIZES = ("256", "512")


def first_box(box) -> tuple[float, float, float, float] | None:
    """BOUNDING_BOX, which core nodes hand over as a box, a list of boxes or one list per image -> x0, y0, x1, y1."""
    while isinstance(box, (list, tuple)):
        if not box:
            raise UserError("The connected bounding box is empty: nothing was found there. Disconnect it or set a box.")
        box = box[0]
    if box is None:
        return None
    return (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])


class EncodeAppearance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkEncodeAppearance",
            display_name="Encode Portrait",
            category=CATEGORY,
            description="Finds the face in a portrait, crops it and measures its shape, expression and pose. "
            "Photos, paintings and drawings work when the face is seen from the front.",
            search_aliases=["face crop", "reference image", "portrait", "detect face", "appearance"],
            inputs=[
                FrameModelType.Input("frame_model", tooltip="From Load FD2Talk Models; brings the face tracker."),
                io.Image.Input(
                    "image",
                    tooltip="The portrait, with a face at least 48 pixels wide. Of several frames the first is used.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=31,
                    tooltip="Which face to animate when there are several: 0 is the largest, 1 the next.",
                ),
                io.Combo.Input(
                    "size",
                    options=list(SIZES),
                    default="256",
                    tooltip="Side of the face crop in pixels. 512 is sharper and about four times slower.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Optional, in place of face detection: white where the face to animate is.",
                ),
                io.BoundingBox.Input(
                    "box",
                    optional=True,
                    socketless=False,
                    force_input=True,
                    tooltip="Optional, in place of face detection: the box of the face in pixels.",
                ),
            ],
            outputs=[
                AppearanceType.Output("appearance", tooltip="Everything later nodes need to know of the portrait."),
                io.Image.Output("crop", tooltip="The face crop, to see what will be animated."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @explained
    def execute(cls, frame_model, image, face_index: int, size: str, mask=None, box=None) -> io.NodeOutput:
        from ..fd2talk_core.frames.appearance import encode_portrait

        picture = rgb(image, "portrait")
        if mask is not None:
            mask = (mask.reshape(-1, *mask.shape[-2:])[0] > 0.5).cpu().numpy()
        appearance = encode_portrait(
            to_uint8(picture[0]),
            frame_model.tracker,
            frame_model.face_model,
            size=int(size),
            box=first_box(box),
            mask=mask,
            face_index=face_index,
        )
        notes = list(appearance.notes)
        if len(picture) > 1:
            notes.append(f"The image input has {len(picture)} frames; the first one is used.")
        if notes:
            tell(cls.hidden.unique_id, "\n".join(notes))
        crop = appearance.crop.movedim(0, -1)[None]
        return io.NodeOutput(appearance, crop.to(mm.intermediate_device(), mm.intermediate_dtype()))
