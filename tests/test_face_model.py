import pytest
import torch

from fd2talk_core.errors import UserError
from fd2talk_core.face.landmarks import eye_opening, inter_ocular_distance, mouth_opening
from fd2talk_core.face.model import (
    N_EXPRESSION,
    N_IDENTITY,
    REGIONS,
    FaceModel,
    rotation_angles,
    rotation_matrix,
    similarity,
)


@pytest.fixture(scope="module")
def face():
    return FaceModel.load()


def random_people(face, count=6, seed=0):
    """Plausible coefficients: one identity, `count` expressions and poses."""
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.randn(N_IDENTITY, generator=generator) * face.id_std * 0.7
    beta = torch.randn(count, N_EXPRESSION, generator=generator) * face.exp_std * 0.7
    pose = torch.randn(count, 6, generator=generator) * torch.tensor([0.15, 0.3, 0.15, 0.2, 0.2, 0.1])
    pose[:, 5] -= 1.2
    return alpha, beta, pose


def test_rotation_round_trip_and_axes():
    angles = torch.tensor([[0.2, -0.5, 0.3], [0.0, 0.0, 0.0], [-0.4, 0.8, -0.1]])
    assert torch.allclose(rotation_angles(rotation_matrix(angles)), angles, atol=1e-5)
    # Positive roll turns x towards y: clockwise in an image whose y points down.
    turned = rotation_matrix(torch.tensor([0.0, 0.0, 0.5])) @ torch.tensor([1.0, 0.0, 0.0])
    assert turned[1] > 0.4


def test_similarity_recovers_a_known_transform():
    points = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1))
    rotation = rotation_matrix(torch.tensor([[0.1, 0.2, -0.3], [0.4, -0.6, 0.2]]))
    target = 2.5 * points @ rotation.transpose(1, 2) + torch.tensor([3.0, -1.0, 0.5])
    scale, found, shift = similarity(points, target)
    assert torch.allclose(scale, torch.full((2,), 2.5), atol=1e-4)
    assert torch.allclose(found, rotation, atol=1e-4)
    assert torch.allclose(shift, torch.tensor([3.0, -1.0, 0.5]).expand(2, 3), atol=1e-3)


def test_unit_is_the_inter_ocular_distance(face):
    assert abs(float(inter_ocular_distance(face.mean)) - 1) < 0.05


def test_round_trip_of_landmarks_through_coefficients(face):
    alpha, beta, pose = random_people(face)
    landmarks = face.landmarks(alpha.expand(len(beta), -1), beta, pose, 256)
    fit = face.fit(landmarks, 256)
    again = face.landmarks(fit.alpha.expand(len(beta), -1), fit.beta, fit.pose, 256)
    error = (again - landmarks)[..., :2].norm(dim=-1).mean(1) / inter_ocular_distance(landmarks)
    assert error.max() < 0.01


def test_known_identity_gives_back_expression_and_pose(face):
    alpha, beta, pose = random_people(face, seed=3)
    landmarks = face.landmarks(alpha.expand(len(beta), -1), beta, pose, 512)
    fit = face.fit(landmarks, 512, alpha=alpha, rounds=12)
    assert (fit.pose - pose).abs().max() < 0.05
    mouth = face.slices["mouth"]
    wanted, found = beta[:, mouth].flatten(), fit.beta[:, mouth].flatten()
    assert torch.corrcoef(torch.stack([wanted, found]))[0, 1] > 0.97


def test_slices_tile_the_coefficients(face):
    bounds = sorted((part.start, part.stop) for part in face.slices.values())
    assert set(face.slices) == set(REGIONS)
    assert bounds[0][0] == 0 and bounds[-1][1] == N_EXPRESSION
    assert all(left[1] == right[0] for left, right in zip(bounds[:-1], bounds[1:], strict=True))


@pytest.mark.parametrize("region", REGIONS)
def test_a_slice_moves_its_own_region_only(face, region):
    beta = torch.zeros(N_EXPRESSION)
    beta[face.slices[region]] = face.exp_std[face.slices[region]]
    moved = (face.vertices(torch.zeros(N_IDENTITY), beta) - face.mean).norm(dim=-1)
    own = face.region_of == REGIONS.index(region)
    assert moved[own].max() > 1e-3
    assert moved[~own].max() == 0


def test_every_control_moves_its_own_region_only(face):
    for name, vector in face.controls.items():
        moved = (face.vertices(torch.zeros(N_IDENTITY), vector) - face.mean).norm(dim=-1)
        own = face.region_of == REGIONS.index(face.control_regions[name])
        assert moved[own].max() > 1e-3, name
        assert moved[~own].max() == 0, name


def test_controls_do_what_their_names_say(face):
    def shape(**values):
        return face.vertices(torch.zeros(N_IDENTITY), face.control_vector(values))

    assert mouth_opening(shape(jaw_open=1.0)) > mouth_opening(face.mean) + 0.2
    assert eye_opening(shape(blink_left=1.0, blink_right=1.0)) < 0.4 * eye_opening(face.mean)
    left_only = shape(blink_left=1.0) - face.mean
    assert left_only[face.mean[:, 0] < 0].abs().max() == 0  # the person's left eye has positive x in the image
    narrow, wide = shape(mouth_pucker=1.0), shape(mouth_wide=1.0)
    assert (narrow[291] - narrow[61]).norm() < (wide[291] - wide[61]).norm()
    assert shape(gaze_y=1.0)[468, 1] < face.mean[468, 1]


def test_unknown_control_is_a_clear_error(face):
    with pytest.raises(UserError, match="no expression control called 'wink'"):
        face.control_vector({"wink": 1.0})


def test_mirror_is_an_involution(face):
    assert torch.equal(face.mirror[face.mirror], torch.arange(len(face.mirror)))


def test_save_keeps_the_hash(face, tmp_path):
    face.save(tmp_path / "face.safetensors", {})
    assert FaceModel.load(tmp_path / "face.safetensors").hash == face.hash


def test_damaged_content_is_refused(face, tmp_path):
    path = tmp_path / "face.safetensors"
    face.save(path, {})
    content = bytearray(path.read_bytes())
    content[200_000:201_000] = bytes(1000)  # inside the bases
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        FaceModel.load(path)
