#!/usr/bin/env bash
# Makes assets/voice.wav with flite (Debian package `flite`), voice "rms": 16 kHz mono speech that nobody spoke.
set -euo pipefail
text="Hello! I am a person who does not exist. Give me one picture and one voice, and I will say whatever you like."
flite -voice rms -t "$text" -o "$(dirname "$0")/../assets/voice.wav"
