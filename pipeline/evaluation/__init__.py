"""Error rates that can be trusted: corpora, normalisers, counts, comparison with a baseline, history, report."""
