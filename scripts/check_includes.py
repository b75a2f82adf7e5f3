#!/usr/bin/env python3
"""Fails where an include or a link goes against the arrows of the house.

    core <- ops <- nn <- lora <- {data, vision, language, losses, memory, distributed} <- {fusion, shapes} <- config <- model <- {inference, objectives} <- eval <- train <- apps

A folder of src/ may include itself and the folders to its left; folders in one brace don't include one another. A
folder's CMake target must link, directly or through others, the folders that it includes. Tests are leaves: those of
a folder may also use its neighbours in the brace, to build their inputs, but nothing to its right.

Fails too where docs/architecture.md says otherwise: its list of folders, its arrows, and its table of what each folder
and program includes and links.

Usage: check_includes.py [REPOSITORY]
"""

import re
import sys
from pathlib import Path

LEVELS = [
    ["core"],
    ["ops"],
    ["nn"],
    ["lora"],
    ["data", "vision", "language", "losses", "memory", "distributed"],
    ["fusion", "shapes"],
    ["config"],
    ["model"],
    ["inference", "objectives"],
    ["eval"],
    ["train"],
    ["apps"],
]
LEVEL = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}
# Tests of no one folder, and lora's, whose adapters need models to be of: they may use everything.
FREE_TESTS = {"golden_ops", "golden", "scripts", "apps", "fuzz", "lora"}

SOURCE_SUFFIXES = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)
BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
CMAKE_COMMENT = re.compile(r"#.*")
TARGET = re.compile(r"\btessera_([a-z]+)\b(?!\s*\()")
CMAKE_COMMAND = re.compile(r"\b([a-z_]+)[ \t]*\(([^()]*)\)")

PAGE = "docs/architecture.md"
TABLE_HEAD = "| folder | includes | its target links |"
NOTHING = "–"
SAME = "the same"
ARROWS = re.compile(r"(?:\{ ?core\b|\bcore <).*")


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


# --- docs/architecture.md --------------------------------------------------------------------------------------------


def in_order(folders):
    """Folders as the page lists them: in the order of the arrows."""
    places = [folder for level in LEVELS for folder in level]
    return ", ".join(sorted(folders, key=places.index)) or NOTHING


def included_folders(sources, folder):
    """Folders other than its own that these files include."""
    tops = {target.split("/")[0] for path in sources for _, _, target in includes_of(path) if "/" in target}
    return {top for top in tops if top in LEVEL} - {folder}


def with_headers(root, sources):
    """These files of apps/ and the headers of apps/ that they include, directly or through others."""
    reached, pending = set(), [root / source for source in sources]
    while pending:
        path = pending.pop()
        if path in reached or not path.is_file():
            continue
        reached.add(path)
        pending += [root / target for _, _, target in includes_of(path)]
    return reached


def programs_of(root):
    """{program: (folders that it includes, folders that its target links)} of apps/CMakeLists.txt; what it takes from a
    library of apps/ (tessera_command_line) is its own."""
    listing = root / "CMakeLists.txt"
    text = CMAKE_COMMENT.sub("", listing.read_text(encoding="utf-8")) if listing.is_file() else ""
    sources, links, programs = {}, {}, []
    for command, arguments in CMAKE_COMMAND.findall(text):
        name, *words = arguments.split() or [""]
        if command == "tessera_app":
            programs.append(name)
        elif command not in ("add_library", "target_link_libraries"):
            continue
        sources.setdefault(name, set()).update(word for word in words if Path(word).suffix in SOURCE_SUFFIXES)
        links.setdefault(name, set()).update(word for word in words if word.startswith("tessera_"))
    result = {}
    for program in programs:
        own = {program} | {target for target in closure(links, program) if target in sources}
        linked = {target.removeprefix("tessera_") for name in own for target in links[name]}
        files = with_headers(root, {source for name in own for source in sources[name]})
        result[program] = (included_folders(files, "apps"), {name for name in linked if name in LEVEL})
    return result


def rows_of_sources(repository):
    """{row of the page's table: (folders included, folders linked)}."""
    roots = {name: root for name, root in folder_roots(repository).items() if name in LEVEL}
    rows = {name: (included_folders(source_files(root), name), links_of(root))
            for name, root in roots.items() if name != "apps"}
    return {**rows, **programs_of(roots["apps"])} if "apps" in roots else rows


def rows_of_page(text):
    """{row: (line number, what it says is included, what it says is linked)} of the page's table."""
    lines = text.splitlines()
    rows = {}
    if TABLE_HEAD not in lines:
        return rows
    first = lines.index(TABLE_HEAD) + 2
    for number, line in enumerate(lines[first:], first + 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3:
            break
        rows[cells[0].strip("`")] = (number, cells[1], cells[1] if cells[2] == SAME else cells[2])
    return rows


def check_table(page, text, repository):
    said = rows_of_page(text)
    if not said:
        yield f"{page}: there is no table with the head '{TABLE_HEAD}'"
        return
    found = rows_of_sources(repository)
    for name, (includes, links) in found.items():
        if name not in said:
            yield (f"{page}: the table has no row '{name}', which includes {in_order(includes)} and links "
                   f"{in_order(links)}")
            continue
        line, *cells = said[name]
        for verb, cell, folders in (("includes", cells[0], includes), ("links", cells[1], links)):
            if set(re.findall(r"\w+", cell)) != folders:
                yield f"{page}:{line}: the row '{name}' says that it {verb} {cell}; it {verb} {in_order(folders)}"
    for name in said.keys() - found.keys():
        yield f"{page}:{said[name][0]}: the table has a row '{name}'; there is no such folder or program"


def check_arrows(name, text, folders):
    """The arrows that a text draws are the order that is checked here, with or without folders that are yet to come."""
    present = [level for level in ([name for name in level if name in folders] for level in LEVELS) if level]
    drawn = ARROWS.search(text)
    if drawn is None:
        yield f"{name}: draws no arrows 'core <- ops <- …'"
        return
    levels = [sorted(re.findall(r"[a-z]+", level)) for level in re.split(r"<-?", drawn.group())]
    if levels not in (list(map(sorted, LEVELS)), list(map(sorted, present))):
        line = text.count("\n", 0, drawn.start()) + 1
        expected = " <- ".join(", ".join(level) for level in present)
        yield f"{name}:{line}: the arrows are drawn '{drawn.group()}'; they are {expected}"


def check_page(repository):
    """Every sentence of docs/architecture.md about folders that the sources don't bear out, as a line of text."""
    path = repository / PAGE
    if not path.is_file():
        return [f"{PAGE}: there is no such page to check"]
    text = path.read_text(encoding="utf-8")
    folders = set(folder_roots(repository))
    listed = set(re.findall(r"^\| `(?:src/(?=\w)|(?=apps))(\w+)` \|", text, re.MULTILINE))
    problems = [f"{PAGE}: the list of folders has no row '{name}'" for name in sorted(folders - listed)]
    problems += [f"{PAGE}: the list of folders has a row '{name}'; there is no such folder"
                 for name in sorted(listed - folders)]
    problems += check_table(PAGE, text, repository)
    problems += check_arrows(PAGE, text, folders)
    problems += check_arrows("scripts/check_includes.py", __doc__, folders)
    listing = repository / "CMakeLists.txt"
    if listing.is_file():
        problems += check_arrows("CMakeLists.txt", listing.read_text(encoding="utf-8"), folders)
    return problems


def main(arguments):
    repository = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    problems = check(repository) + check_page(repository)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
