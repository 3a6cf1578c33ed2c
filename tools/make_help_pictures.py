"""Pictures of the nodes' help pages: `python tools/make_help_pictures.py web/docs`.

The demo voice's motion as Preview Motion shows it, and its curves. The motion editor's picture is a screenshot.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from fd2talk_core.audio.loading import load_audio, to_mono_16k
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.model import MotionModel
from fd2talk_core.motion.preview import plot_motion, write_preview
from fd2talk_core.motion.sampling import generate_motion
from fd2talk_core.video.reading import iter_frames

VOICE = Path(__file__).parents[1] / "assets/voice.wav"
SHOWN = 62  # frame of the preview: an open mouth
WIDTH = 640


def save(picture: Image.Image, path: Path) -> None:
    height = round(picture.height * WIDTH / picture.width)
    picture.resize((WIDTH, height), Image.LANCZOS).save(path, quality=88, optimize=True)


def main(folder: Path) -> None:
    face_model = FaceModel.load()
    samples, rate = load_audio(VOICE)
    motion = generate_motion(MotionModel.load(), to_mono_16k(samples, rate), 25.0, seed=4)
    save(Image.fromarray(plot_motion(motion, face_model, samples=samples, rate=rate)), folder / "motion_curves.jpg")
    with tempfile.TemporaryDirectory() as scratch:
        video = write_preview(motion, face_model, str(Path(scratch) / "preview.mp4"), samples, rate)
        for index, frame in enumerate(iter_frames(video, 25)):
            if index == SHOWN:
                save(Image.fromarray(frame), folder / "motion_preview.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
