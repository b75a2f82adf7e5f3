#!/usr/bin/env python3
"""Fails where an include or a link goes against the arrows of the house.

    {ops, core} <- {data, vision, language, losses, memory, distributed} <- fusion <- model <- inference <- eval <- train <- apps

A folder of src/ may include itself and the folders to its left; folders in one brace don't include one another. A
folder's CMake target must link, directly or through others, the folders that it includes. Tests are leaves: those of
a folder may also use its neighbours in the brace, to build their inputs, but nothing to its right.

Usage: check_includes.py [REPOSITORY]
"""

import re
import sys
from pathlib import Path

LEVELS = [
    ["ops", "core"],
    ["data", "vision", "language", "losses", "memory", "distributed"],
    ["fusion"],
    ["model"],
    ["inference"],
    ["eval"],
    ["train"],
    ["apps"],
]
LEVEL = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}
# Tests of no one folder: they may use everything.
FREE_TESTS = {"golden_ops", "golden", "integration", "distributed_runs", "scripts", "apps", "fuzz"}

SOURCE_SUFFIXES = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)
BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
CMAKE_COMMENT = re.compile(r"#.*")
TARGET = re.compile(r"\btessera_([a-z]+)\b(?!\s*\()")


def allowed(folder, included):
    return folder == included or LEVEL[included] < LEVEL[folder]


def includes_of(path):
    """(line number, quote, included path) of every include outside block comments."""
    text = BLOCK_COMMENT.sub(lambda match: "\n" * match.group().count("\n"),
                             path.read_text(encoding="utf-8"))
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)


def source_files(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCE_SUFFIXES)


def folder_roots(repository):
    """{folder: its path} of src/* that hold sources, and apps."""
    source = repository / "src"
    roots = {path.name: path for path in sorted(source.iterdir()) if path.is_dir()} if source.is_dir() else {}
    if (repository / "apps").is_dir():
        roots["apps"] = repository / "apps"
    return roots


def links_of(root):
    """Folders whose targets the CMakeLists.txt of a folder (and of folders in it) name."""
    text = "\n".join(CMAKE_COMMENT.sub("", listing.read_text(encoding="utf-8"))
                     for listing in root.rglob("CMakeLists.txt"))
    return {name for name in TARGET.findall(text) if name in LEVEL} - {root.name}


def closure(links, folder):
    reached, pending = set(), [folder]
    while pending:
        for linked in links.get(pending.pop(), ()):
            if linked not in reached:
                reached.add(linked)
                pending.append(linked)
    return reached


def check_folder(repository, folder, root, reachable):
    unlinked = set()
    for path in source_files(root):
        for line, quote, target in includes_of(path):
            place = f"{path.relative_to(repository)}:{line}"
            included = target.split("/")[0]
            if ".." in target.split("/"):
                yield f"{place}: '{target}': includes are written from src/, as in \"core/error.h\""
            elif included in LEVEL and "/" in target:
                if not allowed(folder, included):
                    yield f"{place}: {folder} may not include {included} ('{target}')"
                elif included != folder and included not in reachable | unlinked:
                    unlinked.add(included)
                    yield (f"{place}: {folder} includes {included}, but its CMake target does not link "
                           f"tessera_{included}")
            elif included in ("tests", "src", "bench") and quote == '"':
                yield f"{place}: {folder} may not include '{target}'"
            elif quote == '"' and "/" not in target and folder != "apps":
                yield f"{place}: '{target}': includes are written from src/, as in \"{folder}/{target}\""


def check_tests(repository):
    tests = repository / "tests"
    if not tests.is_dir():
        return
    for root in sorted(path for path in tests.iterdir() if path.is_dir() and path.name not in FREE_TESTS):
        folder = root.name
        sources = source_files(root)
        if sources and folder not in LEVEL:
            yield f"tests/{folder}: tests stand at the path of what they test; there is no folder '{folder}'"
            continue
        for path in sources:
            for line, _, target in includes_of(path):
                included = target.split("/")[0]
                if "/" in target and included in LEVEL and LEVEL[included] > LEVEL[folder]:
                    yield (f"{path.relative_to(repository)}:{line}: tests of {folder} may not include {included} "
                           f"('{target}')")


def check(repository):
    """Every violation, as a line of text."""
    roots = folder_roots(repository)
    if not roots:
        return [f"{repository}: no src/ folder to check"]
    problems = [f"src/{name}: the folder has no place among the arrows (scripts/check_includes.py)"
                for name in roots if name not in LEVEL]
    roots = {name: root for name, root in roots.items() if name in LEVEL}
    links = {name: links_of(root) for name, root in roots.items()}
    for folder, root in roots.items():
        problems += [f"{root.relative_to(repository)}/CMakeLists.txt: {folder} may not link tessera_{linked}"
                     for linked in sorted(links[folder]) if not allowed(folder, linked)]
        problems += check_folder(repository, folder, root, closure(links, folder))
    problems += check_tests(repository)
    return problems


def main(arguments):
    repository = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    problems = check(repository)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
