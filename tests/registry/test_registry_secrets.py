"""What must not be in a message."""

from __future__ import annotations

import pytest

from snapshotter.registry.errors import RegistryError
from snapshotter.registry.secrets import remember, remember_location, scrub


def test_what_was_sent_to_prove_who_we_are_is_cut_out() -> None:
    remember("hunter2-the-password", None, "", "short")
    text = "401: hunter2-the-password is wrong, and short is nothing"
    assert scrub(text) == "401: [removed] is wrong, and short is nothing"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("got Bearer abcdef.ghijkl-123", "got Bearer [removed]"),
        ("got basic dXNlcjpwYXNzd29yZA==", "got basic [removed]"),
        ("at https://s3.example/b?X-Amz-Signature=0a1b&x=y", "at https://s3.example/b?[removed]"),
        ("at https://user:pass@r.example/v2", "at https://r.example/v2"),
        ("is it one? see https://r.example/v2", "is it one? see https://r.example/v2"),
    ],
)
def test_what_looks_like_a_secret_is_cut_out(text: str, expected: str) -> None:
    assert scrub(text) == expected


def test_the_signature_of_a_location_is_remembered_and_nothing_else_of_it() -> None:
    remember_location("https://s3.example/b?X-Amz-Signature=0a1b2c3d4e&partNumber=1234567")
    assert scrub("0a1b2c3d4e and 1234567") == "[removed] and 1234567"


def test_many_redirects_do_not_let_the_password_out() -> None:
    remember("kept-password")
    for number in range(5000):
        remember_location(f"https://s3.example/b?sig=signature-{number}")
    assert scrub("kept-password signature-4999") == "[removed] [removed]"


def test_every_error_of_a_registry_is_without() -> None:
    remember("planted-in-an-error")
    assert str(RegistryError("it said planted-in-an-error")) == "it said [removed]"
