from __future__ import annotations

import io
import tarfile

import pytest
from artifact_samples import archive, index, index_stream
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact import tar as tar_module
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.tar import TarEntry, TarIndex, Want, index_tar

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "directory/" * 12 + "größe-" + "x" * 120


def member(name: str = "a", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def header(info: tarfile.TarInfo, format: int = tarfile.USTAR_FORMAT) -> bytes:
    return info.tobuf(format)


def summed(block: bytearray) -> bytes:
    """The header with its checksum made right again."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**records: str | bytes) -> bytes:
    """A pax header by hand, with records tarfile would never write."""
    body = b""
    for key, value in records.items():
        raw = value if isinstance(value, bytes) else value.encode()
        record = b" " + key.replace("__", ".").encode() + b"=" + raw + b"\n"
        length = len(record) + len(str(len(record)))
        length = len(record) + len(str(length))
        body += str(length).encode() + record
    info = member("pax", size=len(body), type=tarfile.XHDTYPE)
    return header(info) + body + bytes(-len(body) % 512)


END = bytes(1024)


@pytest.mark.parametrize("format", FORMATS)
def test_files_are_found_where_tarfile_finds_them(format: int) -> None:
    names = ["config.json", "weights/a.bin", "empty"]
    if format != tarfile.USTAR_FORMAT:
        names.append(LONG)
    data = archive({"weights/": b""} | {n: n.encode() * 100 for n in names}, format)
    found = index(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as reference:
        expected = {m.name: (m.offset_data, m.size) for m in reference if m.isreg()}
    assert {e.path: (e.offset, e.size) for e in found.entries if not e.is_directory} == expected
    assert [e.path for e in found.entries if e.is_directory] == ["weights"]
    for e in found.entries:
        if not e.is_directory:
            assert data[e.offset : e.offset + e.size] == e.path.encode() * 100


@pytest.mark.parametrize("format", FORMATS)
@examples(40)
@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=48, max_codepoint=0x2FF), min_size=1, max_size=150)
        .filter(lambda name: name.isprintable() and "\\" not in name)
        .filter(lambda name: len(name.encode()) < 250),
        st.binary(max_size=2000),
        max_size=8,
    )
)
def test_whatever_tarfile_writes_is_read_back(format: int, files: dict[str, bytes]) -> None:
    if format == tarfile.USTAR_FORMAT:
        files = {name[:60]: content for name, content in files.items() if name.isascii()}
    data = archive(files, format)
    assert {e.path: data[e.offset : e.offset + e.size] for e in index(data).entries} == files


def test_modes_and_times_are_read() -> None:
    info = member(mode=0o4755, mtime=1.5)
    entry = index(archive({"run.sh": info})).entries[0]
    assert (entry.mode, entry.mtime_ns) == (0o4755, 1_500_000_000)


def test_a_file_over_8_gib_has_its_size_in_base_256_or_in_a_pax_header() -> None:
    size = 9 << 30
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        start = header(member("big.bin", size=size), format)
        total = len(start) + size + 1024
        steps = index_tar(total)
        want = next(steps)
        sent = start + bytes(want.useful - len(start))
        assert steps.send(sent) == Want(len(start) + size, 512, 1024)
        with pytest.raises(StopIteration) as done:
            steps.send(END)
        assert done.value.value == TarIndex((TarEntry("big.bin", len(start), size, 0o644, 0),))


def test_only_headers_are_read_of_a_large_file() -> None:
    wants: list[Want] = []
    index(archive({"a.bin": bytes(3 << 20), "b.bin": bytes(3 << 20)}), wants)
    assert len(wants) == 3
    assert all(want.useful <= 4096 for want in wants[:2])


def test_an_archive_of_many_small_files_is_read_in_few_large_steps() -> None:
    wants: list[Want] = []
    found = index(archive({f"{n}.txt": bytes(700) for n in range(3000)}), wants)
    assert len(found.entries) == 3000
    assert len(wants) < 20
    assert max(want.useful for want in wants) <= 1 << 20


def test_pax_path_and_size_override_the_header() -> None:
    body = b"hello"
    data = pax(path="dir/real name", size="5") + header(member("short", size=0)) + body
    found = index(data + bytes(507) + END)
    assert found.entries == (TarEntry("dir/real name", 1536, 5, 0o644, 0),)


def test_an_override_counts_for_the_next_entry_only() -> None:
    data = pax(path="first") + header(member("x")) + header(member("second")) + END
    assert [entry.path for entry in index(data).entries] == ["first", "second"]


def test_the_root_and_leading_dots_of_tar_c_dir_are_taken_off() -> None:
    data = archive({"./": b"", "./sub/": b"", "./sub/a": b"1"})
    assert [entry.path for entry in index(data).entries] == ["sub", "sub/a"]


def test_a_v7_archive_is_read() -> None:
    block = bytearray(header(member("old/name", size=3)))
    block[257:512] = bytes(255)
    data = summed(block) + b"abc" + bytes(509) + END
    assert index(data).entries[0].path == "old/name"


def test_a_ustar_prefix_is_joined() -> None:
    path = "p" * 60 + "/" + "n" * 90
    data = archive({path: b"x"}, tarfile.USTAR_FORMAT)
    assert index(data).entries[0].path == path


def test_directories_have_no_data_whatever_their_size_field_says() -> None:
    data = header(member("d", type=tarfile.DIRTYPE, size=4096)) + header(member("a")) + END
    assert [entry.path for entry in index(data).entries] == ["d", "a"]


def test_whiteout_names_are_plain_files() -> None:
    assert index(archive({"d/.wh.a": b"", ".wh..wh..opq": b""})).entries[0].path == "d/.wh.a"


@pytest.mark.parametrize("data", [b"", END, bytes(512), bytes(10240)])
def test_an_empty_archive_has_no_entries(data: bytes) -> None:
    assert index(data) == TarIndex(())


def test_an_archive_without_its_end_blocks_is_read() -> None:
    assert len(index(header(member("a", size=512)) + bytes(512)).entries) == 1


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"M", "multi-volume"),
        (b"Z", "unknown type"),
    ],
)
def test_devices_and_the_like_are_refused(kind: bytes, what: str) -> None:
    block = bytearray(header(member("evil")))
    block[156:157] = kind
    with pytest.raises(ArtifactError, match=f"'evil' is .*{what}"):
        index(summed(block) + END)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#" * 2048, "checksum"),
        (header(member("a", size=10)) + b"abc", "truncated"),
        (header(member("a"))[:300], "truncated"),
        (header(member("a")) + END[:100], "truncated"),
        (pax(path="a"), "truncated"),
        (header(member("x", size=900, type=tarfile.XHDTYPE)) + bytes(512), "truncated"),
        (pax(path=b"a\xff") + header(member()) + END, "UTF-8"),
        (pax(size="-1") + header(member()) + END, "no size"),
        (pax(size="9" * 19) + header(member()) + END, "no size"),
        (pax(size="9" * 5000) + header(member()) + END, "no size"),
        (pax(mtime="now") + header(member()) + END, "no time"),
        (pax(GNU__sparse__major="1") + header(member()) + END, "sparse"),
        (header(member("x", size=512, type=tarfile.XHDTYPE)) + b"9 a=b\n  " * 64, "malformed"),
        (header(member("x", size=5, type=tarfile.XHDTYPE)) + b"5 ab\n" + END, "malformed"),
        (header(member("a")) + bytes(512) + header(member("b")), "after a block of zeros"),
        (header(member("x", size=2 << 20, type=tarfile.XHDTYPE)) + bytes(2 << 20), "too large"),
    ],
)  # fmt: skip
def test_malformed_archives_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        index(data)


def link(name: str, target: str, kind: bytes, format: int = tarfile.PAX_FORMAT) -> bytes:
    return header(member(name, type=kind, linkname=target), format)


@pytest.mark.parametrize("format", FORMATS)
def test_links_are_listed_with_where_they_point_to(format: int) -> None:
    target = "a" if format == tarfile.USTAR_FORMAT else LONG
    data = (
        header(member("a"))
        + link("soft", target, tarfile.SYMTYPE, format)
        + link("hard", "./a", tarfile.LNKTYPE, format)
        + END
    )
    _, soft, hard = index(data).entries
    assert (soft.symlink, soft.hardlink, soft.size) == (target, "", 0)
    assert (hard.symlink, hard.hardlink, hard.is_regular) == ("", "a", False)


def test_a_link_to_nothing_is_refused() -> None:
    with pytest.raises(ArtifactError, match="has no target"):
        index(link("soft", "", tarfile.SYMTYPE) + END)


def test_hops_that_are_not_far_are_read_through_once_there_are_many() -> None:
    wants: list[Want] = []
    data = archive({f"{n}.bin": bytes(300_000) for n in range(200)})
    assert len(index(data, wants).entries) == 200
    assert len(wants) < 200 * 0.6
    assert all(want.useful <= 4096 for want in wants[:10])


def test_long_hops_read_nothing_but_headers_however_many() -> None:
    # Addresses only: four terabytes of a file's bytes need not exist.
    steps = index_tar(None)
    size = 2 << 30
    block, offset = header(member("big", size=size)), 0
    want = next(steps)
    for _ in range(2000):
        assert (want.offset, want.length) == (offset, 512)
        assert want.useful <= 4096
        offset += 512 + size
        want = steps.send(block)
    with pytest.raises(StopIteration):
        steps.send(b"")


def test_a_stream_is_indexed_like_the_archive_it_is() -> None:
    data = archive({"d/": b"", "d/" + "n" * 200: b"x" * 600, "b": b"y" * 3000})
    assert index_stream(data) == index(data)
    assert index_stream(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)) == index(data)
    assert index_stream(b"") == TarIndex(())


def test_entries_are_found_as_soon_as_their_headers_were_read() -> None:
    found: list[TarEntry] = []
    steps = index_tar(None, found=found)
    next(steps)
    want = steps.send(header(member("a", size=5000)))
    assert [(entry.path, entry.size) for entry in found] == [("a", 5000)]
    assert want.offset == 512 + 5120


def test_a_stream_that_breaks_off_is_no_smaller_archive() -> None:
    data = header(member("a", size=5000))
    with pytest.raises(ArtifactError, match="truncated"):
        index_stream(data[:100])
    assert index_stream(data + bytes(100)).end == 5512  # which whoever knows the size compares


def test_a_global_path_is_refused_because_readers_disagree_on_it() -> None:
    block = bytearray(pax(path="everything")[:512])
    block[156:157] = b"g"
    data = summed(block) + pax(path="everything")[512:]
    with pytest.raises(ArtifactError, match="global path"):
        index(data + header(member()) + END)


def test_a_global_comment_as_git_writes_it_is_ignored() -> None:
    block = bytearray(pax(comment="0123")[:512])
    block[156:157] = b"g"
    data = summed(block) + pax(comment="0123")[512:] + header(member("a")) + END
    assert index(data).entries[0].path == "a"


def test_negative_sizes_are_refused() -> None:
    block = bytearray(header(member("a")))
    block[124:136] = b"\xff" * 12
    with pytest.raises(ArtifactError, match="negative size"):
        index(summed(block) + END)


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "ENTRY_LIMIT", 100)
    with pytest.raises(ArtifactError, match="more than 100 entries"):
        index(header(member("a")) * 101 + END)


def test_too_many_bytes_of_extended_headers_are_refused() -> None:
    one = pax(comment="x" * ((1 << 20) - 100))
    with pytest.raises(ArtifactError, match="too large"):
        index((one + header(member("a"))) * 9 + END)


def test_bytes_that_came_short_are_an_error_not_a_smaller_archive() -> None:
    steps = index_tar(4096, "layer 1 of 1 (sha256:00)")
    next(steps)
    with pytest.raises(
        ArtifactError, match=r"^layer 1 of 1 \(sha256:00\): 12 bytes came for 512 at 0"
    ):
        steps.send(b"123456789012")


@given(st.binary(max_size=4096))
def test_any_bytes_are_indexed_or_refused(data: bytes) -> None:
    for read in (index, index_stream):
        try:
            read(data)
        except ArtifactError:
            pass


SAMPLE = archive({"d/": b"", "d/" + "n" * 200: b"x" * 600, "b": b"y" * 3000})


@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=12))),
    st.integers(0, len(SAMPLE)),
    st.booleans(),
)
def test_a_damaged_archive_is_indexed_or_refused(
    damages: list[tuple[int, bytes]], end: int, repaired: bool
) -> None:
    data = bytearray(SAMPLE)
    for offset, junk in damages:
        data[offset : offset + len(junk)] = junk
        start = offset // 512 * 512
        if repaired and len(data) >= start + 512:
            data[start : start + 512] = summed(data[start : start + 512])
    try:
        entries = index(bytes(data[:end])).entries
    except ArtifactError:
        return
    assert all(e.offset >= 512 and e.offset + e.size <= end for e in entries)
