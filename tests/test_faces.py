"""Choosing among the faces of a picture or video, and two people of one picture."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fd2talk_core.errors import UserError
from fd2talk_core.face.model import FaceModel
from fd2talk_core.face.tracker import FaceBox, FaceTracker, TrackedFace
from fd2talk_core.frames.composite import Compositor
from fd2talk_core.frames.model import FrameModel
from fd2talk_core.motion.clip import MotionClip
from fd2talk_core.render import RenderSettings, render_frames
from fd2talk_core.video.faces import (
    LEFT,
    ORDERS,
    POINT,
    FaceChoice,
    FaceChooser,
    draw_faces,
    draw_landmarks,
    encode_chosen,
    encode_largest,
    pick,
)
from fd2talk_core.video.formats import FORMATS
from fd2talk_core.video.people import GroupCompositor, own_side

ROOT = Path(__file__).parents[1]
SIZE = (900, 300)  # width, height of the made-up picture


def face(x: float, width: float = 100.0) -> TrackedFace:
    box = FaceBox(x - width / 2, 100, x + width / 2, 100 + width)
    return TrackedFace(np.zeros((478, 3), np.float32), box, 1.0)


FACES = [face(700, 120), face(150, 100), face(420, 80)]  # as the tracker gives them: largest first


def middle(choice: FaceChoice, faces=FACES) -> tuple[float, str]:
    taken, note = pick(faces, choice, *SIZE)
    return taken.box.centre[0], note


@pytest.mark.parametrize(
    ("order", "expected"), [(ORDERS[0], (700, 150, 420)), (LEFT, (150, 420, 700)), (POINT, (420, 700, 150))]
)
def test_faces_are_counted_in_the_order_asked_for(order, expected):
    for index, x in enumerate(expected):
        taken, note = middle(FaceChoice(order, index, point=(0.5, 0.5)))
        assert taken == x
        assert note.startswith(f"3 faces were found; number {index} is used, counting from 0 ")


def test_a_single_face_is_mentioned_without_numbers():
    assert middle(FaceChoice(), FACES[:1]) == (700, "1 face was found.")


def test_box_and_mask_say_it_without_counting():
    assert middle(FaceChoice(index=9, box=(380, 90, 470, 190)))[0] == 420
    # A loose box reaches over the neighbour's centre; the face that fits it best is meant.
    assert middle(FaceChoice(box=(80, 60, 450, 240)), FACES)[0] == 150
    mask = np.zeros((30, 90))  # a tenth of the picture's size
    mask[9:20, 9:21] = 1
    taken, note = middle(FaceChoice(index=9, mask=mask))
    assert taken == 150 and note == "3 faces were found; the one under the mask is used."


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (FaceChoice(index=3), "There is no face number 3: 3 faces were found, .* Choose a number from 0 to 2"),
        (FaceChoice(index=-1), "There is no face number -1"),
        (FaceChoice(box=(0, 0, 40, 40)), "The box contains no face, but 3 faces were found. Draw it"),
        (FaceChoice(mask=np.zeros((300, 900))), "The mask covers no face, but 3 faces were found. Paint it"),
        (FaceChoice("by name"), "There is no order of faces called 'by name'"),
    ],
)
def test_choices_that_cannot_be_are_explained(choice, message):
    with pytest.raises(UserError, match=message):
        pick(FACES, choice, *SIZE)


@lru_cache
def models() -> tuple[FaceTracker, FaceModel]:
    return FaceTracker.load(), FaceModel.load()


@lru_cache
def two_people() -> np.ndarray:
    """The demo portrait twice, mirrored on the right and a little smaller, closer than their crops are wide."""
    whole = Image.open(ROOT / "assets/portrait.png").convert("RGB").resize((300, 300))
    picture = Image.new("RGB", (560, 320), whole.getpixel((5, 5)))
    one = whole.crop((60, 0, 240, 300))
    picture.paste(one, (90, 10))
    picture.paste(one.transpose(Image.FLIP_LEFT_RIGHT).resize((156, 260)), (270, 40))
    return np.asarray(picture)


@lru_cache
def person(index: int):
    return encode_chosen(two_people(), *models(), FaceChoice(LEFT, index))


@pytest.mark.weights
def test_each_of_two_people_is_encoded_and_knows_the_other():
    (left, chooser), (right, _) = person(0), person(1)
    assert chooser.note == left.notes[0] and left.notes[0].startswith("2 faces were found; number 0")
    assert left.box[2] < right.box[0] and left.others == (right.box,) and right.others == (left.box,)
    nearest, _ = encode_chosen(two_people(), *models(), FaceChoice(POINT, point=(0.8, 0.5)))
    assert nearest.box == right.box


@pytest.mark.weights
def test_a_marked_place_is_looked_at_and_an_empty_mark_is_explained():
    tracker, face_model = models()
    for choice, message in (
        (FaceChoice(mask=np.zeros((64, 64))), "The mask is empty. Paint"),
        (FaceChoice(box=(700, 0, 900, 100)), "The box lies outside the picture of 560 x 320"),
        (FaceChoice(box=(20, 20, 20, 90)), "or is empty"),
    ):
        with pytest.raises(UserError, match=message):
            encode_chosen(two_people(), tracker, face_model, choice)

    class Blind:
        """A tracker whose detector sees nothing, but whose landmarks work."""

        track = staticmethod(lambda picture: [])
        landmarks = staticmethod(tracker.landmarks)

    box = person(1)[0].box
    mask = np.zeros((320, 560))
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 1
    for choice in (FaceChoice(box=box), FaceChoice(mask=mask)):
        taken, _ = FaceChooser(Blind(), choice).find(two_people())
        assert taken.box.overlap(FaceBox(*box)) > 0.8


@pytest.mark.weights
@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (40, 40), (900, 3)])
def test_pictures_without_room_for_a_face_are_explained(shape):
    with pytest.raises(UserError, match="No face was found|pixels wide"):
        encode_chosen(np.full((*shape, 3), 128, np.uint8), *models(), FaceChoice())


@pytest.mark.weights
def test_neighbours_share_the_picture_between_them():
    left, right = person(0)[0], person(1)[0]
    total = torch.zeros(320, 560)
    for look in (left, right):
        x0, y0, side = look.crop_box
        weights = own_side(look).float()
        x, y = max(x0, 0), max(y0, 0)
        total[y : y0 + side, x : x0 + side] += weights[y - y0 : 320 - y0, x - x0 : 560 - x0]
        own, other = (np.array(box).reshape(2, 2).mean(0).round().astype(int) - (x0, y0) for box in
                      (look.box, look.others[0]))  # fmt: skip
        assert weights[own[1], own[0]] == 1
        if 0 <= other[0] < side and 0 <= other[1] < side:
            assert weights[other[1], other[0]] == 0
    both = slice(max(left.crop_box[0], right.crop_box[0]), left.crop_box[0] + left.crop_box[2])
    assert both.stop > both.start, "the crops overlap, else this test says nothing"
    assert (total[100:200, both] - 1).abs().max() < 2e-3


@pytest.mark.weights
def test_pasting_one_person_leaves_the_other_and_pasting_both_shows_both():
    left, right = person(0)[0], person(1)[0]
    picture = torch.tensor(two_people()).float() / 255
    red, blue = torch.zeros(2, 256, 256, 3), torch.zeros(1, 256, 256, 3)
    red[..., 0] = blue[..., 2] = 1
    first = GroupCompositor(left)
    out = first.blank(2)
    first.paste_into(out, red)

    def area(look):
        x0, y0, x1, y1 = (round(v) for v in look.box)
        return slice(y0, y1), slice(x0, x1)

    assert torch.equal(out[1][area(right)], picture[area(right)]), "the neighbour is untouched to the bit"
    assert (out[1][area(left)] - picture[area(left)]).abs().mean() > 0.1
    before = out[:1].clone()
    GroupCompositor(right).paste_into(out[:1], blue)
    assert torch.equal(out[0][area(left)], before[0][area(left)]), "what is there stays there"
    assert (out[0][area(right)] - picture[area(right)]).abs().mean() > 0.1
    assert torch.equal(out[0, :10], picture[:10]), "far from both the picture is itself"


class Kept(list):
    """Takes the place of a writer, and keeps the frames as they come."""

    def __init__(self, form: str):
        super().__init__()
        self.form, self.frames_written = FORMATS[form], 0

    def write(self, frames) -> None:
        self.extend(np.asarray(frames).copy())
        self.frames_written = len(self)


def rendered(look, motion: MotionClip, form: str = "mp4", paste: bool = True) -> list[np.ndarray]:
    """The frames that a file of this format would get, uint8."""
    kept = Kept(form)
    render_frames(FrameModel.load().eval(), models()[1], look, motion, kept, RenderSettings(steps=1, paste=paste))
    return [frame if frame.dtype == np.uint8 else (frame * 255).round().astype(np.uint8) for frame in kept]


@pytest.mark.weights
def test_a_render_leaves_the_neighbour_alone():
    look = person(0)[0]
    motion = MotionClip(torch.zeros(1, 64), torch.tensor([[0.0, 0.4, 0.2, 0.1, 0, 0]]), 25.0, look.face_model)
    [frame] = rendered(look, motion)
    [x0, y0, x1, y1] = (round(v) for v in look.others[0])
    changed = frame != two_people()
    assert not changed[y0:y1, x0:x1].any() and changed[:, :x0].mean() > 0.1
    assert look.crop_box[0] + look.crop_box[2] > x0 + 10, "the crop reaches over the neighbour, else this says nothing"


@pytest.mark.weights
def test_the_largest_face_is_taken_without_a_choice():
    look = encode_largest(two_people(), *models())
    assert look.notes[0] == "The picture shows 2 faces; the largest is used." and len(look.others) == 1
    alone = encode_largest(two_people()[:, :270], *models())
    assert not any("face" in note and "found" in note for note in alone.notes) and alone.others == ()


@pytest.mark.weights
def test_transparency_moves_with_the_head():
    """Everything right of the nose is transparent; the head moves to the right, and the border with it."""
    picture = two_people()[:, :270]
    middle = round(person(0)[0].landmarks[4, 0].item() * person(0)[0].crop_box[2] / 256 + person(0)[0].crop_box[0])
    opacity = np.full(picture.shape[:2], 255, np.uint8)
    opacity[:, middle:] = 0
    look, _ = encode_chosen(picture, *models(), FaceChoice(), opacity=opacity)
    moved = MotionClip(torch.zeros(2, 64), torch.zeros(2, 6), 25.0, look.face_model)
    moved.pose[1, 3] = 0.15  # in inter-ocular distances
    for paste in (True, False):
        still, later = rendered(look, moved, "webm (VP9, transparent)", paste)
        y = round(look.landmarks[4, 1].item() * (look.crop_box[2] / 256 if paste else 1) + paste * look.crop_box[1])
        borders = [int((frame[y, :, 3] > 127).sum()) for frame in (still, later)]
        unit = float(look.pose[5].exp()) * (look.crop_box[2] if paste else 256)
        assert borders[1] - borders[0] == pytest.approx(0.15 * unit, abs=0.05 * unit), borders
        if paste:
            assert borders[0] == pytest.approx(middle, abs=1)
            assert (later[:4, :, 3] == opacity[:4]).all(), "outside the crop nothing moves"
    assert rendered(look, moved, "mp4", True)[0].shape[2] == 3, "a format without transparency gets none"
    with pytest.raises(UserError, match="The transparency has 4 x 3 pixels, but the portrait 270 x 320"):
        encode_chosen(picture, *models(), FaceChoice(), opacity=np.zeros((3, 4), np.uint8))
    opaque, _ = encode_chosen(picture, *models(), FaceChoice(), opacity=np.full_like(opacity, 255))
    assert opaque.opacity is None


@pytest.mark.weights
def test_alone_in_a_picture_it_is_the_plain_compositor():
    picture = np.asarray(Image.open(ROOT / "assets/portrait.png").convert("RGB"))
    look, _ = encode_chosen(picture, *models(), FaceChoice())
    assert own_side(look) is None
    frames = torch.rand(2, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.uint8):
        plain, group = Compositor(look), GroupCompositor(look)
        ours = group.blank(2, dtype)
        group.paste_into(ours, frames)
        assert (ours.float() - plain.paste(frames, dtype=dtype).float()).abs().max() <= (
            1 if dtype == torch.uint8 else 1e-6
        )


@pytest.mark.weights
def test_a_face_that_hides_is_not_taken_for_its_neighbour():
    picture = two_people()
    hidden = picture.copy()
    hidden[:, :270] = picture[5, 5]
    frames = [np.zeros_like(picture), picture, picture, hidden, hidden, picture, picture]
    chooser = FaceChooser(models()[0], FaceChoice(LEFT, 0))
    followed = list(chooser.track_video(frames))
    assert [face is not None for face in followed] == [False, True, True, False, False, True, True]
    assert all(face.box.centre[0] < 270 for face in followed if face)
    assert chooser.missing == 3 and chooser.note.startswith("2 faces were found; number 0")
    right = FaceChooser(models()[0], FaceChoice(box=person(1)[0].box))
    assert all(face.box.centre[0] > 270 for face in right.track_video(frames[1:]))


@pytest.mark.weights
def test_a_single_face_is_found_again_anywhere():
    picture = two_people()[:, 90:270]
    wide = np.full((320, 900, 3), picture[5, 5], np.uint8)
    start, end = wide.copy(), wide.copy()
    start[:, 90:270], end[:, 690:870] = picture, picture
    followed = list(FaceChooser(models()[0], FaceChoice()).track_video([start, end]))
    assert followed[0].box.centre[0] < 300 and followed[1].box.centre[0] > 600


@pytest.mark.weights
def test_previews_mark_what_they_should():
    look, chooser = person(0)
    drawn = draw_landmarks(look.crop, look.landmarks)
    plain = np.asarray(Image.fromarray((look.crop.permute(1, 2, 0) * 255).byte().numpy()).resize((512, 512)))
    changed = (np.abs(drawn.astype(int) - plain) > 25).any(2)
    nose = (look.landmarks[4, :2] * 2).long()
    assert drawn.shape == (512, 512, 3) and 0.01 < changed.mean() < 0.2
    assert changed[nose[1] - 2 : nose[1] + 3, nose[0] - 2 : nose[0] + 3].any()
    numbered = draw_faces(two_people(), chooser.faces, chooser.taken, longest=280)
    assert numbered.shape == (160, 280, 3)
