"""The gate of an evaluation as a JUnit file, which CI systems show check by check."""

from __future__ import annotations

from xml.etree import ElementTree

from pipeline.evaluation.result import Check, Evaluation
from pipeline.evaluation.wording import as_utc
from pipeline.output.terminal import plain

SUITE = "evaluation"


def junit_xml(evaluation: Evaluation) -> str:
    """XML text: one test suite with a test case for every check of the gate.

    A reason of the verdict that belongs to no check is a case of its own. So the file fails exactly when the verdict
    does. Warnings are the output of the suite.
    """
    verdict = evaluation.verdict
    known = {check.failure for check in verdict.checks}
    others = [
        Check("gate", f"reason {place}", text) for place, text in enumerate(verdict.failures, 1) if text not in known
    ]
    checks = [*verdict.checks, *others] or [Check("gate", "all", None)]
    figures = {
        "name": plain(evaluation.evaluation),
        "tests": str(len(checks)),
        "failures": str(sum(check.failure is not None for check in checks)),
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }
    root = ElementTree.Element("testsuites", figures | {"name": SUITE})
    suite = ElementTree.SubElement(
        root, "testsuite", figures | {"timestamp": as_utc(evaluation.evaluated_at).strftime("%Y-%m-%dT%H:%M:%S")}
    )
    properties = ElementTree.SubElement(suite, "properties")
    about = {**evaluation.about, **({"baseline": evaluation.baseline} if evaluation.baseline else {})}
    for name, value in about.items():
        ElementTree.SubElement(properties, "property", name=plain(name), value=plain(value))
    for check in checks:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{SUITE}.{check.gate}", name=plain(check.subject), time="0"
        )
        if check.failure is not None:
            text = plain(check.failure)
            ElementTree.SubElement(case, "failure", message=text, type=check.gate).text = text
    if verdict.warnings:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(f"warning: {plain(w)}" for w in verdict.warnings)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
