"""A local page to search the transcripts of an output and to listen to them."""
