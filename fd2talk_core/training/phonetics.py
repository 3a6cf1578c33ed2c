"""A coarse phone inventory for all languages, what each phone does with the mouth, and IPA and ARPAbet mapped to it."""

from __future__ import annotations

import numpy as np

# Articulation per class, 0..1: how open the jaw is, lips rounded and pushed forward, lips spread; lips closed, lower
# lip at the upper teeth, tongue tip at or between the teeth, tongue tip at the ridge behind them, back of the tongue
# raised; voice, air through the nose, frication, vowel, silence.
FEATURE_NAMES = (
    "jaw",
    "round",
    "spread",
    "bilabial",
    "labiodental",
    "dental",
    "alveolar",
    "velar",
    "voiced",
    "nasal",
    "fricative",
    "vowel",
    "silence",
)
# fmt: off
_TABLE: dict[str, tuple[float, ...]] = {
    #      jaw  rnd  spr  bil  lab  den  alv  vel  voi  nas  fri  vow  sil
    "sil": (0.0, 0.1, 0.1, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "p":   (0.1, 0.1, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0),
    "b":   (0.1, 0.1, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    "m":   (0.1, 0.1, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0),
    "β":   (0.2, 0.2, 0.1, 0.7, 0.1, 0.0, 0.0, 0.0, 0.9, 0.0, 0.3, 0.0, 0.0),
    "f":   (0.2, 0.1, 0.2, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0),
    "v":   (0.2, 0.1, 0.2, 0.1, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.0),
    "θ":   (0.2, 0.0, 0.3, 0.0, 0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0),
    "ð":   (0.2, 0.0, 0.3, 0.0, 0.0, 1.0, 0.1, 0.0, 1.0, 0.0, 0.4, 0.0, 0.0),
    "t":   (0.2, 0.1, 0.3, 0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0),
    "d":   (0.2, 0.1, 0.3, 0.0, 0.0, 0.3, 1.0, 0.0, 1.0, 0.0, 0.1, 0.0, 0.0),
    "s":   (0.1, 0.1, 0.5, 0.0, 0.0, 0.2, 0.9, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    "z":   (0.1, 0.1, 0.5, 0.0, 0.0, 0.2, 0.9, 0.0, 1.0, 0.0, 0.8, 0.0, 0.0),
    "ts":  (0.1, 0.1, 0.4, 0.0, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0, 0.8, 0.0, 0.0),
    "ʃ":   (0.1, 0.7, 0.0, 0.0, 0.0, 0.0, 0.6, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0),
    "ʒ":   (0.1, 0.7, 0.0, 0.0, 0.0, 0.0, 0.6, 0.1, 1.0, 0.0, 0.8, 0.0, 0.0),
    "tʃ":  (0.1, 0.7, 0.0, 0.0, 0.0, 0.0, 0.9, 0.1, 0.0, 0.0, 0.9, 0.0, 0.0),
    "dʒ":  (0.1, 0.7, 0.0, 0.0, 0.0, 0.0, 0.9, 0.1, 1.0, 0.0, 0.7, 0.0, 0.0),
    "n":   (0.2, 0.1, 0.3, 0.0, 0.0, 0.2, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0),
    "ɲ":   (0.2, 0.1, 0.4, 0.0, 0.0, 0.0, 0.5, 0.4, 1.0, 1.0, 0.0, 0.0, 0.0),
    "ŋ":   (0.3, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0),
    "l":   (0.3, 0.1, 0.2, 0.0, 0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.0, 0.1, 0.0),
    "ɹ":   (0.2, 0.6, 0.0, 0.0, 0.0, 0.0, 0.5, 0.2, 1.0, 0.0, 0.0, 0.3, 0.0),
    "ɾ":   (0.3, 0.1, 0.2, 0.0, 0.0, 0.1, 0.9, 0.0, 1.0, 0.0, 0.1, 0.1, 0.0),
    "ʁ":   (0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.7, 0.8, 0.0, 0.4, 0.0, 0.0),
    "j":   (0.2, 0.0, 0.7, 0.0, 0.0, 0.0, 0.2, 0.3, 1.0, 0.0, 0.0, 0.4, 0.0),
    "w":   (0.1, 1.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.6, 1.0, 0.0, 0.0, 0.4, 0.0),
    "k":   (0.3, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.2, 0.0, 0.0),
    "g":   (0.3, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 0.0, 0.0),
    "x":   (0.3, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.8, 0.1, 0.0, 0.8, 0.0, 0.0),
    "h":   (0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.0, 0.4, 0.2, 0.0),
    "i":   (0.2, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.2, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ɪ":   (0.3, 0.0, 0.7, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0, 1.0, 0.0),
    "e":   (0.4, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ɛ":   (0.6, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0),
    "æ":   (0.8, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0),
    "a":   (1.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ɑ":   (0.9, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ɔ":   (0.7, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0, 1.0, 0.0),
    "o":   (0.4, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ʊ":   (0.3, 0.7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 1.0, 0.0),
    "u":   (0.2, 1.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.4, 1.0, 0.0, 0.0, 1.0, 0.0),
    "y":   (0.2, 1.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.2, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ø":   (0.4, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0, 1.0, 0.0),
    "œ":   (0.6, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ɯ":   (0.3, 0.1, 0.4, 0.0, 0.0, 0.0, 0.0, 0.4, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ə":   (0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ɜ":   (0.4, 0.4, 0.1, 0.0, 0.0, 0.0, 0.1, 0.1, 1.0, 0.0, 0.0, 1.0, 0.0),
    "ʌ":   (0.7, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0),
}
# fmt: on
CLASSES = tuple(_TABLE)
INDEX = {name: index for index, name in enumerate(CLASSES)}
FEATURES = np.array(list(_TABLE.values()), np.float32)  # (K, F), see FEATURE_NAMES
SILENCE = INDEX["sil"]
# Their sound begins with a closed vocal tract.
STOPS = tuple(INDEX[name] for name in ("p", "b", "t", "d", "k", "g", "ts", "tʃ", "dʒ"))

# Keys are classes, values the IPA symbols that come down to them. Longer symbols win.
_IPA = {
    "p": "p pʰ", "b": "b ɓ", "m": "m ɱ", "β": "β ɸ", "f": "f", "v": "v ʋ", "θ": "θ", "ð": "ð",
    "t": "t ʈ t. ʔt", "d": "d ɖ ɗ d.", "s": "s", "z": "z", "ts": "ts dz",
    "ʃ": "ʃ ɕ ʂ s. ɧ sx ç̟", "ʒ": "ʒ ʑ ʐ z. r̝", "tʃ": "tʃ tɕ tʂ ts. r̝̊ c", "dʒ": "dʒ dʑ dz. ɖʐ ɟ",
    "n": "n ɳ n. ɴ", "ɲ": "ɲ", "ŋ": "ŋ", "l": "l ɫ ɭ ɬ ʎ l. ɺ", "ɹ": "ɹ ɻ", "ɾ": "r ɾ ɽ r.", "ʁ": "ʁ ʀ",
    "j": "j ʝ ɥ ʲ", "w": "w ʍ", "k": "k q", "g": "ɡ g ɢ ɣ ɰ", "x": "x χ ç", "h": "h ɦ ħ ʕ ʔ ʕʕ",
    "i": "i", "ɪ": "ɪ ᵻ i̪", "e": "e", "ɛ": "ɛ", "æ": "æ", "a": "a ä ɐ", "ɑ": "ɑ ɒ",
    "ɔ": "ɔ", "o": "o ɵ ɤ", "ʊ": "ʊ", "u": "u ʉ", "y": "y ʏ", "ø": "ø", "œ": "œ", "ɯ": "ɯ ɨ i. s.i. ɯᵝ",
    "ə": "ə ɘ", "ɜ": "ɜ ɚ ɝ ɜr ɞ", "ʌ": "ʌ",
}  # fmt: skip
_SYMBOLS = {symbol: name for name, symbols in _IPA.items() for symbol in symbols.split()}
_LONGEST = max(map(len, _SYMBOLS))

# ARPAbet as flite writes it.
_ARPABET = {
    "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "a ʊ", "ax": "ə", "ay": "a ɪ", "b": "b", "ch": "tʃ", "d": "d",
    "dh": "ð", "eh": "ɛ", "er": "ɜ", "ey": "e ɪ", "f": "f", "g": "g", "hh": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ",
    "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "o ʊ", "oy": "ɔ ɪ", "p": "p", "pau": "sil", "r": "ɹ",
    "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j", "z": "z",
    "zh": "ʒ", "ssil": "sil", "brth": "sil", "axr": "ɜ", "em": "m", "en": "n", "el": "l",
}  # fmt: skip


def classes_of_ipa(text: str) -> list[int]:
    """Classes of the symbols in an IPA string, e.g. "tʃ" -> [tʃ], "aɪ" -> [a, ɪ].

    Length, stress, tone and nasal marks and unknown symbols are dropped. A language mark such as "(en)" is nothing.
    """
    if text.startswith("("):
        return []
    found, at = [], 0
    while at < len(text):
        for size in range(min(_LONGEST, len(text) - at), 0, -1):
            name = _SYMBOLS.get(text[at : at + size])
            if name:
                if not found or found[-1] != INDEX[name]:
                    found.append(INDEX[name])
                break
        at += size
    # Aspiration and palatalisation colour a consonant and are no sounds of their own.
    coloured = text.endswith(("h", "ʰ", "ʱ", "ʲ"))
    if len(found) > 1 and coloured and CLASSES[found[-1]] in ("h", "j"):
        found.pop()
    return found


def classes_of_arpabet(name: str) -> list[int]:
    """Classes of one phone as flite names it; an unknown one gives an empty list."""
    return [INDEX[part] for part in _ARPABET.get(name, "").split()]
