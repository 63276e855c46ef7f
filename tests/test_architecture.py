"""The team's rules that a machine can hold: sizes, names, one place for each outside thing, no secrets in the lock."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import __version__
from app.api.errors import STATUS_OF
from app.core.errors import Unavailable
from app.domain import errors as domain_errors
from app.settings import Settings
from tests.support.source import parsed

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "backend" / "app"
SOURCES = sorted(APP.rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts)
MAX_FUNCTION_LINES = 70


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_functions_fit_on_a_screen() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in _functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_no_module_is_named_after_nothing() -> None:
    vague = re.compile(r"(^|_)(utils?|common|helpers?|misc|v2)(_|$)")
    assert [path.stem for path in SOURCES if vague.search(path.stem)] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(parsed(path))
    ]
    assert silent == []


MAX_ANY = 18.5
"""Uses of `Any` for each 1,000 lines of code; there were 37 once."""


def _lines_of_code(text: str) -> int:
    """Without blank lines, comments and docstrings."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    return sum(
        number not in docstrings and bool(line.strip()) and not line.lstrip().startswith("#")
        for number, line in enumerate(text.splitlines(), 1)
    )


def test_the_type_checker_is_seldom_switched_off() -> None:
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    uses = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    assert uses * 1000 / sum(map(_lines_of_code, texts)) <= MAX_ANY


def test_an_ignored_rule_has_its_reason_on_the_line() -> None:
    reason = re.compile(r"# noqa: [A-Z0-9, ]+?(?: -+)? +[a-z`]|# type: ignore\[[a-z, -]+\] +# *[a-z]")
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*SOURCES, *TESTS]
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"# *noqa|# *type: *ignore", line) and not reason.search(line)
    ]
    assert silent == []


def _private_names(node: ast.ClassDef, context: type[ast.expr_context]) -> set[str]:
    """The private attributes of `self` that the class reads (`ast.Load`) or sets (`ast.Store`)."""
    return {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, context)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
        and part.attr.startswith("_")
        and not part.attr.startswith("__")
    }


def _private_members(node: ast.ClassDef) -> set[str]:
    """What the class itself defines: methods, fields, and what it sets on `self`."""
    named = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
    fields = {
        part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    return {name for name in named | fields if name.startswith("_")} | _private_names(node, ast.Store)


def test_no_class_inherits_private_state_from_a_sibling_file() -> None:
    """A class is whole in one file: what a base class of another file keeps private stays private to it."""
    classes = [(path, node) for path in SOURCES for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    by_name = {node.name: (path, node) for path, node in classes}
    halves = {}
    for path, node in classes:
        for base in node.bases:
            place, parent = by_name.get(base.id if isinstance(base, ast.Name) else "", (path, node))
            borrowed = _private_names(node, ast.Load) & _private_members(parent) - _private_members(node)
            if place != path and borrowed:
                halves[node.name] = sorted(borrowed)
    assert halves == {}


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("httpx", {"core/http_client.py", "core/http_transport.py"}),
        ("aiohttp", {"core/http_transport.py"}),
        (
            "redis",
            {
                f"core/redis/{name}.py"
                for name in ("client", "corrections", "door", "script", "subscription", "trouble")
            },
        ),
        (
            "asyncpg",
            {
                f"adapters/{name}.py"
                for name in (
                    "postgres_store",
                    "postgres_connections",
                    "postgres_notifications",
                    "postgres_pooling",
                    "postgres_url",
                    "migrations",
                    "replica_role",
                )
            },
        ),
        ("supabase", {"adapters/supabase_store.py"}),
        ("jwt", {"adapters/supabase_auth.py"}),
        ("cryptography", {"core/secrets.py"}),
        ("uvicorn", {"server.py", "api/http_protocol.py", "sandbox/serving.py"}),
        ("tenacity", {"core/retry.py"}),
    ],
)
def test_an_outside_library_has_one_home(library: str, allowed: set[str]) -> None:
    users = {str(path.relative_to(APP)) for path in SOURCES if library in _imports(path)}
    assert users <= allowed
    assert users, f"nobody uses {library}; is it still a dependency?"


def test_services_and_domain_await_nothing_but_ports() -> None:
    framework = {"fastapi", "starlette", "pydantic", "httpx", "redis", "asyncpg", "supabase", "uvicorn", "click"}
    for folder in ("services", "domain"):
        for path in (APP / folder).glob("*.py"):
            assert not _imports(path) & framework, path.name


def test_every_error_raised_on_purpose_has_a_row_in_the_http_table() -> None:
    def family(kind: type[Exception]) -> Iterator[type[Exception]]:
        yield kind
        for child in kind.__subclasses__():
            yield from family(child)

    for kind in [*family(domain_errors.ChorusError), *family(Unavailable)]:
        if kind.__module__.startswith("app."):
            assert any(issubclass(kind, row) for row, _ in STATUS_OF), kind


