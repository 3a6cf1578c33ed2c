"""The 3DMM: a linear face model on the 478-vertex MediaPipe topology with regional expression coefficients."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ..checkpoint import default_weights, load_checkpoint, save_checkpoint
from ..errors import UserError
from .landmarks import STABLE

N_IDENTITY, N_EXPRESSION, N_POSE = 80, 64, 6
REGIONS = ("gaze", "eyelids", "brows", "mouth", "rest")


@dataclass
class FaceFit:
    """Coefficients of one person in N frames: alpha (80,), beta (N, 64), pose (N, 6)."""

    alpha: torch.Tensor
    beta: torch.Tensor
    pose: torch.Tensor


def rotation_matrix(angles: torch.Tensor) -> torch.Tensor:
    """R = Rz(roll) Ry(yaw) Rx(pitch) from (..., 3) = pitch, yaw, roll in radians -> (..., 3, 3)."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
        torch.stack([-sy, cy * sx, cy * cx], -1),
    ]
    return torch.stack(rows, -2)


def rotation_angles(matrix: torch.Tensor) -> torch.Tensor:
    """Inverse of `rotation_matrix` for |yaw| < 90 degrees: (..., 3, 3) -> (..., 3)."""
    pitch = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2])
    yaw = torch.asin((-matrix[..., 2, 0]).clamp(-1, 1))
    roll = torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])
    return torch.stack([pitch, yaw, roll], -1)


