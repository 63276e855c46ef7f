"""From the Markdown that models write to the marks that WhatsApp shows.

    **bold** __bold__ → *bold* · *it* _it_ → _it_ · ~~x~~ → ~x~ · # Title → *Title* · [a](https://b) → a (https://b)
    * item → - item · tables → one line a row · rules (---) go · code, quotes (>) and numbered lists stay as they are

A line without Markdown comes back byte for byte. CommonMark alone would take too much for Markdown ("2*3*4", "*_*",
"+ 33 …", a path's backslash), so emphasis must stand around words, and signs in the middle of a line stay signs.
The result is not Markdown any more: convert once, `*bold*` would come out of a second time as `_bold_`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Delimiter
from markdown_it.tree import SyntaxTreeNode

MAX_CHARACTERS = 40_000
"""Ten messages. The parser takes milliseconds for an answer and seconds for a hostile text of this length."""

_PLAIN = re.compile(r"(?:[^\s*_~#\[\]<>|\\`&=+\d-][^*_~#\[\]<>|\\`&\r\n]*(?<!\s)(?:\n+|\Z))+")
"""Lines without any of Markdown's signs, and without space at either end, which Markdown may take away."""
_ADDRESS = re.compile(r"(?:https?://|mailto:|tel:|sms:|www\.)\S+|[\w-]+(?:\.[\w-]+)+(?:[/?#]\S*)?", re.IGNORECASE)
_SCHEME = re.compile(r"^(?:https?://|mailto:|tel:|sms:)", re.IGNORECASE)
_BREAK = re.compile(r"[ \t]*<br\s*/?>[ \t]*", re.IGNORECASE)
_BULLET = re.compile(r"^((?:[\s>+-]|\d+[.)])*)\*[ \t]+(?=\S)")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W_]")
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, kana, Han: scripts without spaces, where bold stands between letters."""
_IN_A_NAME = re.compile(r"[./\\(]\w")
"""After the underscores of `__init__.py`."""
_FACE = re.compile(r"(?<=¯)\\_\(ツ\)_/¯|(?<![\w*])\*[_.^-]\*(?![\w*])|(?<=([-^;.'=~]))_(?=\1)|(?<=>)_(?=<)")
"""Of a face what Markdown would take for an escape or a mark."""


def to_whatsapp(text: str) -> str:
    """`text` with its Markdown as WhatsApp's marks. Line ends become "\\n" if anything is changed. As it is if it is
    longer than `MAX_CHARACTERS`, or nested hundreds deep."""
    if len(text) > MAX_CHARACTERS or _PLAIN.fullmatch(text):
        return text
    try:
        return _converted(text)
    except RecursionError:
        return text


def _converted(text: str) -> str:
    source = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    page = _Page(lines)
    for node in SyntaxTreeNode(_parser().parse(source)).children:
        page.block(node)
    converted = "\n".join(page.lines())
    if converted == source:
        return text
    return re.sub(r"\n{3,}", "\n\n", converted) if page.dropped else converted


class _Page:
    """The source's lines, and what takes the place of some of them."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._patches: dict[int, tuple[int, list[str]]] = {}
        self.dropped = False

    def lines(self) -> list[str]:
        out: list[str] = []
        at = 0
        while at < len(self._lines):
            end, lines = self._patches.get(at, (at + 1, self._lines[at : at + 1]))
            out += lines
            at = end
        return out

    def block(self, node: SyntaxTreeNode) -> None:
        start, end = node.map or (0, 0)
        match node.type:
            case "hr":
                self._patches[start] = end, [""]
                self.dropped = True
            case "table":
                self._patches[start] = end, _table(node)
            case "heading":
                self._heading(node, start, end)
            case "inline":
                self._words(node, start, end)
            case _:
                if node.type == "list_item" and node.markup == "*":
                    self._lines[start] = _BULLET.sub(r"\1- ", self._lines[start], count=1)
                for child in node.children:
                    self.block(child)

    def _heading(self, node: SyntaxTreeNode, start: int, end: int) -> None:
        title = _BREAK.sub(" ", "".join(_inline(child.children, plain_bold=True) for child in node.children)).strip()
        before, hashes, _ = self._lines[start].partition("#")
        if title and hashes:
            self._patches[start] = end, [before + _wrap(title, "*")]

    def _words(self, node: SyntaxTreeNode, start: int, end: int) -> None:
        said = _inline(node.children)
        if said == node.content:
            return
        lines = said.split("\n")
        first = node.content.split("\n", 1)[0].rstrip()
        source = self._lines[start]
        at = len(source.rstrip()) - len(first)
        lines[0] = source[:at] + lines[0] if source.rstrip().endswith(first) else lines[0]
        for index, line in enumerate(lines[1 : end - start], start=1):
            source = self._lines[start + index]
            mark = re.match(r"[\s>]*", source)
            lines[index] = (mark[0] if mark else "") + line.lstrip(" \t")
        self._patches[start] = end, lines


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.disable(["code", "lheading", "reference", "html_block", "html_inline", "newline"])
    parser.inline.ruler.at("emphasis", _emphasis)
    parser.inline.ruler.before("escape", "face", _face)
    parser.validateLink = lambda url: bool(_ADDRESS.fullmatch(url))  # type: ignore[method-assign]  # how markdown-it-py is told
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]  # how markdown-it-py is told
    parser.normalizeLinkText = lambda link: link  # type: ignore[method-assign]  # how markdown-it-py is told
    return parser


