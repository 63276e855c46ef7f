"""Two builds of one version can be told apart, whether or not the build was named."""

from __future__ import annotations

from pathlib import Path

from app.core.build import build_id, digest_of


def test_a_build_is_named_as_the_image_was_told() -> None:
    assert build_id("3f2c1ab") == "3f2c1ab"
    assert len(build_id("x" * 200)) == 40


def test_an_unnamed_build_is_known_by_its_files(tmp_path: Path) -> None:
    assert build_id(None) == build_id("")
    assert build_id(None).startswith("src-")
    (tmp_path / "a.py").write_text("1")
    first = digest_of(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    assert digest_of(tmp_path) == first
    (tmp_path / "a.py").write_text("2")
    second = digest_of(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, digest_of(tmp_path)}) == 3