def similarity(source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Least-squares s, R, t with target ~ s R source + t (Umeyama 1991). (N, V, 3) each -> (N,), (N, 3, 3), (N, 3)."""
    centre_a, centre_b = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    a, b = source - centre_a, target - centre_b
    u, d, vt = torch.linalg.svd(b.transpose(1, 2) @ a)
    sign = torch.ones_like(d)
    sign[:, 2] = torch.linalg.det(u @ vt).sign()
    rotation = u @ (sign[:, :, None] * vt)
    scale = (d * sign).sum(1) / (a**2).sum((1, 2))
    shift = centre_b[:, 0] - scale[:, None] * (rotation @ centre_a[:, 0, :, None])[..., 0]
    return scale, rotation, shift


class FaceModel:
    """S = mean + B_id alpha + B_exp beta (E1 of the reference), in inter-ocular distances, under weak perspective.

    Axes are the image's: x right, y down, z away from the viewer; the origin lies inside the head. Expression
    coefficients are regional: `slices` names the parts of beta that move each region, and no other region's
    vertices. `controls` are named directions inside one region, 1.0 = fully on.
    """

    def __init__(
        self,
        mean: torch.Tensor,  # (478, 3)
        id_basis: torch.Tensor,  # (80, 478, 3)
        exp_basis: torch.Tensor,  # (64, 478, 3), orthonormal rows
        id_std: torch.Tensor,  # (80,)
        exp_std: torch.Tensor,  # (64,)
        noise: torch.Tensor,  # () residual standard deviation of one coordinate
        slices: dict[str, slice],
        region_of: torch.Tensor,  # (478,) index into REGIONS
        controls: dict[str, torch.Tensor],  # each (64,)
        control_regions: dict[str, str],
        triangles: torch.Tensor,  # (n, 3)
        mirror: torch.Tensor,  # (478,) the vertex on the other side of the face
    ):
        self.mean, self.id_basis, self.exp_basis = mean, id_basis, exp_basis
        self.id_std, self.exp_std, self.noise = id_std, exp_std, noise
        self.slices, self.region_of = slices, region_of
        self.controls, self.control_regions = controls, control_regions
        self.triangles, self.mirror = triangles, mirror

    @cached_property
    def hash(self) -> str:
        """Content hash that motion clips and networks carry."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.id_basis, self.exp_basis):
            digest.update(tensor.to(torch.float16).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, path: str | Path | None = None) -> FaceModel:
        """Read a face model file, the shipped one by default. Raises UserError when it is missing or damaged."""
        file = load_checkpoint(path or default_weights("face_model"), "face_model")
        state, config = file.state, file.config
        names = sorted(config["control_regions"])
        model = cls(
            **{k: state[k] for k in ("mean", "id_basis", "exp_basis", "id_std", "exp_std", "noise")},
            slices={name: slice(*bounds) for name, bounds in config["slices"].items()},
            region_of=state["region_of"].long(),
            controls=dict(zip(names, state["controls"], strict=True)),
            control_regions=config["control_regions"],
            triangles=state["triangles"].long(),
            mirror=state["mirror"].long(),
        )
        if model.hash != file.face_model:
            raise UserError("The face model's content does not match its hash. Copy the file again; it is damaged.")
        return model

    def save(self, path: str | Path, provenance: dict) -> None:
        """Write everything to one safetensors file (half precision)."""
        names = sorted(self.control_regions)
        state = {k: getattr(self, k) for k in ("mean", "id_basis", "exp_basis", "id_std", "exp_std", "noise")}
        state |= {
            "controls": torch.stack([self.controls[name] for name in names]),
            "region_of": self.region_of.to(torch.uint8),
            "triangles": self.triangles.to(torch.int16),
            "mirror": self.mirror.to(torch.int16),
        }
        config = {
            "slices": {name: [s.start, s.stop] for name, s in self.slices.items()},
            "control_regions": self.control_regions,
            "regions": json.dumps(REGIONS),
        }
        save_checkpoint(path, "face_model", state, config, provenance, self.hash)

    def vertices(self, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        """Shapes in the head's own frame. alpha (..., 80), beta (..., 64) -> (..., 478, 3)."""
        identity = torch.einsum("...k,kvc->...vc", alpha, self.id_basis.to(alpha))
        expression = torch.einsum("...k,kvc->...vc", beta, self.exp_basis.to(beta))
        return self.mean.to(alpha) + identity + expression

    def project(self, vertices: torch.Tensor, pose: torch.Tensor, size: float) -> torch.Tensor:
        """Weak-perspective image of vertices (..., 478, 3) under pose (..., 6) in a crop of `size` pixels -> pixels."""
        scale = pose[..., 5].exp()[..., None, None] * size
        turned = vertices @ rotation_matrix(pose[..., :3]).transpose(-1, -2)
        shift = torch.cat([pose[..., 3:5], torch.zeros_like(pose[..., :1])], -1)[..., None, :]
        centre = torch.tensor([0.5, 0.5, 0.0], dtype=vertices.dtype, device=vertices.device) * size
        return (turned + shift) * scale + centre

    def landmarks(self, alpha: torch.Tensor, beta: torch.Tensor, pose: torch.Tensor, size: float) -> torch.Tensor:
        """Image landmarks of coefficients: (..., 80), (..., 64), (..., 6) -> (..., 478, 3) pixels."""
        return self.project(self.vertices(alpha, beta), pose, size)

    def _pose(self, shape: torch.Tensor, landmarks: torch.Tensor, size: float) -> torch.Tensor:
        stable = list(STABLE)
        scale, rotation, shift = similarity(shape[:, stable], landmarks[:, stable])
        offset = (shift[:, :2] - size / 2) / scale[:, None]
        return torch.cat([rotation_angles(rotation), offset, (scale / size).log()[:, None]], 1)

    def _unproject(self, landmarks: torch.Tensor, pose: torch.Tensor, shape: torch.Tensor, size: float) -> torch.Tensor:
        """Landmarks in the head's own frame; depth is free in an image, so it is taken from `shape` under `pose`."""
        stable = list(STABLE)
        scale = (pose[:, 5].exp() * size)[:, None, None]
        rotation = rotation_matrix(pose[:, :3])
        depth = (shape[:, stable] @ rotation.transpose(1, 2))[..., 2].mean(1)
        turned = (landmarks - torch.tensor([size / 2, size / 2, 0.0])) / scale
        shift = torch.cat([pose[:, 3:5], (turned[:, stable, 2].mean(1) - depth)[:, None]], 1)
        return (turned - shift[:, None]) @ rotation

    def fit(
        self, landmarks: torch.Tensor, size: float, alpha: torch.Tensor | None = None, rounds: int = 4
    ) -> FaceFit:
        """Coefficients of one person from landmarks (N, 478, 3) in pixels of a crop of `size`.

        Alternates pose (Umeyama on stable vertices) with ridge regression under the model's Gaussian priors; alpha is
        shared by all frames, and kept when given. Landmarks must be finite.
        """
        landmarks = torch.as_tensor(landmarks, dtype=torch.float32)
        known = alpha is not None
        alpha = alpha if known else torch.zeros(N_IDENTITY)
        beta = torch.zeros(len(landmarks), N_EXPRESSION)
        basis_id, basis_exp = self.id_basis.reshape(N_IDENTITY, -1), self.exp_basis.reshape(N_EXPRESSION, -1)
        joint = torch.cat([basis_id, basis_exp])  # (144, 1434)
        variance = torch.cat([self.id_std, self.exp_std]) ** 2
        # Neighbouring coordinates err together, so the noise counts as about ten times what independence would say.
        ridge = 10 * self.noise**2
        system = joint @ joint.T + torch.diag(ridge / variance)
        shrink = 1 / (1 + ridge / self.exp_std**2)
        for _ in range(rounds):
            shape = self.vertices(alpha.expand(len(beta), -1), beta)
            pose = self._pose(shape, landmarks, size)
            offsets = (self._unproject(landmarks, pose, shape, size) - self.mean).reshape(len(beta), -1)
            if not known:
                alpha = torch.linalg.solve(system, joint @ offsets.mean(0))[:N_IDENTITY]
            beta = (offsets - alpha @ basis_id) @ basis_exp.T * shrink
        return FaceFit(alpha, beta, pose)

    def control_vector(self, values: dict[str, float]) -> torch.Tensor:
        """Sum of named controls times their values -> (64,). Raises UserError for a name that does not exist."""
        unknown = set(values) - set(self.controls)
        if unknown:
            raise UserError(
                f"There is no expression control called '{sorted(unknown)[0]}'. "
                f"Choose from: {', '.join(sorted(self.controls))}."
            )
        total = torch.zeros(N_EXPRESSION)
        for name, value in values.items():
            total += value * self.controls[name]
        return total
