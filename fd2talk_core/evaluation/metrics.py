"""Measures of landmarks, pictures and motion. Pictures are float (N, 3, H, W) in 0..1."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..face.landmarks import EYE_LEFT, EYE_RIGHT, LIPS_OUTER, face_box, inter_ocular_distance
from ..prepare.quality import lagged_correlation

MAX_LAG = 5
LEAST_FRAMES = 8  # as `lagged_correlation` wants
LUMA = (0.299, 0.587, 0.114)


def _torchmetrics():
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise UserError(
            "Evaluation needs torchmetrics, which is not installed. Run: pip install 'fd2talk[train]'."
        ) from error
    return image


def nme(found, true) -> np.ndarray:
    """Normalised mean error: mean 2-D distance of landmarks over the true inter-ocular distance.

    (..., 478, 3) twice, same unit -> (...).
    """
    found, true = np.asarray(found), np.asarray(true)
    return np.linalg.norm(found[..., :2] - true[..., :2], axis=-1).mean(-1) / inter_ocular_distance(true)


def box_iou(a, b) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """10 log10(1 / MSE) of every picture, dB (N,)."""
    image = _torchmetrics()
    return image.peak_signal_noise_ratio(pictures, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(pictures: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang 2004) of every picture (N,)."""
    image = _torchmetrics()
    return image.structural_similarity_index_measure(pictures, truth, data_range=1.0, reduction="none").reshape(-1)


def ms_ssim(pictures: Tensor, truth: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang 2003) of every picture (N,); sides above 160 px."""
    image = _torchmetrics()
    measure = image.multiscale_structural_similarity_index_measure
    return measure(pictures, truth, data_range=1.0, reduction="none").reshape(-1)


def luma(pictures: Tensor) -> Tensor:
    """Luminance (N, 1, H, W) as of television (BT.601), without gamma's undoing."""
    weights = torch.tensor(LUMA, dtype=pictures.dtype, device=pictures.device)
    return (pictures * weights[:, None, None]).sum(1, keepdim=True)


def gmsd(pictures: Tensor, truth: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue 2014), 0 = equal, of every picture (N,)."""
    kernel = torch.tensor([[1.0, 0, -1]] * 3, dtype=pictures.dtype, device=pictures.device) / 3
    kernels = torch.stack([kernel, kernel.T])[:, None]
    a, b = (
        F.conv2d(F.avg_pool2d(luma(x), 2), kernels).square().sum(1).sqrt() for x in (pictures, truth)
    )
    constant = 170 / 255**2
    similarity = (2 * a * b + constant) / (a**2 + b**2 + constant)
    return similarity.flatten(1).std(1, correction=0)


def laplacian_energy(pictures: Tensor) -> Tensor:
    """Mean squared Laplacian of the luminance, a measure of sharpness, of every picture (N,)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=pictures.dtype, device=pictures.device)
    return F.conv2d(luma(pictures), kernel[None, None]).square().mean((1, 2, 3))


def _widened_box(points, reach: float, size: int) -> tuple[int, int, int, int]:
    """Pixel box around points (n, 2 or 3), widened by `reach` px on all sides, within a picture of side `size`."""
    x0, y0, x1, y1 = face_box(points)
    x0, y0 = (int(np.clip(np.floor(v - reach), 0, size - 8)) for v in (x0, y0))
    x1, y1 = (int(np.clip(np.ceil(v + reach), low + 8, size)) for v, low in ((x1, x0), (y1, y0)))
    return x0, y0, x1, y1


def mouth_box(landmarks, size: int, margin: float = 0.15) -> tuple[int, int, int, int]:
    """Pixel box (x0, y0, x1, y1) around the outer lip contour, widened by `margin` inter-ocular distances.

    landmarks: (478, 3) px of a picture of side `size`; the box lies within the picture.
    """
    landmarks = np.asarray(landmarks)
    return _widened_box(landmarks[list(LIPS_OUTER)], margin * float(inter_ocular_distance(landmarks)), size)


def eye_boxes(landmarks, size: int, margin: float = 0.12) -> tuple[tuple[int, int, int, int], ...]:
    """Pixel boxes around the contours of both eyes, as `mouth_box`; the right eye's first."""
    landmarks = np.asarray(landmarks)
    reach = margin * float(inter_ocular_distance(landmarks))
    return tuple(_widened_box(landmarks[list(eye)], reach, size) for eye in (EYE_RIGHT, EYE_LEFT))


def crop_box(pictures: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """The part of (..., H, W) inside a pixel box."""
    x0, y0, x1, y1 = box
    return pictures[..., y0:y1, x0:x1]


def lab(pictures: Tensor) -> Tensor:
    """sRGB in 0..1 -> CIELAB under D65: L 0..100, a and b about -100..100; (N, 3, H, W) both."""
    linear = torch.where(pictures <= 0.04045, pictures / 12.92, ((pictures + 0.055) / 1.055) ** 2.4)
    matrix = pictures.new_tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    # Rows are divided by their sums: white has X = Y = Z = 1.
    xyz = torch.einsum("ij,njhw->nihw", matrix / matrix.sum(1, keepdim=True), linear)
    bright = xyz.clamp(min=1e-9) ** (1 / 3)
    x, y, z = torch.where(xyz > (6 / 29) ** 3, bright, xyz * (29 / 6) ** 2 / 3 + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def opening_scores(made: np.ndarray, real: np.ndarray, max_lag: int = MAX_LAG) -> dict[str, float]:
    """Compare two courses of mouth opening (T,).

    Returns correlation (same instant), best_correlation and best_lag (frames; made[t] is most like
    real[t + lag], so positive means that the made mouth is early), mae (mean absolute difference), still_mae (that of
    a mouth that keeps the mean opening) and range_ratio (standard deviations, made over real).
    """
    made, real = np.asarray(made, np.float64), np.asarray(real, np.float64)
    moving = min(made.std(), real.std()) > 1e-6
    # A mouth that never moves correlates with nothing.
    same = lagged_correlation(made, real, 0)[0] if moving else 0.0
    best, lag = lagged_correlation(made, real, max_lag) if moving else (0.0, 0)
    return {
        "correlation": same,
        "best_correlation": best,
        "best_lag": lag,
        "mae": float(np.abs(made - real).mean()),
        "still_mae": float(np.abs(real - real.mean()).mean()),
        "range_ratio": float(made.std() / max(real.std(), 1e-9)),
    }


def opening_correlation(made: np.ndarray, real: np.ndarray) -> float | None:
    """Correlation of two courses of opening (T,) at the same instant; None below 8 frames, which tell nothing."""
    return opening_scores(made, real)["correlation"] if len(made) >= LEAST_FRAMES else None
