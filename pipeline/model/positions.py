"""How audio becomes positions of Whisper's encoder, and how many there are at most. Imports no torch."""

from __future__ import annotations

from pipeline.schemas import SAMPLE_RATE

HOP = 160  # samples from one mel frame to the next: 10 ms
FRAMES_PER_SECOND = SAMPLE_RATE // HOP  # 100
POSITIONS_PER_SECOND = FRAMES_PER_SECOND // 2  # 50: the encoder's second convolution has a stride of 2
MAX_WINDOW_SECONDS = 30  # Whisper's own window
MAX_POSITIONS = MAX_WINDOW_SECONDS * POSITIONS_PER_SECOND  # 1500
