#!/usr/bin/env python3
"""Compiles every source and every header by itself, without output, and so finds includes that are missing.

Units of several sources and precompiled headers hide them: a source gets what it lacks from what is compiled before
it. Here each source of src, apps, tests and bench is compiled alone, without a precompiled header; so is each header,
but for those that a source includes first, which compile with it.

    scripts/check_files.py [--changed[=REV]] [--again] [--jobs N] [PATH...]

Flags come from the compile_commands.json of the preset cpu-files, which is configured for it and not built. What has
passed is remembered there until it, one of our headers that it includes, or its flags change, so a run that was
interrupted goes on where it stopped. Everything from nothing takes most of an hour on two cores.

Exit status: 0 all compile by themselves, 1 some don't, 2 they could not be tried.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
from check_includes import includes_of  # noqa: E402

PRESET = "cpu-files"
FOLDERS = ["src", "apps", "tests", "bench"]
COMPILER = re.compile(r"(^|[-/])(c\+\+|g\+\+|clang\+\+)(-[0-9.]+)?$")
PASSED = "checked_files.json"
MESSAGES = "check_files.log"


class CannotCheck(Exception):
    pass


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotCheck(f"{shlex.join(map(str, command))} failed\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def configure(repository):
    """Configures the preset; gives its folder."""
    build = repository / "build" / PRESET
    command = ["cmake", "--preset", PRESET]
    if not (build / "CMakeCache.txt").exists():
        libtorch = os.environ.get("TESSERA_LIBTORCH") or run(["scripts/setup.sh", "--print-libtorch"], repository)
        command += ["-D", f"TESSERA_LIBTORCH={libtorch.strip()}"]
    run(command, repository)
    return build


def check_flags(command):
    """Of a command of compile_commands.json the compiler and the flags that say how, without what is compiled, where
    to, the compiler's launcher and the precompiled header."""
    words = shlex.split(command)
    compiler = next((i for i, word in enumerate(words) if COMPILER.search(word)), None)
    if compiler is None:
        raise CannotCheck(f"found no compiler in: {command}")
    kept, rest = [words[compiler]], iter(words[compiler + 1:])
    for word in rest:
        if word in ("-c", "-o", "-MF", "-MT"):
            next(rest)
        elif word == "-include":
            header = next(rest)
            if not header.endswith("cmake_pch.hxx"):
                kept += [word, header]
        elif word not in ("-MD", "-Winvalid-pch", "-fpch-preprocess"):
            kept.append(word)
    return kept


class Sources:
    """What the build folder compiles, and what each file includes of the repository."""

    def __init__(self, repository, build):
        self.repository = repository
        database = build / "compile_commands.json"
        if not database.exists():
            raise CannotCheck(f"{database}: expected a configured build folder's, found none")
        self.flags = {}   # of a source, by its path from the repository
        self.folder = {}  # where its compiler runs
        for entry in json.loads(database.read_text(encoding="utf-8")):
            path = Path(entry["directory"], entry["file"])
            if "/Unity/" in entry["file"]:
                raise CannotCheck(f"{database}: expected sources one by one (TESSERA_UNITY=OFF), found the unit {path}")
            if path.is_relative_to(repository) and not path.is_relative_to(repository / "build"):
                name = str(path.relative_to(repository))
                self.flags.setdefault(name, check_flags(entry["command"]))
                self.folder.setdefault(name, entry["directory"])
        if not self.flags:
            raise CannotCheck(f"{database}: found no source of {repository} in it")

    def headers(self):
        found = [path for folder in FOLDERS for path in (self.repository / folder).rglob("*.h")]
        return sorted(str(path.relative_to(self.repository)) for path in found)

    def lends_flags(self, header):
        """The source whose flags a header is compiled with: one of its folder, or as near as there is."""
        return max(sorted(self.flags), key=lambda source: len(os.path.commonpath([source, header])))

    @functools.lru_cache(maxsize=None)
    def included(self, name):
        """Files of the repository that this one includes itself, in their order."""
        around = [Path(name).parent, Path("src"), Path("."), Path("apps")]
        found = []
        for _, _, path in includes_of(self.repository / name):
            candidates = (os.path.normpath(folder / path) for folder in around)
            found += [next((file for file in candidates if (self.repository / file).is_file()), None)]
        return found

    def fingerprint(self, name, command):
        """Of the contents of a file and all files of ours that it reads, and of the command."""
        reads, left = {name}, [name]
        while left:
            new = {file for file in self.included(left.pop()) if file} - reads
            reads |= new
            left += new
        digest = hashlib.sha256(json.dumps(command).encode())
        for file in sorted(reads):
            digest.update(file.encode() + b"\0" + (self.repository / file).read_bytes() + b"\0")
        return digest.hexdigest()

    def command(self, name):
        """(folder, command) that compiles a source or header by itself."""
        if name in self.flags:
            return self.folder[name], [*self.flags[name], "-fsyntax-only", str(self.repository / name)]
        source = self.lends_flags(name)
        # A header as the main file would be warned of its #pragma once.
        return self.folder[source], [*self.flags[source], "-fsyntax-only", "-include", str(self.repository / name),
                                     "-x", "c++", os.devnull]


