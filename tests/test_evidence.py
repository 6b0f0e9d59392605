"""The evidence: every number and name of a playbook stands in a claim with its source."""

from __future__ import annotations

import datetime

import pytest

import search
from maintain import evidence

REFERENCES = evidence.all_references()
FILES = [search.scope_name(path) for path in search.csv_files(search.DATA) if path not in search.TABLES]


def test_each_file_has_a_ledger_in_which_each_row_has_claims() -> None:
    assert set(FILES) == set(evidence.ledgers())
    assert {claim[0] for name in FILES for claim in evidence.ledger(name)} == REFERENCES


@pytest.mark.parametrize("name", evidence.ledgers())
def test_every_number_and_name_is_claimed_and_every_claim_has_its_source(name: str) -> None:
    assert list(evidence.faults(name, REFERENCES)) == []


@pytest.mark.parametrize("name", evidence.ledgers())
def test_a_ledger_is_sorted_and_its_days_are_days(name: str) -> None:
    lines = evidence.ledger(name)
    assert lines == sorted(lines)
    for line in lines:
        assert datetime.date.fromisoformat(line[3]) <= datetime.date.today()


def test_a_number_that_changes_loses_its_claim() -> None:
    row = {
        "Name": "x",
        "Steps": "1. Set `lock_timeout` to 250 ms, see `api/webhooks`.\n   ```sql\n   SELECT 77;\n   ```",
    }
    assert list(evidence.wanted(row, {"api/webhooks"})) == ["lock_timeout", "250"]
    assert evidence.plain("waits 1,000 `ms`") == "waits 1000 ms"
