import pytest
import torch

from fd2talk_core.face.geometry import dense_flow, head_coordinates, region_masks, warp
from fd2talk_core.face.model import N_EXPRESSION, N_IDENTITY, FaceModel


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


@pytest.fixture
def rest():
    return torch.zeros(N_EXPRESSION), torch.tensor([0.0, 0, 0, 0, 0, -1.3])


def flow_to(face, rest, beta=None, pose=None):
    target = (rest[0] if beta is None else beta)[None], (rest[1] if pose is None else pose)[None]
    return dense_flow(face, torch.zeros(N_IDENTITY), rest, target)


def test_no_motion_means_no_flow(face, rest):
    assert flow_to(face, rest).abs().max() < 1e-5


def test_moving_the_head_moves_its_pixels_and_not_the_border(face, rest):
    pose = rest[1].clone()
    pose[3] += 0.2  # inter-ocular distances to the right
    flow = flow_to(face, rest, pose=pose)
    expected = -0.2 * float(rest[1][5].exp())
    assert abs(float(flow[0, 0, 32, 36]) - expected) < 0.2 * abs(expected)
    assert flow[0, :, 0, 0].abs().max() < 0.2 * abs(expected)


def test_opening_the_mouth_pulls_the_chin_from_above(face, rest):
    flow = flow_to(face, rest, beta=face.controls["jaw_open"])
    open_face = face.vertices(torch.zeros(N_IDENTITY), face.controls["jaw_open"])
    x, y = face.project(open_face[152:153], rest[1], 64.0)[0, :2].long().tolist()
    assert flow[0, 1, y, x] < -0.005


def test_warp_follows_the_flow():
    picture = torch.zeros(3, 64, 64)
    picture[:, 20:24, 20:24] = 1
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0] = -10 / 64  # every place comes from ten pixels further left
    moved = warp(picture, flow)
    assert moved[0, 0, 21, 31] == 1 and moved[0, 0, 21, 21] == 0


def test_masks_lie_where_the_features_are(face, rest):
    beta = face.controls["jaw_open"]
    landmarks = face.landmarks(torch.zeros(1, N_IDENTITY), beta[None], rest[1][None], 1.0)
    lips, mouth, eyes, oval = region_masks(landmarks, 32)[0]
    assert 0 < mouth.sum() < lips.sum() < oval.sum()
    rows = torch.arange(32.0)
    assert (eyes.sum(1) @ rows) / eyes.sum() < (mouth.sum(1) @ rows) / mouth.sum()
    assert oval.max() <= 1 and (mouth <= lips + 1e-6).all()


def test_head_coordinates_follow_the_head(rest):
    pose = rest[1].repeat(2, 1)
    pose[1, 3:5] = torch.tensor([0.3, -0.1])
    pose[1, 2] = 0.2
    still, moved = head_coordinates(pose, 32)
    scale = float(pose[0, 5].exp())
    column = round((0.5 + 0.3 * scale) * 32 - 0.5)
    row = round((0.5 - 0.1 * scale) * 32 - 0.5)
    assert still[:, 15:17, 15:17].mean((1, 2)).abs().max() < 1e-5
    assert moved[:, row, column].abs().max() < 0.1