def changed_since(revision, repository):
    changed = run(["git", "diff", "--name-only", "--diff-filter=d", "--relative", revision, "--"], repository)
    new = run(["git", "ls-files", "--others", "--exclude-standard"], repository)
    return {*changed.splitlines(), *new.splitlines()}


def choose(options, sources):
    """Names of the sources and headers to check, sources first."""
    headers = sources.headers()
    chosen = [*sorted(sources.flags), *headers]
    if options.paths:
        wanted = []
        for path in options.paths:
            absolute = Path(path).resolve()
            if not absolute.is_relative_to(sources.repository):
                raise CannotCheck(f"{path}: expected a path in {sources.repository}")
            wanted.append(absolute.relative_to(sources.repository))
        for path, absolute in zip(options.paths, wanted):
            if not any(Path(name).is_relative_to(absolute) for name in chosen):
                raise CannotCheck(f"{path}: expected a header, a source that CMake lists, or a folder with some")
        chosen = [name for name in chosen if any(Path(name).is_relative_to(path) for path in wanted)]
    if options.changed is not None:
        changed = changed_since(options.changed, sources.repository)
        chosen = [name for name in chosen if name in changed]
    first = {included[0] for name in chosen if name in sources.flags and (included := sources.included(name))}
    return [name for name in chosen if name not in first]


def first_error(message):
    lines = message.splitlines()
    return next((line for line in lines if re.search(r"\berror:", line)), lines[0] if lines else "no message")


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def default_jobs(repository):
    common = shlex.quote(str(repository / "scripts" / "common.sh"))
    return int(run(["bash", "-c", f"source {common} && compile_jobs"], repository))


def check_all(names, sources, build, jobs, passed):
    """{name: messages} of what fails. What passes is entered in `passed`, and written down at once."""
    failed = {}
    begin = time.monotonic()

    def check(name):
        folder, command = sources.command(name)
        start = time.monotonic()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return name, command, time.monotonic() - start, done

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            running = [pool.submit(check, name) for name in names]
            for number, future in enumerate(concurrent.futures.as_completed(running), 1):
                name, command, seconds, done = future.result()
                if done.returncode == 0:
                    passed[name] = sources.fingerprint(name, command)
                    written = build / f"{PASSED}.new"
                    written.write_text(json.dumps(passed, indent=1, sort_keys=True), encoding="utf-8")
                    written.replace(build / PASSED)
                else:
                    failed[name] = done.stderr
                left = (time.monotonic() - begin) / number * (len(names) - number)
                print(f"[{number}/{len(names)}] {name}: {'FAILED' if name in failed else 'passes'}, {seconds:.1f} s"
                      f"{f' ({duration(left)} left)' if number < len(names) else ''}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def check(options):
    repository = options.repository.resolve()
    build = options.build.resolve() if options.build else configure(repository)
    sources = Sources(repository, build)
    remembered = build / PASSED
    passed = json.loads(remembered.read_text(encoding="utf-8")) if remembered.exists() else {}

    names = choose(options, sources)
    left = [name for name in names
            if options.again or passed.get(name) != sources.fingerprint(name, sources.command(name)[1])]
    print(f"check_files.py: files to compile: {len(left)}, passed before: {len(names) - len(left)}", flush=True)
    failed = check_all(left, sources, build, options.jobs or default_jobs(repository), passed)
    if not failed:
        print(f"check_files.py: all compile by themselves: {len(names)}")
        return 0
    messages = build / MESSAGES
    messages.write_text("".join(f"== {name}\n{failed[name]}\n" for name in sorted(failed)), encoding="utf-8")
    print(f"check_files.py: {len(failed)} of {len(names)} do not compile by themselves (all messages: {messages}):",
          file=sys.stderr)
    for name in sorted(failed):
        print(f"  {name}\n    {first_error(failed[name])}", file=sys.stderr)
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="only these files, and files in these folders")
    parser.add_argument("--changed", nargs="?", const="HEAD", metavar="REV",
                        help="only files that differ from a revision (--changed=REV; by default HEAD)")
    parser.add_argument("--again", action="store_true", help="also what has passed before")
    parser.add_argument("--jobs", "-j", type=int, metavar="N", help="compilers at once (by default one a core)")
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="a folder configured with TESSERA_UNITY=OFF, "
                        f"instead of configuring build/{PRESET}")
    parser.add_argument("--repository", type=Path, default=Path(__file__).resolve().parents[1], metavar="FOLDER",
                        help="by default that of this script")
    options = parser.parse_args()
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs: expected a number of at least 1, found {options.jobs}")
    try:
        return check(options)
    except CannotCheck as problem:
        print(f"check_files.py: error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("check_files.py: interrupted; what has passed is remembered", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
