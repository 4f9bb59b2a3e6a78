"""Why a segment is dropped: the value of the column `reason`, in the order in which it is decided."""

REASONS = {
    "no_text": "nothing was recognised",
    "damaged": "some of its recording was not heard",
    "duration": "the segment is too short or too long",
    "overflow": "the text had no room on the canvas",
    "repetition": "a phrase stands too often in a row",
    "character_rate": "too few or too many characters per second",
    "unique_words": "too few different words",
    "long_word": "a word has too many characters",
    "phrase": "a phrase that models write where nobody says it",
    "language": "the text is probably of another language",
    "second_model": "a second model has recognised something else",
    "duplicate_audio": "an earlier recording has the same audio",
    "no_threshold": "policy and calibration set say nothing of its language",
    "uncalibrated": "the calibrator cannot judge it, so its confidence is raw",
    "low_confidence": "its confidence is below the threshold of its language",
    "duplicate_text": "a kept label has nearly the same text",
    "speaker_cap": "there is enough of its speaker",
    "source_cap": "there is enough of its source",
}
