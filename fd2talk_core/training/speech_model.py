"""Features of a big speech model for the clips of stage 1's training, kept in the cache folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from ..audio.features import FRAME_SAMPLES
from ..motion.speech_features import SpeechFeatures
from .data import Clip
from .speech_data import SpeechClip, synced_clips, valid_run


def sound_of(clip: Clip, first: float, frames: int) -> np.ndarray:
    """Samples (640 frames,) of a prepared clip from 25-fps frame `first` of its longest valid stretch on."""
    start, _ = valid_run(clip.labels().valid)
    at = round((start + first) * FRAME_SAMPLES)
    stop = at + frames * FRAME_SAMPLES
    samples = clip.samples()
    piece = samples[max(0, at) : max(0, stop)]
    left = min(max(0, -at), frames * FRAME_SAMPLES)
    return np.pad(piece, (left, frames * FRAME_SAMPLES - left - len(piece)))


def _key(clips: list[SpeechClip], speech: SpeechFeatures) -> str:
    digest = hashlib.sha256(f"1 {speech.normalise} {speech.layer} {speech.model.config.to_json_string()}".encode())
    for name, tensor in sorted(speech.model.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    for clip in clips:
        digest.update(f"{clip.name} {clip.shift} {len(clip)}\n".encode())
    return digest.hexdigest()[:16]


def add_features(clips: list[SpeechClip], folders: list[Path], speech: SpeechFeatures, cache: Path) -> None:
    """Give every clip its `features`, float16 (T, F), in step with its coefficients. Slow only once per model.

    folders: where the clips were prepared. cache: folder for the result.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"speech_{_key(clips, speech)}.safetensors"
    if not path.is_file():
        sources = {clip.name: clip for clip in synced_clips(folders)}
        save_file(
            {
                clip.name: speech.clip_features(sound_of(sources[clip.name], clip.shift, len(clip))).astype(np.float16)
                for clip in tqdm(clips, desc="speech features", unit="clip")
            },
            path,
        )
    features = load_file(path)
    for clip in clips:
        clip.features = features[clip.name]
