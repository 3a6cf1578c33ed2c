"""Features of big speech models, for motion models that are trained on these instead of log-mel.

a = Interp_2L→L(W2V2(wave)) (E7 of the reference): 640 L samples at 16 kHz, padded by 80, give 2 L vectors at 50 Hz,
of which two by two are averaged to one per 25-fps frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio.features import FRAME_SAMPLES, feature_frames
from ..errors import UserError

PER_FRAME = 2
STRIDE, WINDOW = 320, 400  # samples between the model's vectors, and that each of them sees
_PAD = (WINDOW - STRIDE) // 2  # on both sides, so that vectors lie symmetrically in their frames
CHUNK, CONTEXT = 500, 100  # frames encoded at a time, and on each side of them that are only listened to


def to_frames(vectors: Tensor, frames: int) -> Tensor:
    """Vectors at 50 Hz (n, F) -> (frames, F) at 25 Hz: means of two; the last vector is held where one is missing."""
    index = torch.arange(PER_FRAME * frames, device=vectors.device).clamp(max=len(vectors) - 1)
    return vectors[index].unflatten(0, (frames, PER_FRAME)).mean(1)


class SpeechFeatures:
    """A wav2vec 2.0, HuBERT, WavLM, ... model of transformers that gives features at 25 Hz.

    Args:
        model: Wav2Vec2Model, HubertModel or another one with the same convolutions (stride 320, window 400).
        normalise: bring recordings to zero mean and unit variance first, as the model's own preprocessor says.
        layer: hidden layer to use, 0 = input of the transformer; default the last.

    Long recordings are encoded in chunks of 20 s with 4 s of context on each side, so that memory stays constant.
    Attention, and the normalisation over time in the first layer of base models, reach further: features of chunks
    and of the whole differ a little, the more so the more loudness changes.
    """

    def __init__(self, model: torch.nn.Module, normalise: bool = True, layer: int | None = None):
        config = model.config
        if int(np.prod(getattr(config, "conv_stride", [0]))) != STRIDE:
            raise UserError(
                f"The speech model is of type '{config.model_type}', without 50 vectors per second. "
                "Use a wav2vec 2.0, HuBERT or WavLM model."
            )
        if layer is not None and not 0 <= layer <= config.num_hidden_layers:
            raise UserError(f"The speech model has no layer {layer}. Use 0 to {config.num_hidden_layers}.")
        self.model, self.normalise, self.layer = model.eval().requires_grad_(False), normalise, layer

    @classmethod
    def load(
        cls, folder: str | Path, device: str | torch.device = "cpu", layer: int | None = None, download: bool = False
    ) -> SpeechFeatures:
        """Read a model from a local folder in transformers' format (config.json, model.safetensors).

        download: take `folder` as a name on the Hugging Face hub and fetch it if need be; else nothing is fetched.
        Raises UserError when there is no such model.
        """
        from transformers import AutoFeatureExtractor, AutoModel

        if not download and not (Path(folder) / "config.json").is_file():
            raise UserError(
                f"The folder {folder} holds no speech model. Give a folder with config.json and model.safetensors."
            )
        options = {"local_files_only": not download}
        try:
            model = AutoModel.from_pretrained(str(folder), use_safetensors=True, **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UserError(
                f"The speech model in {folder} cannot be read ({str(error).splitlines()[0]}). "
                "Use a wav2vec 2.0 or HuBERT model with model.safetensors."
            ) from error
        try:
            preprocessor = AutoFeatureExtractor.from_pretrained(str(folder), **options)
            normalise = bool(getattr(preprocessor, "do_normalize", True))
        except (OSError, ValueError, KeyError):  # a folder without the preprocessor's settings
            normalise = True
        return cls(model.to(device), normalise, layer)

    @property
    def width(self) -> int:
        """Features per frame; the motion model's `audio_features`."""
        return self.model.config.hidden_size

    @torch.no_grad()
    def _encode(self, wave: np.ndarray, frames: int) -> Tensor:
        """wave (640 frames + 80,) -> (frames, F)."""
        wave = torch.from_numpy(wave)[None].to(self.model.device, self.model.dtype)
        if self.layer is None:
            vectors = self.model(wave).last_hidden_state
        else:
            vectors = self.model(wave, output_hidden_states=True).hidden_states[self.layer]
        return to_frames(vectors[0].float(), frames).cpu()

    def clip_features(self, samples: np.ndarray) -> np.ndarray:
        """Features of a recording.

        samples: float32 (N,), 16 kHz mono.

        Returns float32 (feature_frames(N), width). Raises UserError for audio that is empty or not finite.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not samples.size or not np.isfinite(samples.sum(dtype=np.float64)):
            raise UserError("The audio must be one row of finite samples. Use to_mono_16k first.")
        mean = samples.mean(dtype=np.float64) if self.normalise else 0.0
        scale = 1 / np.sqrt(samples.var(dtype=np.float64) + 1e-7) if self.normalise else 1.0
        total = feature_frames(len(samples))
        features = np.empty((total, self.width), np.float32)
        for start in range(0, total, CHUNK):
            stop = min(start + CHUNK, total)
            first, last = max(0, start - CONTEXT), min(total, stop + CONTEXT)
            low, high = first * FRAME_SAMPLES - _PAD, last * FRAME_SAMPLES + _PAD
            piece = ((samples[max(0, low) : high] - mean) * scale).astype(np.float32)
            left = max(0, -low)
            wave = np.pad(piece, (left, high - low - left - len(piece)))
            features[start:stop] = self._encode(wave, last - first)[start - first : stop - first]
        return features


def from_audio_encoder_output(output: Mapping, frames: int | None = None) -> Tensor:
    """Features of ComfyUI's AUDIO_ENCODER_OUTPUT (wav2vec 2.0 and Whisper): float32 (T, F) at 25 Hz.

    Args:
        output: dict with encoded_audio (1, n, F) at 50 Hz, and audio_samples, the number of samples at 16 kHz.
        frames: T, default from audio_samples.

    Raises UserError for something else, for several clips at once, and where the encoder did not read to the end of
    the audio, as Whisper does after 30 s.
    """
    encoded = output.get("encoded_audio") if isinstance(output, Mapping) else None
    if not isinstance(encoded, Tensor) or encoded.ndim != 3 or not encoded.shape[1]:
        raise UserError("The audio encoder's output holds no encoded audio. Connect an Audio Encoder Encode node.")
    if len(encoded) != 1:
        raise UserError(f"The audio encoder's output holds {len(encoded)} clips. Encode one at a time.")
    if frames is None:
        if "audio_samples" not in output:
            raise UserError("The audio encoder's output does not say how long the audio is. Update ComfyUI.")
        frames = feature_frames(int(output["audio_samples"]))
    vectors = encoded[0].detach().float().cpu()
    # The encoders lose up to two vectors at the end; Whisper fills up to 30 s with silence.
    if len(vectors) < PER_FRAME * frames - 3:
        raise UserError(
            f"The audio encoder read {len(vectors) / 50:.1f} s of {frames / 25:.1f} s of audio. "
            "Use a wav2vec 2.0 encoder, which reads audio of any length, or shorter audio."
        )
    return to_frames(vectors, frames)
