#!/usr/bin/env python3
"""What the pages name is there: files, links, functions, keys of the configuration, metrics, tests, golden cases.

A name stands in backquotes on a page. It is looked for as a whole word in the sources; files by their path from the
repository or from src/, or by their name alone where the page gives no folder.
"""

import re
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")])
CODE_FOLDERS = ("src", "apps", "tests", "bench", "scripts", "cmake", "configs", ".ci")
CODE_SUFFIXES = {".h", ".cpp", ".py", ".sh", ".txt", ".cmake", ".yaml", ".json", ""}
NAMED_SUFFIXES = r"(?:h|cpp|py|sh|cmake)"

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# What others call so, and what a program composes.
ELSEWHERE = {"NoMatchingPeftModuleError", "itm_auc_hard"}
PLACEHOLDER = re.compile(r"NAME|FOLDER|FILE|PRESET|REGEX|N{3,}|…|<|\$")


def braces(text):
    """a.{h,cpp} as a.h and a.cpp."""
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        return [text]
    return [whole for part in match.group(1).split(",")
            for whole in braces(text[:match.start()] + part + text[match.end():])]


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = [path for folder in CODE_FOLDERS for path in (REPOSITORY / folder).rglob("*")
                     if path.is_file() and "__pycache__" not in path.parts]
        cls.files += [REPOSITORY / name for name in ("CMakeLists.txt", "CMakePresets.json")]
        cls.names = {path.name for path in cls.files}
        code = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in cls.files
                         if path.suffix in CODE_SUFFIXES and path != Path(__file__).resolve())
        cls.words = set(re.findall(r"\w+", code))
        cls.words |= {path.stem for path in (REPOSITORY / "tests/golden").rglob("*")}
        cls.tests = set(re.findall(r"^TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", code, re.MULTILINE))
        cls.keys = set(re.findall(r"^\| `([\w.]+)` \|", (REPOSITORY / "docs/configuration.md").read_text("utf-8"),
                                  re.MULTILINE))
        cls.texts = {page: page.read_text(encoding="utf-8") for page in PAGES}

    def quoted(self):
        """(place, name) of what stands in backquotes outside of code blocks."""
        for page, text in self.texts.items():
            text = FENCE.sub(lambda match: "\n" * match.group().count("\n"), text)
            for match in QUOTED.finditer(text):
                place = f"{page.relative_to(REPOSITORY)}:{text.count(chr(10), 0, match.start()) + 1}"
                if not PLACEHOLDER.search(match.group(1)):
                    yield place, match.group(1)

    def expect_none(self, problems):
        self.assertEqual([], list(problems))

    def test_links_lead_somewhere(self):
        def problems():
            for page, text in self.texts.items():
                for target in LINK.findall(FENCE.sub("", text)):
                    if "://" in target:
                        continue
                    name, _, anchor = target.partition("#")
                    file = (page.parent / name).resolve() if name else page
                    if not file.exists():
                        yield f"{page.name}: the link '{target}' leads to no file"
                    elif anchor:
                        headings = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text(encoding="utf-8")),
                                              re.MULTILINE)
                        if anchor not in map(slug, headings):
                            yield f"{page.name}: the link '{target}' leads to no heading of {file.name}"
        self.expect_none(problems())

    def test_readme_leads_to_every_page(self):
        linked = set(LINK.findall(self.texts[REPOSITORY / "README.md"]))
        self.assertEqual([], [page.name for page in PAGES
                              if page.parent.name == "docs" and f"docs/{page.name}" not in linked
                              and page.parent != REPOSITORY])

    def test_files_that_are_named_exist(self):
        tops = {folder.name for folder in (REPOSITORY / "src").iterdir()}

        def exists(name):
            if "/" not in name:
                return any(re.fullmatch(name.replace(".", r"\.").replace("*", ".*"), file) for file in self.names)
            roots = [REPOSITORY, REPOSITORY / "src", REPOSITORY / "apps"]
            return any(any(root.glob(name.rstrip("/"))) for root in roots)

        def problems():
            for place, name in self.quoted():
                name = name.split()[0]
                first = name.split("/")[0]
                is_path = "/" in name and (first in tops or first in CODE_FOLDERS or first == "docs")
                if is_path or re.fullmatch(rf"[\w.{{}},*-]+\.{NAMED_SUFFIXES}", name):
                    yield from (f"{place}: there is no file '{file}'" for file in braces(name) if not exists(file))
        self.expect_none(problems())

    def test_keys_of_the_configuration_exist(self):
        sections = {key.split(".")[0] for key in self.keys if "." in key}
        ambiguous = {"vision", "language", "fusion", "memory", "compressor"}  # names of parameters begin so too

        def problems():
            for place, name in self.quoted():
                key = re.fullmatch(r"(?:--set )?([a-z_]+(?:\.[a-z0-9_]+)+)(?:[:=] ?.*)?", name)
                if not key or key.group(1).split(".")[0] not in sections or key.group(1) in self.names:
                    continue
                key = key.group(1)
                if any(known == key or known.startswith(key + ".") for known in self.keys):
                    continue
                if key.split(".")[0] not in ambiguous or not set(key.split(".")) <= self.words:
                    yield f"{place}: there is no key '{key}'"
        self.expect_none(problems())

    def test_functions_classes_metrics_and_cases_exist(self):
        def problems():
            for place, name in self.quoted():
                if re.fullmatch(r"[A-Z]\w+\.[A-Z]\w+", name):
                    if tuple(name.split(".")) not in self.tests:
                        yield f"{place}: there is no test '{name}'"
                elif re.fullmatch(r"~?\w+(::\w+)*(\(\))?", name) and re.search(r"_|::|[a-z][A-Z]", name):
                    missing = [word for word in re.findall(r"\w+", name) if word not in self.words | ELSEWHERE]
                    if missing:
                        yield f"{place}: '{name}': nothing in the sources is called {', '.join(missing)}"
        self.expect_none(problems())


if __name__ == "__main__":
    unittest.main()
