"""How well the face tracker agrees with labels: landmark error, detection recall, and their breakdown by kind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..face.landmarks import face_box, inter_ocular_distance
from ..face.tracker import FaceBox, FaceTracker

IOU = 0.5


def agreement(tracker: FaceTracker, labelled: Iterable[tuple[np.ndarray, np.ndarray, str]]) -> dict[str, float]:
    """Compare with labels.

    Args:
        tracker: in evaluation mode.
        labelled: picture uint8 (H, W, 3), landmarks (478, 3) in its pixels, and a kind to group by.

    Returns
        nme: mean 2-D landmark error over the inter-ocular distance, averaged over pictures, where the face was found
            (or looked at in the label's box where it was not);
        recall: share of labelled faces with a detected box of IoU >= 0.5;
        confidence: mean presence probability on them; false: detected boxes per picture that match no label;
        and `nme/<kind>`, `recall/<kind>`.
    """
    rows: list[tuple[str, float, bool, float, int]] = []
    for picture, landmarks, kind in labelled:
        label = FaceBox(*face_box(landmarks))
        boxes = tracker.detect(picture)
        overlaps = [label.overlap(box) for box in boxes]
        best = int(np.argmax(overlaps)) if boxes else -1
        found = bool(boxes) and overlaps[best] >= IOU
        face = tracker.landmarks(picture, boxes[best] if found else label)
        distance = np.linalg.norm(face.landmarks[:, :2] - landmarks[:, :2], axis=1).mean()
        error = float(distance / inter_ocular_distance(landmarks))
        rows.append((kind, error, found, face.confidence, len(boxes) - found))
    if not rows:
        return {"nme": float("nan"), "recall": float("nan")}
    numbers = {
        "nme": float(np.mean([row[1] for row in rows])),
        "recall": float(np.mean([row[2] for row in rows])),
        "confidence": float(np.mean([row[3] for row in rows])),
        "false": float(np.mean([row[4] for row in rows])),
    }
    for kind in sorted({row[0] for row in rows}):
        of_kind = [row for row in rows if row[0] == kind]
        numbers[f"nme/{kind}"] = float(np.mean([row[1] for row in of_kind]))
        numbers[f"recall/{kind}"] = float(np.mean([row[2] for row in of_kind]))
    return numbers
