"""`make setup` makes the environment anew where an earlier run left half of one, and says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pip = pytest.importorskip("pip")
ROOT = Path(__file__).resolve().parents[2]
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine (Debian: make)")


def without_pip(environment: Path) -> None:
    """What Debian's python3 leaves without python3-venv: the interpreter and the configuration, then an error."""
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", environment], check=True)


def without_configuration(environment: Path) -> None:
    """An interpreter whose `pyvenv.cfg` was never written: it would install into the machine's own packages."""
    without_pip(environment)
    (environment / "pyvenv.cfg").unlink()


def of_another_python(environment: Path) -> None:
    """The interpreter that made it has been upgraded away."""
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to("/no/such/python")
    (environment / "pyvenv.cfg").write_text("home = /no/such\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make setup` reads. The lock file is empty: nothing is fetched."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "backend").symlink_to(ROOT / "backend")
    return tmp_path


@pytest.fixture
def quick_python(tmp_path: Path) -> Path:
    """Its environments see this one's pip: to install one into each takes 3 s."""
    packages, program = tmp_path / "packages", tmp_path / "quick-python3"
    packages.mkdir()
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program.write_text(
        f'#!/bin/sh\n[ "$2" = venv ] || exec "{BASE_PYTHON}" "$@"\n'
        f'"{BASE_PYTHON}" -m venv --without-pip "$3" && echo "{packages}" > "$3/lib/{version}/site-packages/pip.pth"\n'
    )
    program.chmod(0o755)
    return program


def make_setup(checkout: Path, python: Path) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "VIRTUAL_ENV"))}
    return subprocess.run(
        ["make", "setup", f"PYTHON={python}"],
        cwd=checkout, capture_output=True, text=True, timeout=120, check=False, env=outer | {"PIP_NO_INDEX": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("half_made", [without_pip, without_configuration, of_another_python])
def test_half_an_environment_is_made_anew(
    checkout: Path, quick_python: Path, half_made: Callable[[Path], None]
) -> None:
    environment = checkout / ".venv"
    half_made(environment)
    (environment / "left-over").touch()
    done = make_setup(checkout, quick_python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (environment / "left-over").exists()
    python = environment / "bin" / "python"
    looked = subprocess.run([python, "-c", "import pip, app; print(app.__file__)"], capture_output=True, text=True)
    assert looked.stdout == f"{checkout / 'backend' / 'app' / '__init__.py'}\n", looked.stderr
    assert (environment / ".installed").exists()
    assert os.access(environment / "bin" / "chorus", os.X_OK)


def test_a_python_that_makes_no_environment_is_named_and_leaves_nothing(checkout: Path) -> None:
    debian = checkout / "debians-python3"
    debian.write_text(
        f'#!/bin/sh\n[ "$2" = venv ] || exec "{BASE_PYTHON}" "$@"\n'
        f'"{BASE_PYTHON}" -m venv --without-pip "$3"; echo "ensurepip is not available" >&2; exit 1\n'
    )
    debian.chmod(0o755)
    done = make_setup(checkout, debian)
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stdout
    assert not (checkout / ".venv").exists()
