from __future__ import annotations

from pathlib import Path

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.documents import Documents
from snapshotter.cache.held import held

_DIGEST = digest_of(b"{}")


def test_names_of_a_document_are_kept_beside_it(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    assert documents.names(_DIGEST) == ()
    documents.put(_DIGEST, b"{}")
    for name in ("one/a", "two/b", "one/a"):
        documents.name(_DIGEST, name)
    assert Documents(tmp_path).names(_DIGEST) == ("one/a", "two/b")
    assert documents.digests() == [_DIGEST]


def test_of_many_names_the_last_are_kept(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    documents.put(_DIGEST, b"{}")
    for number in range(40):
        documents.name(_DIGEST, f"name/{number}")
    assert documents.names(_DIGEST)[-1] == "name/39"
    assert len(documents.names(_DIGEST)) == 16


def test_documents_that_are_no_models_are_none(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    documents.put(_DIGEST, b"{}")
    assert list(held(documents, lambda _: 0)) == []
