"""The script drkit-wal: it finds the client wherever it was installed, and proves nothing by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "drkit" / "drkit-wal.sh"
CLIENT = """
import sys
def main():
    print("site" in sys.modules, sys.path[0], *sys.argv)
    return 44
"""


class Installed:
    """A folder of programs, and packages beside it; the name has a space."""

    def __init__(self, root: Path) -> None:
        self.root = root / "my tools"
        self.bin = self.root / "bin"
        self.packages = self.root / "lib" / "python3.11" / "site-packages"
        for folder in (self.bin, self.packages):
            folder.mkdir(parents=True)
        shutil.copy(SCRIPT, self.bin / "drkit-wal")
        (self.bin / "python3").symlink_to(sys.executable)

    def client(self, packages: Path) -> None:
        (packages / "drkit").mkdir(parents=True)
        (packages / "drkit" / "__init__.py").touch()
        (packages / "drkit" / "walclient.py").write_text(CLIENT)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def run(
    program: Path | str, cwd: Path, *words: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_it_starts_the_client_beside_it_without_site_and_gives_its_exit_status(installed: Installed) -> None:
    installed.client(installed.packages)
    done = run(installed.bin / "drkit-wal", installed.root, "get", "a b", "$c")
    assert (done.returncode, done.stderr) == (44, "")
    assert done.stdout.startswith("False ") and done.stdout.endswith("/site-packages drkit-wal get a b $c\n")


def test_one_that_is_installed_from_its_sources_is_found(installed: Installed, tmp_path: Path) -> None:
    installed.client(tmp_path / "sources")
    (installed.packages / "_editable_impl_drkit.pth").write_text(str(tmp_path / "sources"))
    done = run(installed.bin / "drkit-wal", installed.root)
    assert done.returncode == 44 and done.stdout == f"False {tmp_path / 'sources'} drkit-wal\n"


@pytest.mark.parametrize("relative", [True, False])
def test_links_lead_to_it(installed: Installed, relative: bool) -> None:
    installed.client(installed.packages)
    other = installed.root / "usr"
    other.mkdir()
    (other / "second").symlink_to("../bin/drkit-wal" if relative else installed.bin / "drkit-wal")
    (other / "first").symlink_to("second")
    assert run(other / "first", installed.root).returncode == 44
    assert run("./first", other).returncode == 44


def test_nothing_in_the_data_folder_is_imported(installed: Installed, tmp_path: Path) -> None:
    installed.client(installed.packages)
    data = tmp_path / "data"
    (data / "drkit").mkdir(parents=True)
    (data / "drkit" / "walclient.py").write_text("raise SystemExit(7)")
    (data / "sys.py").write_text("raise SystemExit(7)")
    assert run(installed.bin / "drkit-wal", data).returncode == 44


def test_where_the_package_is_elsewhere_python_finds_it(installed: Installed) -> None:
    (installed.bin / "python3").unlink()
    (installed.bin / "python3").write_text('#!/bin/sh\necho "$@"\nexit 44\n')
    (installed.bin / "python3").chmod(0o755)
    done = run(installed.bin / "drkit-wal", installed.root, "get", "x")
    assert (done.returncode, done.stdout) == (44, "-P -m drkit.walclient get x\n")


def test_without_an_interpreter_nothing_is_proven(installed: Installed) -> None:
    installed.client(installed.packages)
    nowhere = {"PATH": str(installed.root)}
    (installed.bin / "python3").unlink()
    assert run(installed.bin / "drkit-wal", installed.root, "get", "x", env=nowhere).returncode > 125
    (installed.bin / "python3").symlink_to("nowhere")
    assert run(installed.bin / "drkit-wal", installed.root, "get", "x", env=nowhere).returncode > 125


def test_the_true_client_runs_as_it_is_installed(installed: Installed) -> None:
    (installed.packages / "_editable_impl_drkit.pth").write_text(f"{SCRIPT.parents[1]}\n")
    done = run(installed.bin / "drkit-wal", installed.root, "--help")
    assert done.returncode == 0 and done.stdout.startswith("drkit-wal: ")
    done = run(installed.bin / "drkit-wal", installed.root, "get", "--absent-exit", "44")
    assert done.returncode == 126 and done.stderr.startswith("drkit-wal: usage")


def test_without_a_python_beside_it_the_systems_own_starts_it(installed: Installed) -> None:
    """As pip installs it for a user, or for the system."""
    installed.client(installed.packages)
    (installed.bin / "python3").unlink()
    done = run(installed.bin / "drkit-wal", installed.root, "push")
    assert done.returncode == 44 and done.stdout.endswith("/site-packages drkit-wal push\n")
