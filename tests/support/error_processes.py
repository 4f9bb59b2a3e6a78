"""Made-up errors of two recognisers on the same speech: speakers have their own error rates, most errors are shared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATE = 0.08
SHARED = 0.6  # of the words: both systems err on the same ones
CONCENTRATION = 40  # of a speaker's rate: 0.08 +- 0.042


@dataclass(frozen=True, slots=True)
class Errors:
    """[repetitions, speakers] each: errors of both systems, words."""

    new: np.ndarray
    old: np.ndarray
    words: np.ndarray

    def one(self, repetition: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.new[repetition], self.old[repetition], self.words[repetition]


def beta_binomial(
    repetitions: int, speakers: int, words: int, *, lost: float = 0.0, harder: float = 0.0, seed: int
) -> Errors:
    """Speakers have 0.4 to 1.6 times `words`. Both systems have a true rate of RATE, the new one more.

    lost: rate of words that the new one loses in addition, everywhere alike. harder: rate by which it is worse in the
    mean over speakers, who differ the more the higher their rate.
    """
    random = np.random.default_rng(seed)
    shape = (repetitions, speakers)
    words_RS = random.integers(max(1, words * 2 // 5), words * 8 // 5 + 1, shape)

    def rates(mean: float) -> np.ndarray:
        return random.beta(mean * CONCENTRATION, (1 - mean) * CONCENTRATION, shape)

    same = random.binomial(words_RS, SHARED)
    both = random.binomial(same, rates(RATE))
    new, old = (random.binomial(words_RS - same, rates(mean)) for mean in (RATE + harder / (1 - SHARED), RATE))
    lost_RS = random.binomial(words_RS - both - new, lost / (1 - RATE))
    return Errors(both + new + lost_RS, both + old, words_RS)
