// `tessera memory` as a user runs it: every action over a checkpoint and a memory file.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/files.h"
#include "data/open_source.h"
#include "data/tar_writer.h"
#include "tests/apps/run_to_end.h"
#include "tests/train/small_run.h"
#include "train/trainer.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Json = nlohmann::json;

/// A checkpoint of a run of two steps, and a picture file of its held-out set.
class MemoryCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = std::make_unique<train::SmallRun>("tessera-memory-command");
    for (const char* name : {"one", "two"}) {
      Config config = small_->config(name);
      config.run.seed = name == std::string("one") ? 1 : 2;
      config.schedule.max_steps = 2;
      config.eval.every_epochs = 0;
      train::Trainer(config, {.log_to_terminal = false}).run();
    }
    const auto dataset = data::open_source({shards()}, {}, null_logger());
    const data::Sample sample = dataset->read(0);
    std::ofstream(picture(), std::ios::binary)
        .write(reinterpret_cast<const char*>(sample.image.data()),
               static_cast<std::streamsize>(sample.image.size()));
  }
  static void TearDownTestSuite() { small_.reset(); }

  void SetUp() override { fs::remove(file()); }

  static std::string shards() { return (small_->root() / "shapes" / "val-000000.tar").string(); }
  static fs::path picture() { return small_->root() / "picture.png"; }
  static fs::path file() { return small_->root() / "memory.safetensors"; }

  static Finished memory(const std::string& words) {
    return run_to_end(fmt::format("{} memory {}", TESSERA_TOOL, words));
  }
  /// An action on the memory file, with the model where it takes one.
  static Finished on_file(const std::string& words, const std::string& run = "") {
    const std::string model =
        run.empty() ? ""
                    : fmt::format(" --model {}", (small_->run_folder(run) / "checkpoints/latest").string());
    return memory(fmt::format("{}{} --memory {}", words, model, file().string()));
  }
  static Json json_of(const Finished& finished) {
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    return Json::parse(finished.output);
  }

  static std::unique_ptr<train::SmallRun> small_;
};

std::unique_ptr<train::SmallRun> MemoryCommand::small_;

TEST_F(MemoryCommand, APairIsWrittenRecalledAndForgotten) {
  const std::string picture_word = picture().string();
  const Finished wrote =
      on_file(fmt::format("write {} --caption 'a small red circle' --id ball", picture_word), "one");
  ASSERT_EQ(wrote.exit_code, 0) << wrote.output;
  EXPECT_THAT(wrote.output, HasSubstr("1 written, 1 entries"));

  const Json recalled = json_of(on_file(fmt::format("recall --image {} --json", picture_word), "one"));
  EXPECT_EQ(recalled.at("nearest").size(), 1U);
  EXPECT_EQ(recalled.at("nearest")[0].at("id"), "ball");
  EXPECT_EQ(recalled.at("nearest")[0].at("caption"), "a small red circle");
  EXPECT_EQ(recalled.at("nearest")[0].at("image"), picture_word);
  EXPECT_TRUE(recalled.at("answer").is_string());
  EXPECT_GT(recalled.at("confidence").get<double>(), 0);

  const Json entries = json_of(on_file("list --json")).at("entries");
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].at("id"), "ball");

  EXPECT_EQ(on_file("forget ball").exit_code, 0);
  EXPECT_EQ(json_of(on_file("stats --json")).at("entries"), 0);
  const Finished nothing = on_file("recall --text circle", "one");
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_THAT(nothing.output, HasSubstr("nothing has been written"));
}

TEST_F(MemoryCommand, ManyAreWrittenFromShardsUpToALimit) {
  ASSERT_EQ(on_file(fmt::format("write --shards {} --limit 7", shards()), "one").exit_code, 0);
  const Finished listed = on_file("list");
  EXPECT_EQ(std::count(listed.output.begin(), listed.output.end(), '\n'), 7) << listed.output;
  const Json recalled = json_of(on_file("recall --text 'a small red circle' --nearest 2 --json", "one"));
  EXPECT_EQ(recalled.at("nearest").size(), 2U);
}

