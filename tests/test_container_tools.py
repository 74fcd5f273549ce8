"""script/container-tools reads other suites of the machine's own distribution, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "script" / "container-tools"

DEBIAN_12 = """\
# deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - Official amd64]/ bookworm main
deb cdrom:[Debian GNU/Linux 12.5.0 _Bookworm_ - Official amd64]/ bookworm contrib main

deb http://deb.debian.example/debian/ bookworm main non-free-firmware # the mirror
deb-src http://deb.debian.example/debian/ bookworm main non-free-firmware
deb http://security.debian.example/debian-security bookworm-security main
deb http://deb.debian.example/debian/ bookworm-updates main
"""
DEBIAN_12_CLOUD = """\
Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates bookworm-backports
Components: main

Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian-security.list
Suites: bookworm-security
Components: main
"""
UBUNTU_22_04 = """\
# See http://help.ubuntu.example/community/UpgradeNotes for how to upgrade to
# newer versions of the distribution.
deb http://archive.ubuntu.example/ubuntu/ jammy main restricted
# deb-src http://archive.ubuntu.example/ubuntu/ jammy main restricted
deb http://archive.ubuntu.example/ubuntu/ jammy-updates main restricted
deb [arch=amd64 signed-by=/a.gpg] http://archive.ubuntu.example/ubuntu/ jammy universe
deb http://archive.ubuntu.example/ubuntu/ jammy-backports main restricted universe multiverse
deb http://security.ubuntu.example/ubuntu/ jammy-security main restricted
"""
UBUNTU_24_04 = """\
# See http://help.ubuntu.example/community/UpgradeNotes for how to upgrade to
# newer versions of the distribution.

## Ubuntu distribution repository
##
Types: deb
URIs: http://archive.ubuntu.example/ubuntu/
Suites: noble noble-updates noble-backports
Components: main universe restricted multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

## Ubuntu security updates. Aside from URIs and Suites,
## this should mirror your choices in the previous section.
Types: deb
URIs: http://security.ubuntu.example/ubuntu/
Suites: noble-security
Components: main universe restricted multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""


@pytest.fixture
def rewritten(tmp_path: Path):
    def rewrite(distribution: str, own: str, suite: str, **sources: str) -> list[str]:
        """The lines written for ``suite``, from files named ``sources.list`` and ``d/...``."""
        etc = tmp_path / "etc"
        (etc / "sources.list.d").mkdir(parents=True)
        for name, text in sources.items():
            stem, kind = name.rsplit("_", 1)
            place = etc if stem == "sources" else etc / "sources.list.d"
            (place / f"{stem}.{kind}").write_text(text)
        subprocess.run(
            [
                *("bash", "-c", 'source "$1"; SOURCES=$2; shift 2; entries_with_suite "$@"', "-"),
                *(str(SCRIPT), str(etc), distribution, own, suite, str(tmp_path / "out")),
            ],
            check=True,
        )
        written = sorted((tmp_path / "out").iterdir())
        return [line for path in written for line in path.read_text().splitlines() if line]

    return rewrite


def test_debian_as_the_installer_writes_it(rewritten) -> None:
    assert [
        line.strip() for line in rewritten("debian", "bookworm", "forky", sources_list=DEBIAN_12)
    ] == ["deb http://deb.debian.example/debian/ forky main non-free-firmware"]


def test_debian_as_cloud_images_have_it(rewritten) -> None:
    assert rewritten("debian", "bookworm", "forky", debian_sources=DEBIAN_12_CLOUD) == [
        "Types: deb",
        "Suites: forky",
        "Components: main",
        "URIs: mirror+file:///etc/apt/mirrors/debian.list",
    ]


@pytest.mark.parametrize("alias", ["stable", "testing", "sid"])
def test_debian_suites_by_their_other_names(rewritten, alias: str) -> None:
    text = f"deb http://deb.debian.example/debian {alias} main\n"
    assert rewritten("debian", "trixie", "forky", sources_list=text) == [
        "deb http://deb.debian.example/debian forky main"
    ]


def test_ubuntu_in_one_line_style(rewritten) -> None:
    assert rewritten("ubuntu", "jammy", "resolute", sources_list=UBUNTU_22_04) == [
        "deb http://archive.ubuntu.example/ubuntu/ resolute main restricted universe",
        "deb [arch=amd64 signed-by=/a.gpg] http://archive.ubuntu.example/ubuntu/ resolute universe",
    ]


def test_ubuntu_in_deb822_style(rewritten) -> None:
    moved = "# Ubuntu sources have moved to /etc/apt/sources.list.d/ubuntu.sources\n"
    written = rewritten(
        "ubuntu", "noble", "resolute", sources_list=moved, ubuntu_sources=UBUNTU_24_04
    )
    assert written == [
        "Types: deb",
        "Suites: resolute",
        "Components: main universe restricted multiverse",
        "URIs: http://archive.ubuntu.example/ubuntu/",
        "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg",
    ]


def test_ubuntu_without_universe_gets_it(rewritten) -> None:
    text = UBUNTU_24_04.replace("main universe restricted multiverse", "main restricted")
    assert "Components: main restricted universe" in rewritten(
        "ubuntu", "noble", "noble", ubuntu_sources=text
    )


def test_values_that_go_on_in_the_next_line(rewritten) -> None:
    text = """\
types:deb
uris: http://archive.ubuntu.example/ubuntu/
suites:
 noble-updates
 noble
components: main
 universe
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFit2ioBEADhWpZ8
 -----END PGP PUBLIC KEY BLOCK-----
"""
    assert rewritten("ubuntu", "noble", "resolute", ubuntu_sources=text) == [
        "Types: deb",
        "Suites: resolute",
        "Components: main universe",
        "uris: http://archive.ubuntu.example/ubuntu/",
        "signed-by:",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mQINBFit2ioBEADhWpZ8",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_what_is_switched_off_or_only_source_or_of_others_stays_out(rewritten) -> None:
    disabled = UBUNTU_24_04.replace("Types: deb\n", "Types: deb\nEnabled: no\n")
    only_source = UBUNTU_24_04.replace("Types: deb\n", "Types: deb-src\n")
    others = "deb [signed-by=/x.asc] https://apt.example.com/ubuntu stable main\n"
    assert (
        rewritten(
            "ubuntu",
            "noble",
            "resolute",
            a_sources=disabled,
            b_sources=only_source,
            other_list=others,
        )
        == []
    )


def test_files_do_not_run_into_each_other(rewritten) -> None:
    text = "Types: deb\nURIs: http://{}/ubuntu\nSuites: {}\nComponents: universe"
    written = rewritten(
        "ubuntu",
        "noble",
        "resolute",
        a_sources=text.format("a", "noble-updates"),
        b_sources=text.format("b", "noble"),
    )
    assert "URIs: http://b/ubuntu" in written
    assert "URIs: http://a/ubuntu" not in written
