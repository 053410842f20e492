"""The result of an audit survives its way through a ConfigMap, and anything else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.core.audit_result import AuditResult, Fault

COUNTS = st.integers(0, 10**9)
SECONDS = st.floats(0, 1e10)
RESULTS = st.builds(
    AuditResult,
    SECONDS,
    SECONDS,
    COUNTS,
    COUNTS,
    COUNTS,
    st.dictionaries(st.sampled_from([kind.value for kind in Fault]), COUNTS),
)


@given(RESULTS)
def test_a_result_is_read_as_it_was_written(result: AuditResult) -> None:
    assert AuditResult.from_json(result.to_json()) == result


def test_what_a_later_release_adds_is_ignored() -> None:
    later = {**json.loads(AuditResult(1.0).to_json()), "more": 1, "findings": {"missing": 2, "new-kind": 3}}
    assert AuditResult.from_json(json.dumps(later)).findings == {"missing": 2}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"findings": {}}',
        AuditResult(1.0).to_json().replace("1.0", "true"),
        AuditResult(1.0).to_json().replace("1.0", "NaN"),
        AuditResult(1.0).to_json().replace("1.0", "-1"),
    ],
)
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own errors are ValueErrors with other texts
        AuditResult.from_json(text)
