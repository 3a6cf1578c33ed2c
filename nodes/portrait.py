"""Encode Portrait."""

from __future__ import annotations

import logging

import comfy.model_management as mm
import numpy as np
import torch
from comfy_api.latest import io, ui

from .common import CATEGORY, AppearanceType, FrameModelType, explained, own_id, rgb, tell, to_uint8
from .faces import FACE_ORDERS, face_choice, index_input, mark_inputs, order_inputs

SIZES = ("256", "512")


def size_input(more: str = "", advanced: bool | None = None) -> io.Combo.Input:
    return io.Combo.Input(
        "size",
        options=list(SIZES),
        default=SIZES[0],
        tooltip=f"Side of the drawn face crop in pixels. 512 is sharper and about four times slower.{more}",
        advanced=advanced,
    )


def shown(pictures: list[np.ndarray], node: type[io.ComfyNode]) -> ui.SavedImages:
    """Pictures of any sizes, uint8 (H, W, 3), as the node's preview."""
    saved = []
    for picture in pictures:
        image = torch.from_numpy(picture.copy())[None].float() / 255
        saved += ui.ImageSaveHelper.save_images(image, "fd2talk_faces", io.FolderType.temp, node, compress_level=1)
    return ui.SavedImages(saved)


def opacity(transparency: torch.Tensor | None) -> np.ndarray | None:
    """MASK, 1 where nothing is to be seen, the first of several -> uint8 (H, W); None when all is opaque.

    Load Image gives a black mask of 64 x 64 for a picture without transparency.
    """
    if transparency is None or not (transparency > 0).any():
        return None
    return to_uint8(1 - transparency.reshape(-1, *transparency.shape[-2:])[0])


class EncodeAppearance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FD2TalkEncodeAppearance",
            display_name="Encode Portrait",
            category=CATEGORY,
            description="Finds the face in a portrait, crops it and measures its shape, expression and pose. "
            "Photos, paintings and drawings work when the face is seen from the front. Shows what it found.",
            search_aliases=["face crop", "reference image", "portrait", "detect face", "appearance", "choose face"],
            inputs=[
                FrameModelType.Input("frame_model", tooltip="From Load FD2Talk Models; brings the face tracker."),
                io.Image.Input(
                    "image",
                    tooltip="The portrait, with a face at least 48 pixels wide. Of several frames the first is used.",
                ),
                index_input("animate"),
                size_input(),
                *mark_inputs("animate"),
                *order_inputs(),
                io.Mask.Input(
                    "transparency",
                    optional=True,
                    tooltip="Optional: MASK of Load Image, for a portrait whose background is transparent. "
                    "Render Talking Video then keeps it so, in a format that can.",
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
    def execute(
        cls,
        frame_model,
        image,
        face_index: int,
        size: str,
        mask=None,
        box=None,
        face_order: str = FACE_ORDERS[0],
        point_x: float = 0.5,
        point_y: float = 0.5,
        transparency=None,
    ) -> io.NodeOutput:
        from ..fd2talk_core.video.faces import draw_faces, draw_landmarks, encode_chosen

        images = rgb(image, "portrait")
        picture = to_uint8(images[0])
        choice = face_choice(face_index, face_order, (point_x, point_y), mask, box)
        appearance, chooser = encode_chosen(
            picture, frame_model.tracker, frame_model.face_model, choice, int(size), opacity(transparency)
        )
        notes = list(appearance.notes)
        if len(images) > 1:
            notes.append(f"The image input has {len(images)} frames; the first one is used.")
        tell(own_id(cls), "\n".join(notes), logging.WARNING if len(notes) > 1 else logging.INFO)
        pictures = [draw_landmarks(appearance.crop, appearance.landmarks)]
        if len(chooser.faces) > 1:
            pictures.append(draw_faces(picture, chooser.faces, chooser.taken))
        crop = appearance.crop.movedim(0, -1)[None]
        return io.NodeOutput(
            appearance,
            crop.to(mm.intermediate_device(), mm.intermediate_dtype()),
            ui=shown(pictures, cls),
        )
