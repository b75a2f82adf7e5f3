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


class CheckIncludes(unittest.TestCase):
    def problems(self, files):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return check_includes.check(Path(folder))

    def expect_one(self, files, *fragments):
        problems = self.problems(files)
        self.assertEqual(len(problems), 1, problems)
        for fragment in fragments:
            self.assertIn(fragment, problems[0])

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


if __name__ == "__main__":
    unittest.main()
