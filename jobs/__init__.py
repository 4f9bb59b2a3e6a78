"""The jobs: `python -m jobs.NAME --config FILE section.key=value ...`, thin over `pipeline`."""
