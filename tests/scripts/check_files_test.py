#!/usr/bin/env python3
"""The file-by-file check finds what does not compile by itself, and forgets nothing that changed.

Usage: check_files_test.py COMPILER
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_files.py"
COMPILER = "c++"

GOOD = {
    "src/core/size.h": "#pragma once\n#include <cstddef>\nstd::size_t size();\n",
    "src/core/size.cpp": '#include "core/size.h"\nstd::size_t size() { return 1; }\n',
}
LACKING = {
    # Compiles after size.cpp in one unit, and with a precompiled <string>, but not alone.
    "src/core/name.cpp": "std::string name() { return {}; }\n",
}


class CheckFiles(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.repository = Path(folder.name).resolve()
        self.build = self.repository / "build" / "any"
        self.build.mkdir(parents=True)
        (self.build / "cmake_pch.hxx").write_text("#include <string>\n", encoding="utf-8")

    def write(self, files, sources=None):
        for name, text in files.items():
            path = self.repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        sources = sources or [name for name in files if name.endswith(".cpp")]
        (self.build / "compile_commands.json").write_text(json.dumps([{
            "directory": str(self.build),
            "file": str(self.repository / name),
            "command": f"cmake -E env A=b ccache {COMPILER} -I{self.repository}/src -Wall -Werror -Winvalid-pch "
                       f"-include {self.build}/cmake_pch.hxx -o {Path(name).name}.o -c {self.repository / name}",
        } for name in sources]), encoding="utf-8")

    def check(self, *arguments):
        return subprocess.run([sys.executable, SCRIPT, "--repository", self.repository, "--build", self.build, "-j1",
                               *arguments], capture_output=True, text=True)

    def expect(self, status, *fragments, arguments=(), absent=()):
        done = self.check(*arguments)
        text = done.stdout + done.stderr
        self.assertEqual(status, done.returncode, text)
        for fragment in fragments:
            self.assertIn(fragment, text)
        for fragment in absent:
            self.assertNotIn(fragment, text)

    def git(self, *arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=self.repository,
                       check=True, capture_output=True)

    def test_what_compiles_alone_passes_and_leaves_no_output(self):
        self.write(GOOD)
        self.expect(0, "[1/1] src/core/size.cpp: passes")
        self.assertEqual([], list(self.repository.rglob("*.o")))

    def test_a_source_that_needs_others_includes_fails_with_its_first_error(self):
        self.write({**GOOD, **LACKING})
        self.expect(1, "1 of 2 do not compile", "src/core/name.cpp", "error:", "std")
        self.assertIn("src/core/name.cpp", (self.build / "check_files.log").read_text(encoding="utf-8"))

    def test_warnings_count_where_the_flags_say_so(self):
        self.write({"src/a.cpp": "int main() { int unused; }\n"})
        self.expect(1, "src/a.cpp", "unused variable")

    def test_a_header_that_no_source_includes_first_is_compiled_by_itself(self):
        self.write({**GOOD,
                    "src/core/name.h": "#pragma once\nstd::string name();\n",
                    "src/core/user.cpp": '#include <string>\n#include "core/name.h"\n'})
        self.expect(1, "1 of 3 do not compile", "src/core/name.h", absent=["src/core/user.cpp: FAILED"])

    def test_what_passed_is_compiled_again_only_after_a_change(self):
        self.write(GOOD)
        self.expect(0, "files to compile: 1, passed before: 0")
        self.expect(0, "files to compile: 0, passed before: 1")
        self.expect(0, "files to compile: 1,", arguments=["--again"])
        (self.repository / "src/core/size.h").write_text("#pragma once\nstd::size_t size();\n", encoding="utf-8")
        self.expect(1, "files to compile: 1, passed before: 0", "src/core/size.cpp")
        self.expect(1, "files to compile: 1, passed before: 0", "src/core/size.cpp")

    def test_paths_restrict(self):
        self.write({**GOOD, **LACKING})
        size = self.repository / "src/core/size.cpp"
        self.expect(0, "all compile by themselves: 1", arguments=[size])
        self.expect(1, "1 of 2 do not", arguments=[self.repository / "src"])
        self.expect(2, "CMake lists", arguments=[self.repository / "src/core/other.cpp"])

    def test_changed_is_what_git_says(self):
        self.write({**GOOD, **LACKING})
        (self.repository / ".gitignore").write_text("/build/\n", encoding="utf-8")
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "a")
        self.expect(0, "files to compile: 0, passed before: 0", arguments=["--changed"])
        (self.repository / "src/core/size.h").write_text(GOOD["src/core/size.h"] + "\n", encoding="utf-8")
        self.expect(0, "[1/1] src/core/size.h: passes", arguments=["--changed"])
        self.write({**GOOD, **LACKING, "src/core/new.cpp": "int new_one();\n"})
        self.expect(0, "[1/1] src/core/new.cpp: passes", arguments=["--changed=HEAD"])
        self.expect(2, "nowhere", arguments=["--changed=nowhere"])

    def test_a_build_by_units_is_refused(self):
        self.write({"build/any/Unity/unity_0_cxx.cxx": ""}, sources=["build/any/Unity/unity_0_cxx.cxx"])
        self.expect(2, "TESSERA_UNITY=OFF")

    def test_a_folder_that_is_not_configured_is_refused(self):
        self.expect(2, "compile_commands.json")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        COMPILER = sys.argv.pop(1)
    unittest.main()
