from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshotter.artifact.categories import category_of
from snapshotter.artifact.errors import PatternError
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.patterns import parse_pattern
from snapshotter.artifact.selection import Selection

FILES = (
    "config.json",
    "model.safetensors",
    "onnx/model.onnx",
    "onnx/int8/model.onnx",
    "original/consolidated.pth",
    "original/deep/params.json",
    "pytorch_model.bin",
    "shards/pytorch_model.bin",
    "tokenizer [1].json",
    "größe.txt",
)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*.bin", {"pytorch_model.bin", "shards/pytorch_model.bin"}),
        ("/*.bin", {"pytorch_model.bin"}),
        ("./pytorch_model.bin", {"pytorch_model.bin"}),
        ("**/*.onnx", {"onnx/model.onnx", "onnx/int8/model.onnx"}),
        ("*/model.onnx", {"onnx/model.onnx"}),
        ("onnx/**/model.onnx", {"onnx/model.onnx", "onnx/int8/model.onnx"}),
        ("onnx/*/*", {"onnx/int8/model.onnx"}),
        ("original/*", {"original/consolidated.pth", "original/deep/params.json"}),
        ("original/**", {"original/consolidated.pth", "original/deep/params.json"}),
        ("original", {"original/consolidated.pth", "original/deep/params.json"}),
        ("deep/", {"original/deep/params.json"}),
        ("config.json/", set()),
        ("config.json", {"config.json"}),
        ("?onfig.json", {"config.json"}),
        ("[a-c]onfig.json", {"config.json"}),
        ("[!a-c]onfig.json", set()),
        ("[]c]onfig.json", {"config.json"}),
        (r"tokenizer \[1\].json", {"tokenizer [1].json"}),
        ("tokenizer [[]1[]].json", {"tokenizer [1].json"}),
        ("gr*e.txt", {"größe.txt"}),
        ("CONFIG.json", set()),
        ("*", set(FILES)),
        ("**", set(FILES)),
        ("*o*.*s*o*", {"config.json", "model.safetensors", "tokenizer [1].json"}),
    ],
)
def test_patterns_choose_files_as_gitignore_does(pattern: str, chosen: set[str]) -> None:
    matching = {path for path in FILES if parse_pattern(pattern).matches(path)}
    assert matching == chosen


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "names nothing"),
        ("!", "names nothing"),
        ("/", "names nothing"),
        ("a/../b", "component '..'"),
        ("a//b", "component ''"),
        ("/./a", "component '.'"),
        ("[ab", "has no ]"),
        ("a[z-a]b", "no set of characters"),
        ("a\\", "ends with a backslash"),
        ("a\nb", "control character"),
        ("\ud800", "control character"),
        ("x" * 5000, "longer than"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused_with_a_reason(pattern: str, why: str) -> None:
    with pytest.raises(PatternError) as raised:
        Selection(exclude=(pattern,))
    assert why in str(raised.value)


@given(st.text(alphabet="ab*?/![]^-\\.", max_size=12), st.text(alphabet="ab/.", max_size=8))
def test_any_pattern_is_used_or_refused(pattern: str, path: str) -> None:
    try:
        parse_pattern(pattern).matches(path)
    except PatternError:
        pass


_NAMES = st.text(alphabet="ab", min_size=1, max_size=3)
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_PIECES = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "ab"])
_COMPONENTS = st.one_of(st.just("**"), st.lists(_PIECES, min_size=1, max_size=3).map("".join))
_PATTERNS = st.tuples(
    st.sampled_from(["", "/"]),
    st.lists(_COMPONENTS, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "/"]),
).map("".join)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    git = shutil.which("git")
    assert git is not None
    directory = tmp_path_factory.mktemp("git")
    subprocess.run([git, "init", "-q", directory], check=True)
    return directory


@settings(max_examples=150, deadline=None)
@given(_PATTERNS.filter(lambda pattern: "***" not in pattern), _PATHS)
def test_git_itself_agrees(repository: Path, pattern: str, path: str) -> None:
    (repository / ".gitignore").write_text(pattern + "\n")
    asked = subprocess.run(
        ["git", "-C", repository, "check-ignore", "-q", "--no-index", path], check=False
    )
    assert parse_pattern(pattern).matches(path) == (asked.returncode == 0)


def test_many_stars_take_no_time_worth_mentioning() -> None:
    pattern = parse_pattern("*a" * 60 + "b/" + "**/x/" * 100 + "y")
    assert not pattern.matches("a" * 250 + "/" + "x/" * 60 + "z")  # or for ever


@pytest.mark.parametrize(
    ("selection", "path", "category", "wanted"),
    [
        (Selection(), "a.bin", Category.WEIGHT, True),
        (Selection(include=("*.json",)), "a.bin", Category.WEIGHT, False),
        (Selection(include=("*.json",)), "a.json", Category.DOC, True),
        (Selection(include=("*.json", "!a.json")), "a.json", Category.DOC, False),
        (Selection(exclude=("*.model", "!tiktoken.model")), "tiktoken.model", Category.DOC, True),
        (Selection(exclude=("!tiktoken.model", "*.model")), "tiktoken.model", Category.DOC, False),
        (Selection(include=("*.json",), exclude=("a.*",)), "a.json", Category.DOC, False),
        (Selection(categories=frozenset({Category.DOC})), "a.bin", Category.WEIGHT, False),
        (Selection(categories=frozenset({Category.DOC})), "a.md", Category.DOC, True),
        (Selection(exclude_categories=frozenset({Category.WEIGHT})), "a", Category.WEIGHT, False),
        (
            Selection(exclude=("!a",), exclude_categories=frozenset({Category.WEIGHT})),
            "a",
            Category.WEIGHT,
            True,
        ),
    ],
)
def test_the_last_pattern_that_matches_counts_and_comes_before_categories(
    selection: Selection, path: str, category: Category, wanted: bool
) -> None:
    assert selection.selects(path, category) is wanted


def test_a_selection_of_everything_is_none() -> None:
    assert not Selection()
    assert Selection(include=("*",))


def test_patterns_that_choose_nothing_are_named() -> None:
    selection = Selection(include=("*.json", "*.bni", "!x"), exclude=("nothing",))
    assert selection.unused(["a.json", "b.bin"]) == ("*.bni",)


def test_weights_are_weights_whatever_their_layer_says() -> None:
    assert category_of("b/x.safetensors", 9, Category.WEIGHT_CONFIG) is Category.WEIGHT
    assert category_of("tokenizer.json", 9, Category.WEIGHT_CONFIG) is Category.WEIGHT_CONFIG