def test_the_error_tree_draws_every_domain_error() -> None:
    drawn = domain_errors.__doc__ or ""
    missing = [
        name for name, value in vars(domain_errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and name not in drawn
    ]  # fmt: skip
    assert missing == []


def test_every_lua_script_states_keys_returns_and_invariant() -> None:
    scripts = sorted((APP / "core" / "lua").glob("*.lua"))
    assert scripts
    for script in scripts:
        head = script.read_text(encoding="utf-8")[:2500]
        for word in ("KEYS", "Returns", "Invariant"):
            assert word in head, (script.name, word)


def test_lock_files_pin_with_hashes_and_name_no_host() -> None:
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert locks
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        requirements = re.findall(r"^[a-z0-9][^\n]*?==[^\n]*(?:\n    --hash=[^\n]*)+", text, flags=re.MULTILINE)
        assert len(requirements) == len(re.findall(r"^[a-z0-9]", text, flags=re.MULTILINE))


def test_the_example_environment_names_every_setting_and_nothing_else() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", text, flags=re.MULTILINE))
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    of_compose = set(re.findall(r"\$\{([A-Z_]+)|\{environment: ([A-Z_]+)\}", compose))
    of_compose = {name for pair in of_compose for name in pair if name}
    assert named == {name.upper() for name in Settings.model_fields} | of_compose


def test_tests_do_not_sleep_for_luck() -> None:
    # A child that sleeps for a minute waits to be killed; what waits for less hopes for luck.
    lucky = re.compile(r"(?:time|asyncio)\.sleep\((?:0?\.[1-9]|[1-9](?:\.\d+)?\))")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TESTS
        if path.parent.name != "bench"  # where time is the subject
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if lucky.search(line) and "# time itself" not in line
    ]
    assert found == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def _pages() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def _texts() -> Iterator[Path]:
    """Everything that is written by hand, this file excepted."""
    yield from (path for path in [*SOURCES, *TESTS, *_pages()] if path != Path(__file__).resolve())
    yield from (APP / "core" / "lua").glob("*.lua")
    yield from (path for path in (ROOT / "infra").rglob("*") if path.is_file() and path.suffix not in {".json", ".pyc"})
    yield from (ROOT / name for name in ("Makefile", "docker-compose.yml", "pyproject.toml", ".env.example"))
    yield from (ROOT / ".github").rglob("*.yml")


def test_what_is_cited_ships() -> None:
    """A paragraph sign belongs to an RFC; a page under docs/ exists; a decision has that number."""
    elsewhere = re.compile(r"(?<!RFC \d{4} )§|\b(?:DESIGN|STYLE|BRIEF\d*)\b(?:\.md| §)|\bfacts/")
    decisions = {int(page.name[:4]) for page in (ROOT / "docs" / "adr").glob("*.md")}
    wrong = []
    for path in _texts():
        text = path.read_text(encoding="utf-8")
        cited = [ROOT / page for page in re.findall(r"\bdocs/[\w/.-]+\.md\b", text)]
        wrong += [f"{path.relative_to(ROOT)}: {found.group()}" for found in elsewhere.finditer(text)]
        wrong += [f"{path.relative_to(ROOT)}: {page.name}" for page in cited if not page.exists()]
        wrong += [
            f"{path.relative_to(ROOT)}: ADR {number}"
            for number in re.findall(r"\bADR (\d+)", text)
            if int(number) not in decisions
        ]
    assert wrong == []


def test_pages_and_configuration_name_who_they_mean() -> None:
    """A replica, a customer, an operator. Released migrations are never edited."""
    vague = re.compile(r"\b(?:nobody|somebody|whoever|everybody|anybody)\b", flags=re.IGNORECASE)
    wrong = [
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in _texts()
        if path.suffix not in (".py", ".lua", ".sql")
        for found in vague.finditer(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_links_of_every_page_lead_somewhere() -> None:
    wrong = []
    for page in _pages():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            linked = page.parent / target if target else page
            if not linked.exists() or (anchor and anchor not in _anchors(linked)):
                wrong.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert wrong == []


def test_the_diagrams_show_the_layers_and_scripts_that_exist() -> None:
    """docs/architecture.md draws the layers in the order in which import-linter holds them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = re.findall(r"app\.(\w+)", " ".join(contracts[0]["layers"]))
    drawn = re.findall(
        r"```mermaid\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )[1]
    assert re.findall(r"\w+", " ".join(re.findall(r'\["([\w, ]+?)(?:<br/>|")', drawn))) == layers
    scripts = {script.stem for script in (APP / "core" / "lua").glob("*.lua")}
    for name in ("cache", "circuit-breaker"):
        page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        diagrams = re.findall(r"```mermaid\n(.*?)```", page, flags=re.DOTALL)
        named = set(re.findall(r"\b(?:cache|breaker)_\w+", " ".join(diagrams)))
        assert diagrams
        assert named <= scripts, name


def test_no_migration_changes_once_the_next_one_came() -> None:
    """A database that has it would refuse the next start. Compared with the version that had one migration less."""
    migrations = "infra/supabase/migrations"

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"no history here: {done.stderr.strip()}")
        return done.stdout.strip()

    newest = git("log", "--first-parent", "-m", "--diff-filter=A", "--format=%H", "-1", "--", migrations)
    assert git("diff", "--name-only", "--diff-filter=MD", f"{newest}~1", "--", migrations) == ""


def test_the_version_is_one_and_released() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == project["version"] == __version__


def test_a_decision_has_a_number_of_its_own() -> None:
    """They count from 1 without a gap, the page's title says the number of its file, and each has the same parts."""
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        for part in ("\nStatus: ", "\n## Context\n", "\n## Decision\n", "\n## Consequences\n"):
            assert part in text, (page.name, part)
