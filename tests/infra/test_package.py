"""What is installed, from a wheel or in the image, brings everything that it reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.adapters.migrations import MIGRATIONS, read_migrations

ROOT = Path(__file__).resolve().parents[2]
IN_THE_REPOSITORY = [migration.id for migration in read_migrations()]
Python = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


def _unpacked(wheel: Path, folder: Path) -> Path:
    """As an installer does with a wheel that is pure Python; the root of `app`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _image(folder: Path) -> Path:
    """The code as the Dockerfile lays it out, without what .dockerignore names; the root of `app`."""
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    left_out = [Path(line).name for line in ignored if line.startswith("backend/app/")]
    for source, target in re.findall(r"^COPY (?!--from)(\S*/\S+) (\S+)$", text, flags=re.MULTILINE):
        shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__", *left_out))
    assert "PYTHONPATH=/srv/chorus/backend" in text
    return folder / "backend"


@pytest.fixture(params=["wheel", "image"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the installed `app` in it, away from the repository."""
    if request.param == "image":
        return _image(tmp_path)
    return _unpacked(request.getfixturevalue("wheel"), tmp_path)


def _python(root: Path, *arguments: str, **env: str) -> str:
    """What Python, for whom `app` is the one under `root`, says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)} | env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_migrate_finds_every_migration(installed: Path, postgres_url: str) -> None:
    said = _python(installed, "-m", "app.cli", "migrate", DATABASE_URL=postgres_url)
    assert [name for name in IN_THE_REPOSITORY if name in said] == IN_THE_REPOSITORY


def test_nothing_is_read_from_the_repository(installed: Path) -> None:
    ask = "import app.wiring, app.adapters.migrations as m; print(app.__path__[0], m.MIGRATIONS, sep='\\n')"
    for place in _python(installed, "-c", ask).splitlines():
        assert Path(place).is_relative_to(installed.parent)
        assert not Path(place).is_relative_to(ROOT)


def test_the_wheel_carries_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    app = ROOT / "backend" / "app"
    files = (file.relative_to(app) for file in app.rglob("*") if file.is_file())
    own = {f"app/{file}" for file in files if "__pycache__" not in file.parts}
    assert carried == own | {f"app/migrations/{file.name}" for file in MIGRATIONS.iterdir()}
