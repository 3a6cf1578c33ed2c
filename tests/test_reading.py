from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fd2talk_core.errors import UserError
from fd2talk_core.video.reading import iter_frames, read_picture, video_fps

COLOUR = (200, 100, 50)


def write_video(path, count, fps, size=(64, 48)):
    """Grey frames, each a little brighter than the one before."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(count):
            grey = np.full((size[1], size[0], 3), 20 + index * 200 // count, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def save(path, values, mode=None):
    Image.fromarray(values, mode).save(path) if mode else Image.fromarray(values).save(path)
    return path


def test_rgb_and_jpeg(tmp_path):
    values = np.full((40, 60, 3), COLOUR, np.uint8)
    assert np.array_equal(read_picture(save(tmp_path / "a.png", values)), values)
    assert np.abs(read_picture(save(tmp_path / "a.jpg", values)).astype(int) - values).max() < 6


def test_transparency_lands_on_white(tmp_path):
    values = np.full((8, 8, 4), (*COLOUR, 255), np.uint8)
    values[:, 4:, 3] = 0
    picture = read_picture(save(tmp_path / "a.png", values))
    assert picture.shape == (8, 8, 3)
    assert tuple(picture[0, 0]) == COLOUR and tuple(picture[0, 7]) == (255, 255, 255)


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 762)
    image.save(tmp_path / "a.png", transparency=0)
    assert tuple(read_picture(tmp_path / "a.png")[0, 0]) == (255, 255, 255)


def test_grey_becomes_three_channels(tmp_path):
    picture = read_picture(save(tmp_path / "a.png", np.full((8, 8), 77, np.uint8)))
    assert picture.shape == (8, 8, 3) and (picture == 77).all()


def test_sixteen_bits_become_eight(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, 0)
    picture = read_picture(save(tmp_path / "a.png", ramp))
    assert picture.dtype == np.uint8 and picture.shape == (4, 64, 3)
    assert picture[0, 0, 0] == 0 and picture[0, -1, 0] == 255
    assert abs(int(picture[0, 32, 0]) - 129) <= 2


def test_sixteen_bit_colour(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="only OpenCV writes 16-bit colour here")
    values = np.full((8, 8, 3), (0, 32768, 65535), np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    assert np.abs(read_picture(tmp_path / "a.png")[0, 0].astype(int) - (0, 128, 255)).max() <= 1


def test_camera_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (40, 20, 3)


def test_what_is_not_a_picture_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a picture.*Save it again"):
            read_picture(tmp_path / name)


def test_truncated_picture_is_an_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = save(tmp_path / "whole.png", noise).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="a.png cannot be read as a picture"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("source", [Fraction(30000, 1001), 24, 25, 30, 50])
@pytest.mark.parametrize("target", [25, 30, Fraction(24000, 1001)])
def test_resampling_keeps_the_length(tmp_path, source, target):
    path = write_video(tmp_path / "a.mp4", 2 * round(source), source)
    seconds = 2 * round(source) / source
    frames = list(iter_frames(path, target))
    assert abs(len(frames) - seconds * target) <= 1
    assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8


def test_same_rate_keeps_every_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", 40, 25)
    brightness = [frame.mean() for frame in iter_frames(path, 25)]
    assert len(brightness) == 40 and (np.diff(brightness) > 0).all()
    assert len(list(iter_frames(path, None))) == 40
    assert video_fps(path) == 25


def test_resampled_frames_show_their_moment(tmp_path):
    path = write_video(tmp_path / "a.mp4", 50, 50)
    own = [frame.mean() for frame in iter_frames(path, None)]
    half = [frame.mean() for frame in iter_frames(path, 25)]
    assert half == pytest.approx(own[::2])


def test_what_is_not_a_video_is_an_error(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match="a.mp4 cannot be read as a video"):
        list(iter_frames(tmp_path / "a.mp4"))


def test_sound_without_pictures_is_an_error():
    voice = Path(__file__).parents[1] / "assets" / "voice.wav"
    with pytest.raises(UserError, match="has no picture track"):
        list(iter_frames(voice))
    with pytest.raises(UserError, match="has no picture track"):
        video_fps(voice)
