"""From labels to training sets and subtitles: one small file per format."""
