#include "eval/memory_experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "config/config.h"
#include "core/error.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "data/webdataset.h"
#include "eval/encode.h"
#include "tests/core/error_of.h"
#include "tests/inference/open_model.h"

namespace tessera::eval {
namespace {

using testing::HasSubstr;

/// A random model and twelve held-out scenes.
class MemoryExperiment : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_ = std::make_unique<Shared>(); }
  static void TearDownTestSuite() { shared_.reset(); }

  struct Shared : inference::OpenModel {
    std::shared_ptr<const data::Source> dataset =
        data::open_source(config.data.validation, config.data, null_logger());

    Shared() : OpenModel("memory-experiment") {}

    data::EvalLoader loader() const {
      return data::EvalLoader(dataset, config.data, config.eval.batch_size, null_logger());
    }
  };

  static inference::TrainedModel trained() { return shared_->trained(); }

  static std::unique_ptr<Shared> shared_;
};

std::unique_ptr<MemoryExperiment::Shared> MemoryExperiment::shared_;

TEST_F(MemoryExperiment, GroupsAreThoseThatTheyAreCalled) {
  data::EvalLoader loader = shared_->loader();
  const nlohmann::json figures =
      memory_experiment(trained(), *shared_->dataset, loader, {.pairs = 6, .draws = 2, .seed = 1});
  std::map<int, std::map<std::string, std::set<std::string>>> draws;
  std::set<std::string> empty_answers;
  for (const auto& line : figures.at("recalled_captions")) {
    draws[line.at("draw")][line.at("group")].insert(line.at("key").get<std::string>());
    if (line.at("group") == "empty_memory") {
      empty_answers.insert(line.at("answer").get<std::string>());
      EXPECT_EQ(line.at("confidence"), 0);
    }
  }
  EXPECT_EQ(empty_answers.size(), 1U);  // nothing but the model's habit
  ASSERT_EQ(draws.size(), 2U);
  for (auto& [draw, keys] : draws) {
    EXPECT_EQ(keys.at("written").size(), 6U);
    EXPECT_EQ(keys.at("never_written").size(), 6U);
    EXPECT_EQ(keys.at("code_decoded"), keys.at("written"));
    std::set<std::string> all = keys.at("written");
    all.insert(keys.at("never_written").begin(), keys.at("never_written").end());
    EXPECT_EQ(all.size(), 12U);
    std::set<std::string> halves = keys.at("kept");
    halves.insert(keys.at("forgotten").begin(), keys.at("forgotten").end());
    EXPECT_EQ(keys.at("kept").size(), 3U);
    EXPECT_EQ(halves, keys.at("written"));
  }
  EXPECT_NE(draws[0]["written"], draws[1]["written"]);
  EXPECT_EQ(figures.at("groups").at("written").at("pairs"), 12);
  EXPECT_EQ(figures.at("groups").at("forgotten").at("pairs"), 6);
  EXPECT_THAT(memory_table(figures), HasSubstr("empty_memory"));
}

TEST_F(MemoryExperiment, TooFewImagesAreNamed) {
  data::EvalLoader loader = shared_->loader();
  EXPECT_THAT(error_of([&] { memory_experiment(trained(), *shared_->dataset, loader, {.pairs = 7}); }),
              HasSubstr("at least 14 images, found 12"));

  // The same samples twice are no more images.
  const std::filesystem::path shard = shared_->config.data.validation.front();
  const std::filesystem::path copy = shared_->small.root() / "copy.tar";
  std::filesystem::copy_file(shard, copy);
  const auto twice = data::open_source({shard.string(), copy.string()}, {}, null_logger());
  data::EvalLoader of_twice(twice, shared_->config.data, shared_->config.eval.batch_size, null_logger());
  EXPECT_THAT(error_of([&] { memory_experiment(trained(), *twice, of_twice, {.pairs = 7}); }),
              HasSubstr("at least 14 images, found 12"));
}

}  // namespace
}  // namespace tessera::eval
