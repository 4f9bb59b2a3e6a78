"""Make confidences mean what they say: python -m jobs.calibrate sets.NAME.output=ADDRESS output.uri=FOLDER ...

Fits a calibrator on transcripts with references (outputs of jobs.transcribe or jobs.evaluate, all of one model), and
writes calibrator.json, report.json and report.html. jobs.transcribe model.calibrator=FILE uses it. With --apply, an
output that exists gets the confidences of a calibrator: python -m jobs.calibrate --apply calibrator=FILE output.uri=OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs import cli
from pipeline.calibration.settings import CalibrateConfig


def run(config: CalibrateConfig) -> int:
    """Fit, and print what raw and calibrated confidences are worth; returns 0."""
    from pipeline.calibration.calibrate import run_calibration
    from pipeline.calibration.report import markdown_table

    calibration = run_calibration(config)
    print(markdown_table(calibration.figures))
    print(f"{config.output.uri.rstrip('/')}/calibrator.json")
    print(f"{config.output.uri.rstrip('/')}/report.html")
    return 0


def apply(config: CalibrateConfig) -> int:
    """Publish the output `output.uri` with the confidences of `calibrator`; nothing is recognised again."""
    from pipeline.output.calibrator import read_file
    from pipeline.run import recalibrate
    from pipeline.storage.base import open_storage

    calibrator = read_file(Path(config.calibrator), "calibrator") if config.calibrator else None
    recalibrate(open_storage(config.output.uri, create=False, config=config.storage), calibrator)
    print(config.output.uri)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("calibrate", CalibrateConfig, run, __doc__, arguments, instead={"--apply": apply})


if __name__ == "__main__":
    sys.exit(main())
