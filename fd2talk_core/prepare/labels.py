"""MediaPipe Face Landmarker as a labelling tool: 478 landmarks and 52 blendshape scores per frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError

N_LANDMARKS, N_BLENDSHAPES = 478, 52


@dataclass
class FrameLabels:
    """Labels of one clip.

    landmarks: float32 (T, 478, 3), x and y in pixels of the frame, z in the same unit (smaller is nearer).
    blendshapes: float32 (T, 52) in 0..1, MediaPipe's (ARKit's) order.
    valid: bool (T,), False where no face was found (values there are zero).
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    valid: np.ndarray


class FaceLabeller:
    """Labels the largest face of every frame; `video=True` tracks over time and is smoother."""

    def __init__(self, model_path: str | Path, video: bool = True, min_confidence: float = 0.4):
        try:
            import mediapipe as mp
        except ImportError as error:
            raise UserError(
                "Preparing data needs MediaPipe, which is not installed. Run: pip install 'fd2talk[prepare]'."
            ) from error
        if not Path(model_path).is_file():
            raise UserError(
                f"The labelling model {model_path} does not exist. Pass --landmarker with the path of a MediaPipe "
                "face_landmarker .task file that outputs blendshapes."
            )
        vision = mp.tasks.vision
        self._image = mp.Image
        self._format = mp.ImageFormat.SRGB
        self._video = video
        self._landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=mp.tasks.BaseOptions(model_asset_path=str(model_path)),
                running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
                num_faces=1,
                min_face_detection_confidence=min_confidence,
                min_face_presence_confidence=min_confidence,
                output_face_blendshapes=True,
            )
        )

    def __enter__(self) -> FaceLabeller:
        return self

    def __exit__(self, *_) -> None:
        self._landmarker.close()

    def label(self, frames: Iterable[np.ndarray], fps: float = 25.0) -> FrameLabels:
        """Label frames, uint8 RGB (H, W, 3) each."""
        landmarks, blendshapes, valid = [], [], []
        for index, frame in enumerate(frames):
            image = self._image(image_format=self._format, data=np.ascontiguousarray(frame))
            if self._video:
                result = self._landmarker.detect_for_video(image, int(index * 1000 / fps))
            else:
                result = self._landmarker.detect(image)
            found = bool(result.face_landmarks)
            valid.append(found)
            if found:
                height, width = frame.shape[:2]
                points = np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]], np.float32)
                landmarks.append(points * np.array([width, height, width], np.float32))
                blendshapes.append(np.array([c.score for c in result.face_blendshapes[0]], np.float32))
            else:
                landmarks.append(np.zeros((N_LANDMARKS, 3), np.float32))
                blendshapes.append(np.zeros(N_BLENDSHAPES, np.float32))
        return FrameLabels(
            np.stack(landmarks) if landmarks else np.zeros((0, N_LANDMARKS, 3), np.float32),
            np.stack(blendshapes) if blendshapes else np.zeros((0, N_BLENDSHAPES), np.float32),
            np.array(valid, bool),
        )
