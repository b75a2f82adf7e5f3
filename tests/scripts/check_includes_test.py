#!/usr/bin/env python3
"""The include check finds what it is there to find, and accepts what is allowed."""

import sys
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))
sys.dont_write_bytecode = True

import check_includes  # noqa: E402


class WithFiles(unittest.TestCase):
    check = staticmethod(check_includes.check)

    def problems(self, files):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return self.check(Path(folder))

    def expect_one(self, files, *fragments):
        problems = self.problems(files)
        self.assertEqual(len(problems), 1, problems)
        for fragment in fragments:
            self.assertIn(fragment, problems[0])


class CheckIncludes(WithFiles):
    def test_arrows_that_point_left_pass(self):
        self.assertEqual([], self.problems({
            "src/core/error.h": "#include <string>\n#include <torch/torch.h>\n",
            "src/data/CMakeLists.txt": "tessera_library(data SOURCES a.cpp LIBS tessera_core)\n",
            "src/data/a.cpp": '#include "core/error.h"\n#include "data/a.h"\n',
            "src/fusion/CMakeLists.txt": "tessera_library(fusion SOURCES b.cpp LIBS tessera_data)\n",
            "src/fusion/b.cpp": '#include "core/error.h"\n#include "data/a.h"\n',
            "apps/CMakeLists.txt": "tessera_app(tool SOURCES tool.cpp LIBS tessera_fusion)\n",
            "apps/tool.cpp": '#include "fusion/b.h"\n#include "tool_options.h"\n',
            "tests/fusion/b_test.cpp": '#include "fusion/b.h"\n#include "tests/fusion/helper.h"\n',
        }))

    def test_include_to_the_right_fails(self):
        self.expect_one({"src/core/CMakeLists.txt": "tessera_library(core SOURCES a.cpp)\n",
                         "src/core/a.cpp": '#include "core/a.h"\n\n#  include "train/trainer.h"\n'},
                        "src/core/a.cpp:3", "core may not include train")

    def test_angle_brackets_do_not_hide_an_include(self):
        self.expect_one({"src/core/a.h": "#include <model/stage1_model.h>\n"}, "core may not include model")

    def test_neighbours_in_the_brace_fail(self):
        self.expect_one({"src/vision/lora.h": '#include "language/llama.h"\n'}, "vision may not include language")

    def test_neighbours_are_open_to_tests_but_the_right_is_not(self):
        self.assertEqual([], self.problems({
            "src/core/a.h": "", "tests/losses/a_test.cpp": '#include "language/llama.h"\n'}))
        self.expect_one({"src/core/a.h": "", "tests/losses/a_test.cpp": '#include "model/stage1_model.h"\n'},
                        "tests/losses/a_test.cpp:1", "may not include model")

    def test_include_without_link_fails(self):
        self.expect_one({"src/data/CMakeLists.txt": "tessera_library(data SOURCES a.cpp)  # not tessera_core\n",
                         "src/data/a.cpp": '#include "core/error.h"\n#include "core/files.h"\n'},
                        "does not link tessera_core")

    def test_link_against_the_arrows_fails(self):
        self.expect_one({"src/data/CMakeLists.txt": "tessera_library(data SOURCES a.cpp LIBS tessera_losses)\n",
                         "src/data/a.cpp": ""},
                        "src/data/CMakeLists.txt", "data may not link tessera_losses")

    def test_own_target_properties_are_no_link(self):
        self.assertEqual([], self.problems({
            "src/data/CMakeLists.txt":
                "tessera_library(data SOURCES a.cpp)\ntarget_compile_options(tessera_data PRIVATE -O3)\n"}))

    def test_folder_without_a_place_fails(self):
        self.expect_one({"src/utils/a.h": ""}, "src/utils", "no place")

    def test_relative_and_bare_includes_fail(self):
        self.expect_one({"src/data/a.h": '#include "../core/error.h"\n'}, "'../core/error.h'")
        self.expect_one({"src/data/a.h": '#include "b.h"\n'}, '"data/b.h"')

    def test_sources_do_not_reach_into_tests(self):
        self.expect_one({"src/data/a.h": '#include "tests/data/helper.h"\n'},
                        "data may not include 'tests/data/helper.h'")

    def test_commented_include_is_none(self):
        self.assertEqual([], self.problems({
            "src/core/a.h": '// #include "train/trainer.h"\n/*\n#include "train/trainer.h"\n*/\n'}))

    def test_nothing_to_check_fails(self):
        self.expect_one({"README.md": ""}, "no src/ folder")


