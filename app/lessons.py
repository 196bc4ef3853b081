"""Lessons, questions and the glossary, read from ``assets/lessons/*.md``. Pure: no page, no session.

A lesson is a Markdown file: TOML between two lines ``+++``, then the sections Predict, Act, Reveal and Takeaway.

    +++
    title = "Score, then cut"
    minutes = 5
    link = "/prune?run=demo:badnets&role=defender"   # the prepared state of the real page
    commit = true                                    # the answer waits for a committed cut
    +++

Predict is a question: text, then choices as a task list whose checked ones are right (``- [x]``); or ``guess`` in the
front matter names a figure, and a number in percent is asked for. ``{badnets.rnp.chosen.acc}`` anywhere is a figure of
the shipped demos (:mod:`app.lesson_facts`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from app import state
from engine.paths import ASSETS

FOLDER = ASSETS / "lessons"
SECTIONS = ("Predict", "Act", "Reveal", "Takeaway")
GLOSSARY = "glossary"
_VIEWS = ("attack", "prune", "neurons", "layers", "compare", "questions", "runs")
#: Paths of the pages that a lesson may open, and the files that show them.
PAGES = {"/": "home", **{f"/{view}": view for view in _VIEWS}}
_FIELDS = {"title": str, "minutes": int, "link": str, "commit": bool, "guess": str, "within": int}
_NEEDED = ("title", "minutes", "link")
_FIGURE = re.compile(r"\{([A-Za-z0-9_.]+)\}")
_CHOICE = re.compile(r"- \[([ x])\] (.+)")


@dataclass(frozen=True)
class Question:
    """``choices`` of which ``right`` is the number of the right one; without choices a number in percent is asked.

    ``guess`` is the figure that it is held against, and ``within`` how many points off still count as right.
    """

    text: str
    choices: tuple[str, ...] = ()
    right: int | None = None
    guess: str | None = None
    within: int = 10


@dataclass(frozen=True)
class Asked:
    """A question with its ``why``, outside of any lesson."""

    name: str
    title: str
    question: Question
    why: str


@dataclass(frozen=True)
class Lesson:
    """``page`` and ``query`` are the real page in its prepared state; ``commit``: the answer waits for a commitment."""

    name: str
    title: str
    minutes: int
    page: str
    query: dict[str, str]
    commit: bool
    predict: Question
    act: str
    reveal: str
    takeaway: str

    @property
    def view(self) -> str:
        return f"views/{PAGES[self.page]}.py"

    @property
    def params(self) -> dict[str, str]:
        """The prepared state with the lesson in it, as URL parameters of any page."""
        return {**self.query, "lesson": self.name}

    @property
    def run(self) -> str:
        """The suspect that it is about."""
        return self.query["run"]


@dataclass(frozen=True)
class Term:
    """A word of the glossary; ``forms`` are all ways in which it is written."""

    name: str
    forms: tuple[str, ...]
    meaning: str


# --- files -----------------------------------------------------------------------------------------------------------


@cache
def lessons(folder: Path = FOLDER) -> dict[str, Lesson]:
    """All lessons by name, in the order of their file names (``1_stamp.md`` is the lesson ``stamp``).

    Raises:
        ValueError: in one line, naming the file that is malformed.
    """
    found: dict[str, Lesson] = {}
    for path in sorted(folder.glob("[0-9]_*.md")):
        name = path.stem.partition("_")[2]
        found[name] = _of_file(path, partial(lesson, name))
    return found


@cache
def questions(folder: Path = FOLDER) -> dict[str, Asked]:
    """The questions of ``questions.md`` by name, in its order.

    Raises:
        ValueError: in one line.
    """
    return _of_file(folder / f"{state.QUESTIONS}.md", asked)


@cache
def glossary(folder: Path = FOLDER) -> dict[str, Term]:
    """The terms of ``glossary.md`` by name.

    Raises:
        ValueError: in one line.
    """
    return _of_file(folder / f"{GLOSSARY}.md", terms)


def _of_file(path: Path, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"expected {path.name} to be a page of lessons, got: {error}") from error


# --- parsing ---------------------------------------------------------------------------------------------------------


def lesson(name: str, text: str) -> Lesson:
    """A lesson from its file's text.

    Raises:
        ValueError: in one line, if something is missing or its link opens no page.
    """
    head, body = _front_matter(text)
    sections = _sections(body)
    if tuple(sections) != SECTIONS:
        raise ValueError(f"expected the sections {', '.join(SECTIONS)}, got {', '.join(sections) or 'none'}")
    if empty := [key for key, part in sections.items() if not part]:
        raise ValueError(f"expected words under {empty[0]}, got none")
    if shown := figures(sections["Act"]):
        raise ValueError(f"expected no figure under Act, which is shown on every page, got {shown[0]}")
    page, query = _link(head["link"])
    guess = head.get("guess")
    if guess is not None and not _FIGURE.fullmatch(guess):
        raise ValueError(f"expected guess to be a figure such as {{badnets.asr}}, got {guess!r}")
    predict = _question(sections["Predict"], guess, head.get("within", 10))
    return Lesson(
        name, head["title"], head["minutes"], page, query, head.get("commit", False), predict,
        sections["Act"], sections["Reveal"], sections["Takeaway"],
    )  # fmt: skip


def asked(text: str) -> dict[str, Asked]:
    """The questions of a text: a heading ``name: Title``, the question with its choices, and why after them.

    Raises:
        ValueError: in one line.
    """
    found = {}
    for heading, part in _sections(text).items():
        name, colon, title = heading.partition(": ")
        if not colon or not re.fullmatch(r"[a-z_]+", name):
            raise ValueError(f"expected a heading such as 'unit: Neuron or filter?', got {heading!r}")
        *_, last = [match.end() for match in re.finditer(r"^- \[[ x]\] .+$", part, re.MULTILINE)] or [0]
        why = part[last:].strip()
        if not why:
            raise ValueError(f"expected the reason after the choices of {name}, got none")
        found[name] = Asked(name, title, _question(part[:last].strip(), None, 10), why)
    return found


def terms(text: str) -> dict[str, Term]:
    """The terms of a text: a heading with all forms of the word, separated by commas, and one sentence.

    Raises:
        ValueError: in one line.
    """
    found = {}
    for heading, meaning in _sections(text).items():
        forms = tuple(form.strip() for form in heading.split(","))
        if not meaning or not all(forms):
            raise ValueError(f"expected words and what they mean, got {heading!r}: {meaning[:40]!r}")
        found[forms[0].lower()] = Term(forms[0], forms, " ".join(meaning.split()))
    return found


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    parts = re.split(r"^\+\+\+\n", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) != 3 or parts[0].strip():
        raise ValueError("expected front matter between two lines +++, got none")
    head = tomllib.loads(parts[1])
    if missing := [key for key in _NEEDED if key not in head]:
        raise ValueError(f"expected {missing[0]} in the front matter, got none")
    for key, value in head.items():
        if key not in _FIELDS:
            raise ValueError(f"expected {', '.join(_FIELDS)} in the front matter, got {key}")
        if type(value) is not _FIELDS[key]:
            raise ValueError(f"expected {key} to be of type {_FIELDS[key].__name__}, got {value!r}")
    return head, parts[2]


def _sections(text: str) -> dict[str, str]:
    before, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"expected a heading, got {before.strip()[:40]!r}")
    headings = parts[::2]
    if twice := [heading for heading in headings if headings.count(heading) > 1]:
        raise ValueError(f"expected each heading once, got {twice[0]!r} again")
    return {heading.strip(): part.strip() for heading, part in zip(headings, parts[1::2], strict=True)}


def _question(text: str, guess: str | None, within: int) -> Question:
    lines = text.splitlines()
    choices = [match for line in lines if (match := _CHOICE.fullmatch(line.strip()))]
    words = "\n".join(line for line in lines if not _CHOICE.fullmatch(line.strip())).strip()
    right = [k for k, match in enumerate(choices) if match[1] == "x"]
    if not words:
        raise ValueError("expected a question before the choices, got none")
    if guess is not None:
        if choices:
            raise ValueError(f"expected either choices or a number to guess, got {len(choices)} choices as well")
        return Question(words, guess=guess, within=within)
    if not 2 <= len(choices) <= 4 or len(right) != 1:
        raise ValueError(f"expected two to four choices, one of them checked, got {len(choices)} and {len(right)}")
    return Question(words, tuple(match[2].strip() for match in choices), right[0])


def _link(link: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(link)
    if parts.path not in PAGES or parts.scheme or parts.netloc:
        raise ValueError(f"expected a link to one of {', '.join(PAGES)}, got {link!r}")
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    if unknown := [key for key in query if key not in state.KEYS or key == "lesson"]:
        raise ValueError(f"expected keys of an address in the link, got {unknown[0]!r}")
    if missing := [key for key in ("run", "role") if key not in query]:
        raise ValueError(f"expected {missing[0]} in the link, got {link!r}")
    _, wrong = state.parse(query)
    if wrong:
        raise ValueError(wrong[0])
    return parts.path, query


# --- figures and addresses -------------------------------------------------------------------------------------------


def filled(text: str, fact: Callable[[str], str]) -> str:
    """The text with each figure in place of its name."""
    return _FIGURE.sub(lambda match: fact(match[1]), text)


def figures(text: str) -> list[str]:
    """The names of the figures in a text."""
    return _FIGURE.findall(text)


def url(base: str, path: str, query: Mapping[str, str]) -> str:
    """A link to a page: ``base`` is the dashboard's address without a page."""
    return f"{base.rstrip('/')}{path}" + (f"?{urlencode(query, safe=':,!~')}" if query else "")
