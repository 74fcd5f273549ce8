"""What docs/reliability.md names as the test of a promise is there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "reliability.md").read_text()
RULES = 13
"""Of "Rules for a consumer": rows of the table of artifacts."""


def test_every_test_it_names_is_there() -> None:
    code = "".join(
        file.read_text()
        for room in ("tests", "integration")
        for file in (REPOSITORY / room).rglob("*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 50
    assert {name for name in named if f"def {name}(" not in code} == set()


def test_every_file_it_names_is_there() -> None:
    named = set(
        re.findall(r"`((?:tests|integration|config|snapshotter)/[\w/.-]+\.\w+|conftest\.py)`", PAGE)
    )
    assert len(named) > 25
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()


def test_every_promise_has_a_test() -> None:
    tables = re.findall(r"^\|.*(?:\n\|.*)+", PAGE, re.MULTILINE)
    tested = [table for table in tables if re.match(r"\|.*\btest\b", table)]
    assert len(tested) >= 5
    for table in tested:
        for row in table.splitlines()[2:]:
            assert re.search(r"`[\w/.]*test_\w+|the same", row), row


def test_every_rule_for_artifacts_has_a_row() -> None:
    table = PAGE.partition("| an artifact has |")[2].partition("\n\n")[0]
    assert len(table.splitlines()) - 2 == RULES
