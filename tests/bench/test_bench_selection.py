from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from snapshotter.bench.cases import CASES, select
from snapshotter.bench.cases.readers import missing
from snapshotter.bench.errors import BenchError
from snapshotter.bench.measures import MEASURES, format_rtt, format_value
from snapshotter.cli.main import cli


def test_without_names_every_case_is_run() -> None:
    assert select([]) == list(CASES)


def test_named_cases_run_in_their_usual_order() -> None:
    assert [case.name for case in select(["warm", "tree"])] == ["tree", "warm"]


def test_an_unknown_case_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BenchError, match=r"there is no case 'wram': did you mean warm\?"):
        select(["wram"])


def test_the_list_shows_what_every_case_is_measured_against() -> None:
    result = CliRunner().invoke(cli, ["bench", "--list"])
    assert result.exit_code == 0
    for case in CASES:
        assert case.name in result.output


def test_the_documentation_explains_every_case() -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert [case.name for case in CASES if f"`{case.name}`" not in text] == []


def test_round_trips_are_milliseconds() -> None:
    result = CliRunner().invoke(cli, ["bench", "--list", "--rtt", "0,20ms,100"])
    assert result.exit_code == 0


@pytest.mark.parametrize("rtts", ["fast", "20s", "1,,2"])
def test_a_round_trip_that_is_no_number_is_refused(rtts: str) -> None:
    result = CliRunner().invoke(cli, ["bench", "--list", "--rtt", rtts])
    assert result.exit_code == 2


def test_a_library_that_is_not_there_is_found_missing() -> None:
    assert missing(["json", "no_such_library", "no_such.module"]) == [
        "no_such_library",
        "no_such.module",
    ]


def test_every_measure_can_be_said() -> None:
    for measure in MEASURES.values():
        assert "{" not in measure.phrase(1.5)


def test_numbers_are_written_for_people() -> None:
    assert format_value(0.00123, "s") == "1.23 ms"
    assert format_value(12345, "1") == "12,345"
    assert format_value(float("nan"), "x") == "-"
    assert format_rtt(0.02) == "20 ms"
