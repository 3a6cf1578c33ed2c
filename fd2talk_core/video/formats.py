"""The formats in which a video can be written, and what each needs of the installed PyAV."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import UserError

QUALITIES = ("high", "medium", "small file")
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
OPUS_RATES = (48000, 24000, 16000, 12000, 8000)
PCM_RATES = (192000, *AAC_RATES)
SOUND_RATES = MappingProxyType({"aac": AAC_RATES, "libopus": OPUS_RATES, "pcm_s16le": PCM_RATES})
MAX_ANIMATION_SECONDS = 60


@dataclass(frozen=True)
class VideoFormat:
    """One way to write a video.

    name: as users choose it. suffix: of the finished file; segment_suffix: of its parts. encoder, pix_fmt, options: of
    the picture; quality: options that depend on one of QUALITIES. sound: encoder of the audio. tag: code of the codec
    in the file where players insist on one. beside: what is made in addition, "gif", "webp" or "png". alpha: the
    picture has a transparency.

    Options fix the number of encoder threads: it changes what encoders write, and a resumed render must not depend on
    the machine's cores.
    """

    name: str
    encoder: str
    quality: dict[str, dict[str, str]]
    suffix: str = ".mp4"
    segment_suffix: str = ".mp4"
    pix_fmt: str = "yuv420p"
    sound: str = "aac"
    options: dict[str, str] = field(default_factory=dict)
    tag: str = ""
    beside: str = ""
    alpha: bool = False

    @property
    def keeps_alpha(self) -> bool:
        """Whether the video, or what is made beside it, can be transparent."""
        return self.alpha or self.beside == "png"

    def encoder_options(self, quality: str = "high") -> dict[str, str]:
        """What to give to PyAV's add_stream. Raises UserError for an unknown quality."""
        if quality not in self.quality:
            raise UserError(f"The quality '{quality}' is not available. Choose one of {', '.join(self.quality)}.")
        return {**self.quality[quality], **self.options}

    def check(self) -> None:
        """Raises UserError when the installed PyAV cannot write this format."""
        import av

        needed = [self.encoder, self.sound, *({"gif": ["gif"], "webp": ["libwebp_anim"]}.get(self.beside, []))]
        for name in needed:
            try:
                av.codec.Codec(name, "w")
            except av.codec.codec.UnknownCodecError as error:
                raise UserError(
                    f"The format {self.name} needs the encoder {name}, which the installed PyAV lacks. "
                    "Choose mp4, or install PyAV's own build with: pip install av"
                ) from error


def _crf(*values: int) -> dict[str, dict[str, str]]:
    return {quality: {"crf": str(value)} for quality, value in zip(QUALITIES, values, strict=True)}


def _h264(name: str, beside: str = "") -> VideoFormat:
    return VideoFormat(name, "libx264", _crf(16, 21, 27), options={"preset": "veryfast", "threads": "4"}, beside=beside)


def _vp9(name: str, more: dict[str, str] | None = None, **changes) -> VideoFormat:
    options = {"b": "0", "deadline": "good", "cpu-used": "4", "threads": "4", **(more or {})}
    return VideoFormat(
        name, "libvpx-vp9", _crf(22, 30, 40), suffix=".webm", sound="libopus", options=options, **changes
    )  # fmt: skip


def _prores(name: str, qualities: list[dict[str, str]], **changes) -> VideoFormat:
    return VideoFormat(
        name,
        "prores_ks",
        dict(zip(QUALITIES, qualities, strict=True)),
        suffix=".mov",
        segment_suffix=".mov",
        sound="pcm_s16le",
        options={"threads": "4", "vendor": "apl0"},
        **changes,
    )


H264 = _h264("mp4")
FORMATS: dict[str, VideoFormat] = {
    form.name: form
    for form in (
        H264,
        VideoFormat(
            "mp4 (H.265)",
            "libx265",
            _crf(19, 24, 30),
            options={"preset": "fast", "threads": "1", "x265-params": "log-level=error"},
            # Apple's players show H.265 under this code only.
            tag="hvc1",
        ),
        _vp9("webm (VP9)"),
        _prores("mov (ProRes)", [{"profile": profile} for profile in "321"], pix_fmt="yuv422p10le"),
        _h264("mp4 and gif", "gif"),
        _h264("mp4 and animated webp", "webp"),
        _h264("mp4 and png frames", "png"),
        # Of this VP9 mp4 would drop the transparency, which is a picture of its own beside each frame.
        _vp9("webm (VP9, transparent)", {"auto-alt-ref": "0"}, segment_suffix=".mkv", pix_fmt="yuva420p", alpha=True),
        _prores(
            "mov (ProRes 4444, transparent)",
            [{"profile": "4", "bits_per_mb": bits} for bits in ("0", "1200", "600")],
            pix_fmt="yuva444p10le",
            alpha=True,
        ),
    )
}


def find_format(name: str) -> VideoFormat:
    """The format of that name, usable with the installed PyAV. Raises UserError."""
    if name not in FORMATS:
        raise UserError(f"The format '{name}' is not available. Choose one of {', '.join(FORMATS)}.")
    FORMATS[name].check()
    return FORMATS[name]
