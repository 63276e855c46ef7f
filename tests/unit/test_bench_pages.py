"""What a benchmark writes into the documents, after minutes of measuring."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.child import ROOT, BenchError
from tests.bench.document import write_block
from tests.bench.plot import Chart, svg


@pytest.mark.parametrize(
    ("page", "block"),
    [("benchmarks.md", "headline"), ("SOLUTIONS_IMPLEMENTEES.md", "headline"), ("operations.md", "sizing")],
)
def test_a_page_has_the_block_that_is_written_and_keeps_the_rest(page: str, block: str, tmp_path: Path) -> None:
    copy = Path(shutil.copy(ROOT / "docs" / page, tmp_path))
    before, _, rest = copy.read_text(encoding="utf-8").partition(f"<!-- {block} -->\n")
    _, _, after = rest.partition(f"<!-- /{block} -->\n")
    write_block(copy, block, ["| \\1 |", "the plot"])
    written = copy.read_text(encoding="utf-8")
    assert written == f"{before}<!-- {block} -->\n| \\1 |\nthe plot\n<!-- /{block} -->\n{after}"


def test_a_page_without_the_block_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n", encoding="utf-8")
    with pytest.raises(BenchError, match="0 blocks headline"):
        write_block(page, "headline", [])


def test_a_chart_draws_each_point_and_names_each_series() -> None:
    series = {"a < b": [(1.0, 10.0), (100.0, 1000.0)], "one point": [(10.0, 100.0)], "none above 0": [(1.0, 0.0)]}
    drawn = ElementTree.fromstring(svg([Chart("t", "x", "y", series, log_x=True, log_y=True, shaded=[(1, 2, "away")])]))
    lines = [line.attrib["points"].split() for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [2, 1, 0]
    words = "".join(drawn.itertext())
    assert all(name in words for name in (*series, "away"))
