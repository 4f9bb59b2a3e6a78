"""The command lines: `python -m jobs.NAME --config FILE section.key=value ...`, or `fullcanvas NAME ...`."""
