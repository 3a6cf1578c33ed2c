"""The nodes: schema and one call into fd2talk_core each, one file per stage."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .dubbing import DubVideo
from .frames import PasteBack, SampleFrames
from .models import LoadModels
from .motion import AudioToMotion
from .motion_edit import EditMotion
from .motion_editor import add_routes
from .motion_files import LoadMotion, SaveMotion
from .motion_preview import PreviewMotion
from .motion_tools import BlendMotion, RetimeMotion
from .motion_tracking import TrackMotion
from .portrait import EncodeAppearance
from .render import RenderVideo
from .talking_head import TalkingHead
from .video import VideoCombine

NODES: list[type[io.ComfyNode]] = [
    LoadModels,
    AudioToMotion,
    EditMotion,
    BlendMotion,
    RetimeMotion,
    SaveMotion,
    LoadMotion,
    PreviewMotion,
    TrackMotion,
    EncodeAppearance,
    SampleFrames,
    PasteBack,
    VideoCombine,
    RenderVideo,
    TalkingHead,
    DubVideo,
]


class FD2TalkExtension(ComfyExtension):
    async def on_load(self) -> None:
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> FD2TalkExtension:
    return FD2TalkExtension()