PAGE = """
| `src/core` | errors |
| `src/data` | shards |
| `src/eval` | suites |
| `apps` | programs |
| `configs`, `scripts` | not sources |

{ core } <- data <- eval <- apps

| folder | includes | its target links |
|---|---|---|
| `core` | – | – |
| `data` | core | the same |
| `eval` | core, data | data |
| `tool` | core, data | core, eval |

| `other` | table | here |
"""

SOURCES = {
    "src/core/a.h": "#include <string>\n",
    "src/data/CMakeLists.txt": "tessera_library(data SOURCES a.cpp LIBS tessera_core)\n",
    "src/data/a.cpp": '#include "core/a.h"\n#include "data/a.h"\n',
    "src/eval/CMakeLists.txt": "tessera_library(eval SOURCES a.cpp LIBS tessera_data)\n",
    "src/eval/a.cpp": '#include "core/a.h"\n#include "data/a.h"\n',
    # A program's own are its sources, the headers of apps/ that these include, and libraries of apps/.
    "apps/CMakeLists.txt": "add_library(tessera_helper STATIC helper.cpp)  # tessera_train is not linked\n"
                           "target_link_libraries(tessera_helper PUBLIC tessera_core Boost::program_options)\n"
                           "tessera_app(tool\n  SOURCES tool/main.cpp\n  LIBS tessera_helper tessera_eval)\n",
    "apps/helper.cpp": '#include "helper.h"\n',
    "apps/helper.h": '#include "core/a.h"\n',
    "apps/tool/main.cpp": '#include "tool/commands.h"\n',
    "apps/tool/commands.h": '#include "data/a.h"\n',
}


class CheckPage(WithFiles):
    """The page about the architecture is held to the sources."""

    check = staticmethod(check_includes.check_page)

    def with_page(self, old="", new=""):
        self.assertIn(old, PAGE)
        return {**SOURCES, "docs/architecture.md": PAGE.replace(old, new, 1)}

    def test_a_true_page_passes(self):
        self.assertEqual([], self.problems(self.with_page()))

    def test_the_page_of_this_repository_is_true(self):
        self.assertEqual([], check_includes.check_page(REPOSITORY))

    def test_an_include_that_the_page_does_not_name_is_found(self):
        self.expect_one(self.with_page("| `eval` | core, data | data |", "| `eval` | data | the same |"),
                        "docs/architecture.md:14", "'eval'", "says that it includes data;", "it includes core, data")

    def test_an_include_that_is_not_there_is_found(self):
        self.expect_one(self.with_page("| `core` | – | – |", "| `core` | data | – |"),
                        "'core'", "includes data;", "includes –")

    def test_a_link_that_is_not_there_is_found(self):
        self.expect_one(self.with_page("| `eval` | core, data | data |", "| `eval` | core, data | the same |"),
                        "'eval'", "says that it links core, data;", "it links data")

    def test_what_a_program_takes_from_a_library_of_apps_is_its_own(self):
        self.expect_one(self.with_page("| `tool` | core, data |", "| `tool` | data |"), "'tool'", "includes core, data")
        self.expect_one(self.with_page("| core, eval |", "| eval |"), "'tool'", "links core, eval")

    def test_rows_that_are_missing_or_mean_nothing_are_found(self):
        self.expect_one(self.with_page("| `data` | core | the same |\n"), "no row 'data', which includes core")
        self.expect_one(self.with_page("| `core` | – | – |", "| `core` | – | – |\n| `util` | – | – |"),
                        "a row 'util'", "no such folder or program")

    def test_the_list_of_folders_is_held_to_the_folders(self):
        self.expect_one(self.with_page("| `src/data` | shards |\n"), "list of folders has no row 'data'")
        self.expect_one(self.with_page("| `src/data` | shards |", "| `src/data` | shards |\n| `src/util` | – |"),
                        "a row 'util'")

    def test_arrows_in_another_order_are_found(self):
        for drawn in ("{ core } <- eval <- data <- apps", "{ core, data } <- eval <- apps", "{ core } <- data <- apps"):
            with self.subTest(drawn):
                self.expect_one(self.with_page("{ core } <- data <- eval <- apps", drawn),
                                "docs/architecture.md:8", drawn, "they are core <- data <- eval <- apps")

    def test_a_page_without_table_or_arrows_is_found(self):
        self.expect_one(self.with_page("| folder | includes | its target links |", "| folder | uses |"), "no table")
        self.expect_one(self.with_page("{ core } <- data <- eval <- apps\n"), "draws no arrows")
        self.expect_one(SOURCES, "no such page")


if __name__ == "__main__":
    unittest.main()