def _emphasis(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 -- the parser's interface
    """markdown-it's own rule but for where a mark may open and close: around words, not within them. Two asterisks may
    also stand within a word of letters ("**Früh**stück")."""
    marker = state.src[state.pos]
    if silent or marker not in "*_":
        return False
    length = state.scanDelims(state.pos, marker == "*").length
    end = state.pos + length
    before, after = state.src[max(0, state.pos - 2) : state.pos], state.src[end : end + 1]
    within = marker == "*"
    opens = bool(after.strip()) and (
        not _WORD.match(before[-1:])
        or (within and bool(_NO_SPACES.match(before[-1:])))
        or (within and length > 1 and len(before) > 1 and all(map(_LETTER.match, before)))
    )
    closes = (
        bool(before[-1:].strip())
        and not (marker == "_" and _IN_A_NAME.match(state.src, end))
        and (
            not _WORD.match(after)
            or (within and bool(_NO_SPACES.match(after)))
            or (within and length > 1 and bool(_LETTER.match(after)))
        )
    )
    for _ in range(length):
        token = state.push("text", "", 0)
        token.content = marker
        state.delimiters.append(
            Delimiter(marker=ord(marker), length=length, token=len(state.tokens) - 1, end=-1, open=opens, close=closes)
        )
    state.pos = end
    return True


def _face(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 -- as above
    face = _FACE.match(state.src, state.pos)
    if face is None:
        return False
    if not silent:
        state.pending += face[0]
    state.pos = face.end()
    return True


def _inline(nodes: Sequence[SyntaxTreeNode], *, plain_bold: bool = False) -> str:
    """`plain_bold`: within what is bold already."""
    pieces = [_piece(node, plain_bold=plain_bold) for node in nodes]
    for index, node in enumerate(nodes):
        if node.type != "strong" or plain_bold:
            continue
        before = pieces[index - 1][-1:] if index else ""
        after = pieces[index + 1][:1] if index + 1 < len(pieces) else ""
        if any(_LETTER.match(side) and not _NO_SPACES.match(side) for side in (before, after)):
            pieces[index] = _inline(node.children)  # WhatsApp shows no bold within a word
    return "".join(pieces)


def _piece(node: SyntaxTreeNode, *, plain_bold: bool) -> str:
    match node.type:
        case "strong":
            content = _inline(node.children, plain_bold=True)
            return content if plain_bold else _emphasised(content, node.markup, "*", _WORD)
        case "em":
            content = _inline(node.children, plain_bold=plain_bold)
            return _emphasised(content, node.markup, "_", _LETTER)
        case "s":
            return _emphasised(_inline(node.children, plain_bold=plain_bold), "~~", "~", _WORD)
        case "link":
            return _link(_inline(node.children, plain_bold=plain_bold), str(node.attrs["href"]))
        case "image":
            return _link(_inline(node.children), str(node.attrs["src"]))
        case "code_inline":
            return _code(node.content, node.markup)
        case "softbreak" | "hardbreak":
            return "\n"
        case _:
            return _BREAK.sub("\n", node.content)


def _emphasised(content: str, markup: str, mark: str, needed: re.Pattern[str]) -> str:
    """Only around words: `*_*` is a face, `*100#` is dialled."""
    return _wrap(content, mark) if needed.search(content) else f"{markup}{content}{markup}"


def _wrap(content: str, mark: str) -> str:
    """WhatsApp's marks end with the line."""
    return "\n".join(f"{mark}{line.strip()}{mark}" if line.strip() else line for line in content.split("\n"))


def _code(content: str, markup: str) -> str:
    padding = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{markup}{padding}{content}{padding}{markup}"


def _link(text: str, address: str) -> str:
    shown = address if address.lower().startswith("http") else _SCHEME.sub("", address)
    bare = _SCHEME.sub("", shown).rstrip("/")
    if not text.strip() or _SCHEME.sub("", text.strip()).rstrip("/") in (bare, bare.removeprefix("www.")):
        return shown
    return f"{text} ({shown})"


def _table(node: SyntaxTreeNode) -> list[str]:
    """A bold line with the first heading, then "- name: value", or "- name - heading: value, heading: value"."""
    rows = [
        [_BREAK.sub(" ", _inline(cell.children[0].children, plain_bold=index == 0)).replace("\n", " ").strip()
         if cell.children else "" for cell in row.children]
        for index, row in enumerate(row for part in node.children for row in part.children)
    ]  # fmt: skip
    head, *body = rows
    title = ": ".join(filter(None, head)) if len(head) == 2 else head[0]
    lines = [_wrap(title, "*")] if title else []
    for name, *values in body:
        if len(head) == 2:
            told = ": ".join(filter(None, (name, *values)))
        else:
            cells = zip(head[1:], values, strict=False)
            rest = ", ".join(f"{label}: {value}" if label else value for label, value in cells if value)
            told = " - ".join(filter(None, (name, rest)))
        if told:
            lines.append(f"- {told}")
    return lines
