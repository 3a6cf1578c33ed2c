import torch

from fd2talk_core.audio.features import BINS, PER_FRAME
from fd2talk_core.face.model import FaceModel
from fd2talk_core.motion.lip_expert import LIPS, WINDOW, LipExpert


def test_windows_of_five_frames():
    torch.manual_seed(0)
    expert = LipExpert()
    expert.set_face_model(FaceModel.load())
    mel, expression = torch.randn(2, 12, PER_FRAME, BINS), torch.randn(2, 12, 64)
    assert expert(expression, mel).shape == (2, 12 - WINDOW + 1, 12 - WINDOW + 1)
    for embed, values in ((expert.embed_audio, mel), (expert.embed_motion, expression)):
        vectors = embed(values)
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(2, 8), atol=1e-5)
        changed = values.clone()
        changed[:, 6] += 1
        moved = (embed(changed) - vectors).abs().amax((0, 2)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
    assert expert.sync_loss(expression, mel).shape == (2,)


def test_reads_the_mouth_only():
    face_model = FaceModel.load()
    expert = LipExpert()
    expert.set_face_model(face_model)
    assert expert.lip_basis.shape == (26, len(LIPS) * 3) and expert.face_model_hash == face_model.hash
    expression = torch.randn(1, 8, 64)
    changed = expression.clone()
    changed[..., face_model.slices["eyelids"]] += 1
    assert torch.equal(expert.embed_motion(expression), expert.embed_motion(changed))


def test_loss_falls_when_matching_pairs_are_learned():
    torch.manual_seed(0)
    expert = LipExpert()
    expert.set_face_model(FaceModel.load())
    mel = torch.randn(4, 12, PER_FRAME, BINS)
    expression = torch.randn(4, 12, 64)
    optimizer = torch.optim.Adam(expert.parameters(), 3e-3)
    first = expert.sync_loss(expression, mel).mean().item()
    for _ in range(30):
        loss = expert.sync_loss(expression, mel).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * first


def test_shipped_weights_fit_the_shipped_face_model():
    expert = LipExpert.load()
    assert expert.face_model_hash == FaceModel.load().hash
    assert not expert.training