TEST_F(MemoryCommand, AnImageWithASampleACaptionIsWrittenOnce) {
  const std::string png = read_file(picture());
  const fs::path shard = small_->root() / "repeated.tar";
  data::TarWriter tar(shard);
  for (const auto& [key, record] :
       {std::pair{"a", R"({"image_id": 7, "caption": "a small red circle"})"},
        std::pair{"b", R"({"image_id": 8, "caption": "a blue square"})"},
        std::pair{"c", R"({"image_id": 7, "caption": "a circle that is red"})"}}) {
    tar.add(fmt::format("{}.png", key), png);
    tar.add(fmt::format("{}.json", key), record);
  }
  tar.finish();
  const Finished wrote = on_file("write --shards " + shard.string(), "one");
  ASSERT_EQ(wrote.exit_code, 0) << wrote.output;
  EXPECT_THAT(wrote.output, HasSubstr("2 written, 2 entries"));
  EXPECT_THAT(wrote.output, HasSubstr("1 sample left out"));
  const Json entries = json_of(on_file("list --json")).at("entries");
  EXPECT_EQ(entries[0].at("id"), "a");
  EXPECT_EQ(entries[1].at("id"), "b");
}

TEST_F(MemoryCommand, ManyAreWrittenFromATableAndAllOrNone) {
  const fs::path table = small_->root() / "pairs.tsv";
  write_file_atomically(table, "picture.png\ta red circle\tfirst\npicture.png\ta blue square\n");
  ASSERT_EQ(on_file(fmt::format("write --tsv {}", table.string()), "one").exit_code, 0);
  const Json entries = json_of(on_file("list --json")).at("entries");
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].at("id"), "first");
  EXPECT_EQ(entries[1].at("caption"), "a blue square");

  write_file_atomically(table, "picture.png\ta green circle\tthird\nno tab here\n");
  const Finished broken = on_file(fmt::format("write --tsv {}", table.string()), "one");
  EXPECT_EQ(broken.exit_code, 1);
  EXPECT_THAT(broken.output, HasSubstr("pairs.tsv:2"));
  EXPECT_EQ(json_of(on_file("list --json")).at("entries").size(), 2U);
}

TEST_F(MemoryCommand, ATableMayHaveBeenSavedAnywhere) {
  const fs::path table = small_->root() / "pairs.tsv";
  write_file_atomically(
      table, "\xef\xbb\xbfpicture.png\ta red circle\tfirst\r\n\r\npicture.png\ta blue square\tsecond");
  ASSERT_EQ(on_file(fmt::format("write --tsv {}", table.string()), "one").exit_code, 0);
  const Json entries = json_of(on_file("list --json")).at("entries");
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].at("id"), "first");
  EXPECT_EQ(entries[0].at("image"), (small_->root() / "picture.png").string());
  EXPECT_EQ(entries[1].at("caption"), "a blue square");

  write_file_atomically(table, "picture.png\tcaf\xe9\tthird\n");
  const Finished latin = on_file(fmt::format("write --tsv {}", table.string()), "one");
  EXPECT_EQ(latin.exit_code, 1);
  EXPECT_THAT(latin.output, testing::AllOf(HasSubstr("pairs.tsv:1"), HasSubstr("expected UTF-8")));
}

TEST_F(MemoryCommand, ImagesMayHaveNamesThatAreNoUtf8) {
  const fs::path image = small_->root() / "caf\xe9.png";
  fs::copy_file(picture(), image, fs::copy_options::overwrite_existing);
  ASSERT_EQ(on_file(fmt::format("write {} --caption circle", image.string()), "one").exit_code, 0);
  const Json entries = json_of(on_file("list --json")).at("entries");
  EXPECT_EQ(entries[0].at("id"), (small_->root() / "caf%E9.png").string());
  EXPECT_EQ(on_file(fmt::format("forget {}", image.string())).exit_code, 0);
}

