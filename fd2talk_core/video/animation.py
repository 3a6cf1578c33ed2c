"""Animated GIF and WebP of a finished video, for places that show pictures only."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

# Browsers show GIF frames of less than two hundredths of a second at a tenth of the speed.
MAX_GIF_RATE = 50
WEBP_QUALITY = {"high": "90", "medium": "75", "small file": "50"}
COLOURS = {"high": 256, "medium": 160, "small file": 64}
EXIF_FLAG = 0x08
DESCRIPTION_TAG, MAKE_TAG, MODEL_TAG = 0x010E, 0x010F, 0x0110


def _frames(path: Path, rate: Fraction, every: int, check: Callable[[], None] | None) -> Iterator[av.VideoFrame]:
    """Every `every`-th frame, timed for `rate` frames per second."""
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if check:
                check()
            if number % every == 0:
                frame.pts, frame.time_base = number // every, 1 / rate
                yield frame


def _buffer(graph: av.filter.Graph, frame: av.VideoFrame, rate: Fraction) -> av.filter.FilterContext:
    return graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=1 / rate)


def _pulled(sink: av.filter.FilterContext) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _chain(graph: av.filter.Graph, *filters: av.filter.FilterContext) -> av.filter.FilterContext:
    sink = graph.add("buffersink")
    for first, second in zip(filters, (*filters[1:], sink), strict=True):
        first.link_to(second)
    graph.configure()
    return sink


def write_gif(
    video: Path, target: Path, fps: Fraction, size: tuple[int, int], quality: str = "high", comment: str = "",
    check: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Make a GIF that repeats for ever, with one palette for all frames, in constant memory.

    video: a file as `SegmentedWriter` makes. fps: its rate; above 50 every second (third, …) frame is taken.
    size: (width, height) in px to cut it to. comment: kept in the file. check: called per frame; may raise to cancel.
    """
    every = -(-fps // MAX_GIF_RATE)
    rate, crop = fps / every, f"{size[0]}:{size[1]}:0:0:exact=1"
    first = next(_frames(video, rate, every, None))
    graph = av.filter.Graph()
    source = _buffer(graph, first, rate)
    palette_filter = graph.add("palettegen", f"max_colors={COLOURS[quality]}:reserve_transparent=0:stats_mode=full")
    sink = _chain(graph, source, graph.add("format", "rgb24"), palette_filter)
    for frame in _frames(video, rate, every, check):
        source.push(frame)
    source.push(None)
    palette = sink.pull()

    graph = av.filter.Graph()
    source, colours = _buffer(graph, first, rate), _buffer(graph, palette, rate)
    # Dither of a fixed pattern: of the others, errors run over the still background from frame to frame.
    use = graph.add("paletteuse", "dither=bayer:bayer_scale=4:diff_mode=rectangle")
    colours.link_to(use, 0, 1)
    sink = _chain(graph, source, graph.add("format", "rgb24"), graph.add("crop", crop), use)
    colours.push(palette)
    colours.push(None)
    with av.open(str(target), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "pal8"
        stream.codec_context.time_base = 1 / rate

        def encode() -> None:
            for frame in _pulled(sink):
                container.mux(stream.encode(frame))

        for frame in _frames(video, rate, every, check):
            source.push(frame)
            encode()
        source.push(None)
        encode()
        container.mux(stream.encode(None))
    if comment:
        _comment_gif(target, comment)


def _comment_gif(path: Path, comment: str) -> None:
    """Insert a comment before the first frame, where programs look for it."""
    text = comment.encode("ascii", "replace")
    blocks = b"".join(bytes([len(part)]) + part for part in (text[i : i + 255] for i in range(0, len(text), 255)))
    content = path.read_bytes()
    palette = content[10]
    start = 13 + (3 << (palette & 7) + 1 if palette & 0x80 else 0)
    path.write_bytes(content[:start] + b"\x21\xfe" + blocks + b"\x00" + content[start:])


def write_webp(
    video: Path, target: Path, fps: Fraction, size: tuple[int, int], quality: str = "high",
    metadata: dict[str, str] | None = None, check: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Make an animated WebP that repeats for ever; the encoder holds the compressed file in memory.

    metadata: "comment" becomes the picture's description, "prompt" and "workflow" go where ComfyUI looks for them.
    Everything else as in `write_gif`.
    """
    with av.open(str(target), "w", format="webp", options={"loop": "0"}) as container:
        stream = container.add_stream("libwebp_anim", rate=fps, options={"quality": WEBP_QUALITY[quality]})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = 1 / fps
        for number, frame in enumerate(_frames(video, fps, 1, check)):
            picture = frame.to_ndarray(format="rgb24")[: size[1], : size[0]]
            cut = av.VideoFrame.from_ndarray(picture.copy(), format="rgb24").reformat(format="yuv420p")
            cut.pts, cut.time_base = number, 1 / fps
            container.mux(stream.encode(cut))
        container.mux(stream.encode(None))
    if metadata:
        exif = Image.Exif()
        tags = {DESCRIPTION_TAG: "comment", MAKE_TAG: "workflow", MODEL_TAG: "prompt"}
        for tag, name in tags.items():
            if name in metadata:
                exif[tag] = metadata[name] if name == "comment" else f"{name}:{metadata[name]}"
        _add_exif(target, exif.tobytes().removeprefix(b"Exif\x00\x00"))


def _add_exif(path: Path, exif: bytes) -> None:
    """Append an EXIF chunk to a WebP file that has the extended header, as animations do."""
    with path.open("r+b") as file:
        head = file.read(21)
        if head[8:16] != b"WEBPVP8X":  # a single frame without the extended header
            return
        file.seek(20)
        file.write(bytes([head[20] | EXIF_FLAG]))
        file.seek(0, 2)
        file.write(b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\x00" * (len(exif) % 2))
        length = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", length))
