#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>

#include "core/error.h"
#include "golden_harness.h"

namespace tessera::golden {
namespace {

GoldenOps all_ops() {
  GoldenOps ops;
  add_vision_ops(ops);
  add_language_ops(ops);
  add_loss_ops(ops);
  add_eval_ops(ops);
  add_memory_ops(ops);
  add_fusion_ops(ops);
  add_image_ops(ops);
  return ops;
}

void run_folder(const std::filesystem::path& folder) {
  const GoldenOps ops = all_ops();
  const auto cases = find_cases(folder);
  EXPECT_FALSE(cases.empty()) << folder << " holds no golden case (*.safetensors)";
  for (const auto& path : cases) {
    SCOPED_TRACE(path.string());
    const auto start = std::chrono::steady_clock::now();
    try {
      const GoldenCase golden = read_golden_case(path);
      const auto complaints = check_case(golden, ops);
      for (const auto& complaint : complaints) {
        ADD_FAILURE() << golden.name << ": " << complaint;
      }
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::cout << fmt::format("{:<8} {:<40} {:<14} {} outputs, {} gradients, {:.2f} s\n",
                               complaints.empty() ? "agrees" : "DIFFERS", golden.name, golden.op,
                               golden.outputs.size(), golden.gradients.size(), seconds.count());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

TEST(Golden, CommittedCases) { run_folder(std::filesystem::path(TESSERA_SOURCE_DIR) / "tests" / "golden"); }

TEST(Golden, CasesOfTheEnvironment) {
  const char* folder = std::getenv("TESSERA_GOLDEN_DIR");
  if (folder == nullptr || *folder == '\0') {
    GTEST_SKIP() << "TESSERA_GOLDEN_DIR is not set";
  }
  run_folder(folder);
}

}  // namespace
}  // namespace tessera::golden
