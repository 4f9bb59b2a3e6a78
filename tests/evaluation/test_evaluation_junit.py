"""junit: a file that CI systems read, and that fails exactly when the gate is closed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.compare import verdict
from pipeline.evaluation.junit import junit_xml
from pipeline.evaluation.result import Check, Verdict
from pipeline.evaluation.settings import GateConfig
from tests.support.evaluated import comparison, made_up_evaluation, made_up_rates, made_up_rows

NIGHT = made_up_evaluation(made_up_rows(per_language=5))


def suite(of: Verdict) -> ElementTree.Element:
    root = ElementTree.fromstring(junit_xml(replace(NIGHT, verdict=of)).encode())
    assert root.tag == "testsuites"
    (only,) = root
    assert only.tag == "testsuite"
    return only


def test_every_check_is_a_case_and_those_that_failed_say_why() -> None:
    checks = [
        Check("regression", "en", None),
        Check("regression", "de", "de: worse"),
        Check("ceiling", "de", None),
        Check("coverage", "fleurs de", "fleurs de: half of it"),
    ]
    found = suite(Verdict(("de: worse", "fleurs de: half of it"), ("en: close",), checks))
    assert {name: found.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "errors": "0",
        "skipped": "0",
    }
    cases = [(case.get("classname"), case.get("name"), case.find("failure")) for case in found.iter("testcase")]
    assert [case[:2] for case in cases] == [
        ("evaluation.regression", "en"),
        ("evaluation.regression", "de"),
        ("evaluation.ceiling", "de"),
        ("evaluation.coverage", "fleurs de"),
    ]
    failures = {name: failure.get("message") for _, name, failure in cases if failure is not None}
    assert failures == {"de": "de: worse", "fleurs de": "fleurs de: half of it"}
    assert found.findtext("system-out") == "warning: en: close"


def test_the_verdict_of_the_gate_names_every_check() -> None:
    rows = made_up_rows()
    gate = GateConfig(ceilings={"en": 0.05, "de": 0.9, "fr": 0.5}, min_coverage=0.9)
    judged = verdict([comparison("en"), comparison("de", 0.02, regressed=True)], made_up_rates(rows), gate)
    found = {
        (case.get("classname"), case.get("name")): case.find("failure") is not None
        for case in suite(judged).iter("testcase")
    }
    assert found == {
        ("evaluation.regression", "en"): False,
        ("evaluation.regression", "de"): True,
        ("evaluation.ceiling", "en"): True,
        ("evaluation.ceiling", "de"): False,
        ("evaluation.ceiling", "fr"): True,
        ("evaluation.coverage", "test-clean en"): False,
        ("evaluation.coverage", "fleurs de"): False,
        ("evaluation.coverage", "fleurs hi"): False,
        ("evaluation.coverage", "fleurs zh"): False,
    }
    assert len(judged.failures) == sum(found.values())


def test_about_and_time_are_there() -> None:
    found = suite(Verdict())
    properties = {one.get("name"): one.get("value") for one in found.iter("property")}
    assert properties == {**NIGHT.about, "baseline": NIGHT.baseline}
    assert found.get("timestamp") == "2026-11-25T03:00:00"
    assert found.get("name") == NIGHT.evaluation


@pytest.mark.parametrize(
    ("judged", "tests", "failures"),
    [
        (Verdict(), "1", "0"),
        (Verdict(("no set at all",)), "1", "1"),
        (Verdict(("a", "b"), (), [Check("regression", "de", "a")]), "2", "2"),
    ],
)
def test_a_reason_without_a_check_is_a_case_of_its_own(judged: Verdict, tests: str, failures: str) -> None:
    found = suite(judged)
    assert (found.get("tests"), found.get("failures")) == (tests, failures)
    assert len(list(found.iter("failure"))) == int(failures)


@given(st.text(), st.text())
def test_any_text_makes_a_file_that_can_be_read(reason: str, subject: str) -> None:
    found = suite(Verdict((reason,), (reason,), [Check("regression", subject, reason)]))
    assert found.get("failures") == "1"
