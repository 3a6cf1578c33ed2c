"""The nodes: schema and one call into fd2talk_core each, one file per stage."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .dubbing import DubVideo
from .examples import put_examples
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
        # Scripts load nodes without a server; nobody opens templates there.
        if (server := getattr(PromptServer, "instance", None)) is not None:
            add_routes(server)
            put_examples(folder_paths.get_input_directory())

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> FD2TalkExtension:
    return FD2TalkExtension()
