"""The Ray Data chain and what keeps it alive."""
