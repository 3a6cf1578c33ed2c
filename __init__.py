"""FD2Talk for ComfyUI. Nothing heavy is imported here; models and libraries load when a node first runs."""

from importlib.util import find_spec

# Outside ComfyUI (pytest imports this file as the root package) there is nothing to register with.
if find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