TEST_F(MemoryCommand, WhatIsThereCanBeLeftOut) {
  const std::string words = fmt::format("write --shards {} --limit ", shards());
  ASSERT_EQ(on_file(words + "3", "one").exit_code, 0);
  const Finished again = on_file(words + "5 --skip-existing", "one");
  ASSERT_EQ(again.exit_code, 0) << again.output;
  EXPECT_THAT(again.output, HasSubstr("2 written, 3 were there already, 5 entries"));
  EXPECT_THAT(on_file(words + "5 --skip-existing", "one").output,
              HasSubstr("0 written, 5 were there already"));
  EXPECT_THAT(on_file(words + "5", "one").output, HasSubstr("--skip-existing"));
}

TEST_F(MemoryCommand, WhatIsNoMemoryIsNamed) {
  const auto listed = [&](const fs::path& path) { return memory("list --memory " + path.string()).output; };
  EXPECT_THAT(listed(picture()), testing::AllOf(HasSubstr("picture.png"), HasSubstr("a PNG image")));
  EXPECT_THAT(listed(small_->root() / "tokenizer.model"), HasSubstr("is no safetensors file"));
}

TEST_F(MemoryCommand, AFileOfAnotherModelIsRefused) {
  ASSERT_EQ(on_file(fmt::format("write --shards {} --limit 2", shards()), "one").exit_code, 0);
  const Finished other = on_file("recall --text circle", "two");
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.output, HasSubstr("was written with model"));
}

TEST_F(MemoryCommand, MistakesAreNamedAndChangeNothing) {
  ASSERT_EQ(on_file(fmt::format("write --shards {} --limit 3", shards()), "one").exit_code, 0);
  const std::string before = read_file(file());
  const Json entries = json_of(on_file("list --json")).at("entries");
  const std::string id = entries[0].at("id");
  struct Mistake {
    std::string words;
    std::string run;
    int exit_code;
    std::string says;
  };
  const std::vector<Mistake> mistakes = {
      {fmt::format("write --shards {} --limit 1", shards()), "one", 1, "is already there"},
      {"write --caption alone", "one", 2, "name one of IMAGE"},
      {fmt::format("write {}", picture().string()), "one", 2, "belong together"},
      {"write absent.png --caption text", "one", 1, "absent.png"},
      {"recall", "one", 2, "--image and --text"},
      {"recall --image absent.png", "one", 1, "absent.png"},
      {fmt::format("forget {} nobody", id), "", 1, "there is no 'nobody'"},
      {"forget", "", 2, "name the ids"},
      {"remember", "", 2, "no action 'remember'"},
  };
  for (const Mistake& mistake : mistakes) {
    const Finished finished = on_file(mistake.words, mistake.run);
    EXPECT_EQ(finished.exit_code, mistake.exit_code) << mistake.words << "\n" << finished.output;
    EXPECT_THAT(finished.output, HasSubstr(mistake.says)) << mistake.words;
    EXPECT_EQ(read_file(file()), before) << mistake.words;
  }
}

TEST_F(MemoryCommand, TheExperimentWritesItsFigures) {
  const fs::path output = small_->root() / "experiment.json";
  const std::string model = (small_->run_folder("one") / "checkpoints/latest").string();
  const Finished finished =
      memory(fmt::format("experiment --checkpoint {} --shards {} --pairs 6 --draws 2 --output {}", model,
                         shards(), output.string()));
  ASSERT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_THAT(finished.output, HasSubstr("never_written"));
  const Json figures = Json::parse(read_file(output));
  EXPECT_EQ(figures.at("groups").at("written").at("pairs"), 12);
  EXPECT_EQ(figures.at("groups").at("forgotten").at("pairs"), 6);
  const Finished many = memory(fmt::format("experiment --model {} --shards {} --pairs 7", model, shards()));
  EXPECT_EQ(many.exit_code, 1);
  EXPECT_THAT(many.output, HasSubstr("expected at least 14 images, found 12"));
}

TEST_F(MemoryCommand, EveryActionHasHelp) {
  for (const std::string action : {"write", "recall", "forget", "list", "stats", "experiment"}) {
    const Finished finished = memory(action + " --help");
    EXPECT_EQ(finished.exit_code, 0) << action;
    EXPECT_THAT(finished.output, HasSubstr("Usage: tessera memory " + action));
    EXPECT_THAT(memory("--help").output, HasSubstr(action));
  }
}

}  // namespace
}  // namespace tessera
