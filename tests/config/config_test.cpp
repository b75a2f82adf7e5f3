#include "config/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/files.h"
#include "tests/config/parse_config.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// ---- malformed files ----

struct Malformed {
  const char* name;
  const char* yaml;
  const char* start;  ///< file, line, column and key
  const char* part;   ///< what was wrong, what is accepted
};

void PrintTo(const Malformed& value, std::ostream* out) { *out << value.name; }

class MalformedConfig : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedConfig, GivesOneErrorWithPlaceAndWhatIsAccepted) {
  const auto message = complaint(GetParam().yaml);
  EXPECT_THAT(message, StartsWith(GetParam().start));
  EXPECT_THAT(message, HasSubstr(GetParam().part));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

const Malformed kMalformed[] = {
    {"UnknownKey", "lora:\n  lora_alhpa: 3\n", "test.yaml:2:3: lora.lora_alhpa: ",
     "unknown key; did you mean 'lora_alpha'?; section lora accepts: r, lora_alpha"},
    {"UnknownSection", "run:\n  seed: 1\nlosess:\n  itc: {}\n",
     "test.yaml:3:1: losess: ", "did you mean 'losses'?"},
    {"KeyOfAnotherSection", "lora_warmup_epochs: 3\n",
     "test.yaml:1:1: lora_warmup_epochs: ", "did you mean 'schedule.lora_warmup_epochs'?"},
    {"DottedKey", "lora.r: 3\n", "test.yaml:1:1: lora.r: ", "nested"},
    {"WordForInteger", "losses:\n  itc:\n    queue:\n      size: many\n",
     "test.yaml:4:13: losses.itc.queue.size: ", "expected an integer from 0 to 1048576, found 'many'"},
    {"FractionForInteger", "data:\n  batch_size: 3.5\n", "test.yaml:2:15: data.batch_size: ", "found '3.5'"},
    {"QuotedInteger", "data:\n  batch_size: \"64\"\n",
     "test.yaml:2:15: data.batch_size: ", "found the string \"64\""},
    {"IntegerTooSmall", "data:\n  batch_size: 0\n", "test.yaml:2:15: data.batch_size: ", "from 1 to"},
    {"IntegerTooLargeForItsType", "run:\n  seed: 99999999999999999999\n",
     "test.yaml:2:9: run.seed: ", "expected an integer of at least 0"},
    {"NumberOutOfRange", "lora: {lora_dropout: 1.0}\n",
     "test.yaml:1:22: lora.lora_dropout: ", "expected a number from 0 to below 1, found '1.0'"},
    {"NumberNotFinite", "schedule:\n  learning_rate: inf\n",
     "test.yaml:2:18: schedule.learning_rate: ", "expected a number above 0"},
    {"NotANumber", "schedule:\n  learning_rate: nan\n",
     "test.yaml:2:18: schedule.learning_rate: ", "found 'nan'"},
    {"YesForBoolean", "lora:\n  use_rslora: yes\n",
     "test.yaml:2:15: lora.use_rslora: ", "expected true or false, found 'yes'"},
    {"WrongWord", "run:\n  device: gpu\n",
     "test.yaml:2:11: run.device: ", "expected one of auto, cpu, cuda, found 'gpu'"},
    {"ScalarForList", "data:\n  train: a.tar\n",
     "test.yaml:2:10: data.train: ", "expected a list of paths, found 'a.tar'"},
    {"ListForScalar", "run:\n  name: [a, b]\n", "test.yaml:2:9: run.name: ", "found a list of 2"},
    {"MapInList", "data:\n  train:\n    - a.tar\n    - b: c\n",
     "test.yaml:4:7: data.train: ", "found a section in it"},
    {"WrongLength", "data:\n  image_mean: [0.5, 0.5]\n",
     "test.yaml:2:15: data.image_mean: ", "expected a list of 3 numbers of at least 0, found a list of 2"},
    {"ListItemOutOfRange", "data:\n  image_std: [0.5, 0, 1]\n",
     "test.yaml:2:20: data.image_std: ", "found '0' in it"},
    {"Repeated", "lora:\n  r: 8\n  lora_alpha: 2\n  r: 16\n",
     "test.yaml:4:3: lora.r: ", "given twice; it stands in line 2 already"},
    {"RepeatedSection", "lora:\n  r: 8\nlora:\n  r: 16\n", "test.yaml:3:1: lora: ", "given twice"},
    {"ScalarForSection", "run:\n  seed: 1\nlosses:\n  itc: 0.5\n", "test.yaml:4:8: losses.itc: ",
     "expected a section with the keys weight, from_epoch, temperature, temperature_min, queue; found '0.5'"},
    {"ListForSection", "lora:\n  - r: 8\n", "test.yaml:2:3: lora: ", "found a list of 1"},
    {"ScalarForFile", "stage1\n", "test.yaml:1:1: ", "expected sections such as 'run:'"},
    {"Missing", "data:\n  batch_size:\n  workers: 1\n", "test.yaml:2:3: data.batch_size: ", "found nothing"},
    {"BrokenYaml", "run:\n  name: [a\nlora:\n  r: 8\n", "test.yaml:", "not valid YAML"},
    {"Tab", "run:\n\tname: a\n", "test.yaml:2:", "not valid YAML"},
    {"UndefinedAlias", "run:\n  seed: *seed\n", "test.yaml:2:", "not valid YAML"},
    {"TwoDocuments", "run:\n  seed: 1\n---\nrun:\n  seed: 2\n", "test.yaml:", "expected one YAML document"},
    {"NameWithSlash", "run:\n  name: a/b\n", "test.yaml:2:9: run.name: ", "expected a name without '/'"},
    {"NameEmpty", "run:\n  name: \"\"\n", "test.yaml:2:9: run.name: ", "expected a name"},
    {"NameThatClimbs", "run:\n  name: ..\n", "test.yaml:2:9: run.name: ", "expected a name"},
    // several keys together
    {"HeadsOfEncoder", "vision:\n  architecture:\n    hidden_size: 100\n",
     "test.yaml:3:18: vision.architecture.hidden_size: ",
     "multiple of vision.architecture.num_attention_heads (12), found 100"},
    {"PatchesOfEncoder", "vision:\n  weights: random\n  architecture: {image_size: 100}\n",
     "test.yaml:3:30: vision.architecture.image_size: ", "multiple of vision.architecture.patch_size (14)"},
    {"PatchesOfPicture", "vision:\n  weights: random\ndata:\n  image_size: 100\n",
     "test.yaml:4:15: data.image_size: ", "multiple of vision.architecture.patch_size (14)"},
    {"OddHeadsOfLanguageModel", "language:\n  hidden_size: 378\n  num_attention_heads: 6\n",
     "test.yaml:2:16: language.hidden_size: ", "even multiple of language.num_attention_heads (6)"},
    {"CaptionsTooLong", "language:\n  max_tokens: 513\n",
     "test.yaml:2:15: language.max_tokens: ", "at most language.max_position_embeddings (512)"},
    {"CropsCrossed", "data:\n  augmentation:\n    scale_max: 0.2\n",
     "test.yaml:3:16: data.augmentation.scale_max: ",
     "at least data.augmentation.scale_min (0.5), found 0.2"},
    {"PhaseOneTooLong", "schedule:\n  lora_warmup_epochs: 60\n",
     "test.yaml:2:23: schedule.lora_warmup_epochs: ", "at most schedule.epochs (50), found 60"},
    {"TemperatureUnderItsFloor", "losses:\n  itc:\n    temperature: 0.005\n",
     "test.yaml:3:18: losses.itc.temperature: ", "at least losses.itc.temperature_min (0.01)"},
    {"EpisodeTooLong", "data:\n  batch_size: 64\nmemory:\n  episode: 64\n  slots: 32\n",
     "test.yaml:4:12: memory.episode: ", "at most memory.slots (32), found 64"},
    {"SlotsWithoutTheMemorysLoss",
     "losses:\n  memory:\n    weight: 0\nmemory:\n  code_size: 64\n  slots: 64\n",
     "test.yaml:6:10: memory.slots: ", "fewer than memory.code_size (64), found 64"},
    {"NothingToTrainOn",
     "losses: {itc: {weight: 0}, itm: {weight: 0}, maxsim: {weight: 0}, caption: {weight: 0}, memory: "
     "{weight: 0}}\n",
     "test.yaml:1:", "losses.itc.weight: every loss has weight 0"},
    {"OnlyAMemory",
     "losses: {itc: {weight: 0}, itm: {weight: 0}, maxsim: {weight: 0}, caption: {weight: 0}}\n",
     "test.yaml:", "losses.memory.weight: the memory keeps what other losses make"},
    {"ALossThatNeverBegins", "losses:\n  itm:\n    from_epoch: 51\n",
     "test.yaml:3:17: losses.itm.from_epoch: ", "at most schedule.epochs (50), found 51"},
    {"NoLossInTheFirstEpoch",
     "losses: {itc: {from_epoch: 2}, itm: {from_epoch: 2}, maxsim: {from_epoch: 2}, caption: {weight: 0}}\n",
     "test.yaml:", "losses.itc.from_epoch: no loss but the memory's begins in epoch 1"},
    {"EmptyExpression", "lora:\n  target_modules: ''\n", "test.yaml:2:19: lora.target_modules: ",
     "expected a list of names, or a regular expression, found the string \"\""},
    {"SectionForModules", "lora:\n  exclude_modules: {a: b}\n",
     "test.yaml:2:20: lora.exclude_modules: ", "found a section"},
    {"ListForNames", "lora:\n  rank_pattern: [query]\n", "test.yaml:2:17: lora.rank_pattern: ",
     "expected names, each with an integer from 1 to 16384, found a list of 1"},
    {"FractionForRank", "lora:\n  rank_pattern:\n    query: 8\n    fc1: 1.5\n",
     "test.yaml:4:10: lora.rank_pattern: ", "found '1.5' in it"},
    {"NameTwice", "lora:\n  alpha_pattern:\n    query: 8\n    query: 9\n",
     "test.yaml:4:5: lora.alpha_pattern: ", "found 'query' in it"},
    {"NegativeLayer", "lora:\n  layers_to_transform: [1, -1]\n", "test.yaml:2:28: lora.layers_to_transform: ",
     "expected a list of integers from 0 to 16384, found '-1' in it"},
    {"LayersOfAnExpression", "lora:\n  target_modules: query\n  layers_to_transform: [1]\n",
     "test.yaml:3:24: lora.layers_to_transform: ", "an expression"},
    {"PatternWithoutLayers", "lora:\n  layers_pattern: [layer]\n",
     "test.yaml:2:19: lora.layers_pattern: ", "no lora.layers_to_transform"},
    {"NoTargets", "lora:\n  target_modules: []\n",
     "test.yaml:2:19: lora.target_modules: ", "at least one module name"},
};

INSTANTIATE_TEST_SUITE_P(Config, MalformedConfig, ::testing::ValuesIn(kMalformed),
                         [](const auto& info) { return info.param.name; });

TEST(Config, SurvivesHostileYaml) {
  EXPECT_NE(complaint(std::string(100000, '[')), "");
  EXPECT_NE(complaint("run: &a\n  name: *a\n"), "");
  EXPECT_NE(complaint("run:\n  " + std::string(100000, 'k') + ": 1\n"), "");
  EXPECT_NE(complaint("? [a, b]\n: 1\n"), "");
  EXPECT_NE(complaint("run:\n  name: \"a\\0b\"\n"), "");
}

// ---- values ----

TEST(Config, EmptyFileAndEmptySectionsAreTheDefaults) {
  EXPECT_EQ(parse(""), Config{});
  EXPECT_EQ(parse("# nothing\n"), Config{});
  EXPECT_EQ(parse("run:\nlora: {}\nlosses:\n  itc:\n    queue:\n"), Config{});
}

TEST(Config, ReadsEveryKindOfValue) {
  const auto config = parse(R"(
run: {name: try-1, device: cpu, precision: bf16, seed: 9223372036854775807}
data:
  image_std: [1, 0.5, .25]
  drop_last: false
vision:
  position_interpolation: size_antialias
lora:
  target_modules: [query, value, output.dense]
schedule:
  learning_rate: 2e-4
  lora_warmup_epochs: 50
)");
  EXPECT_EQ(config.run.name, "try-1");
  EXPECT_EQ(config.run.device, DeviceChoice::kCpu);
  EXPECT_EQ(config.run.precision, PrecisionChoice::kBf16);
  EXPECT_EQ(config.run.seed, 9223372036854775807);
  EXPECT_EQ(config.data.image_std, (std::vector<double>{1, 0.5, 0.25}));
  EXPECT_FALSE(config.data.drop_last);
  EXPECT_EQ(config.vision.position_interpolation, vision::PositionInterpolation::kSizeAntialias);
  EXPECT_EQ(config.lora.target_modules.names, (std::vector<std::string>{"query", "value", "output.dense"}));
  EXPECT_EQ(config.schedule.learning_rate, 2e-4);
  EXPECT_EQ(config.schedule.lora_warmup_epochs, config.schedule.epochs);
}

TEST(Config, LoraChecksConcernLoraRunsOnly) {
  EXPECT_EQ(complaint("vision: {trainable: full}\nschedule: {epochs: 2}\n"), "");
  EXPECT_NE(complaint("vision: {trainable: lora}\nschedule: {epochs: 2}\n"), "");
}

// ---- paths ----

TEST(Config, InputPathsResolveAgainstTheFilesFolder) {
  const auto config = parse(R"(
run: {output_dir: out, log_dir: ../logs}
data:
  train:
    - ../sets/train-{000000..000005}.tar
    - /absolute/b.tar
vision: {weights: ../weights/dinov2-base/}
language: {tokenizer: "~/t.model", weights: ./lm}
lora: {adapter: ""}
init_from: ../../runs/a/checkpoints/latest
)");
  EXPECT_EQ(config.data.train,
            (std::vector<std::string>{"/data/sets/train-{000000..000005}.tar", "/absolute/b.tar"}));
  EXPECT_EQ(config.vision.weights, "/data/weights/dinov2-base");
  EXPECT_EQ(config.language.tokenizer, "/data/configs/~/t.model");
  EXPECT_EQ(config.language.weights, "/data/configs/lm");
  EXPECT_EQ(config.lora.adapter, "");
  EXPECT_EQ(config.init_from, "/runs/a/checkpoints/latest");
  EXPECT_EQ(config.run.output_dir, "out");
  EXPECT_EQ(config.run.log_dir, "../logs");
}

TEST(Config, RandomIsNoPath) {
  const auto config = parse("vision: {weights: random}\nlanguage: {weights: random}\n");
  EXPECT_EQ(config.vision.weights, "random");
  EXPECT_EQ(config.language.weights, "random");
  EXPECT_EQ(parse("language: {tokenizer: random}\n").language.tokenizer, "/data/configs/random");
}

TEST(Config, PathsInOverridesResolveAgainstTheWorkingFolder) {
  const auto here = std::filesystem::canonical(std::filesystem::current_path());
  const auto config =
      parse("language: {tokenizer: a.model}\nlora: {adapter: b}\n",
            {"language.tokenizer=x/a.model", "data.train=[\"t-{0..3}.tar\", /b.tar]", "lora.adapter="});
  EXPECT_EQ(config.language.tokenizer, (here / "x/a.model").string());
  EXPECT_EQ(config.data.train, (std::vector<std::string>{(here / "t-{0..3}.tar").string(), "/b.tar"}));
  EXPECT_EQ(config.lora.adapter, "");
}

class ConfigFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera-config-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = std::filesystem::canonical(pattern);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(ConfigFiles, DotDotClimbsFromWhereALinkedFolderReallyIs) {
  std::filesystem::create_directories(folder_ / "real/configs");
  std::filesystem::create_directory_symlink(folder_ / "real/configs", folder_ / "linked");
  write_file_atomically(folder_ / "real/configs/a.yaml", "init_from: ../start\n");
  EXPECT_EQ(load_config(folder_ / "linked/a.yaml").init_from, (folder_ / "real/start").string());
}

TEST_F(ConfigFiles, NameTheFileInComplaints) {
  const auto file = folder_ / "bad.yaml";
  write_file_atomically(file, "lora:\n  r: none\n");
  try {
    load_config(file);
    FAIL() << "a bad file was accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), StartsWith(file.string() + ":2:6: lora.r: "));
  }
}

TEST_F(ConfigFiles, MayHaveAByteOrderMarkAndLineEndsOfAnySystem) {
  const std::string mark = "\xef\xbb\xbf";
  for (const std::string& content : {mark + "run:\n  name: marked\n", std::string("run:\r\n  name: marked"),
                                     mark + "run:\r\n  name: marked\r\n"}) {
    write_file_atomically(folder_ / "marked.yaml", content);
    EXPECT_EQ(load_config(folder_ / "marked.yaml").run.name, "marked");
  }
}

TEST_F(ConfigFiles, OfAnotherKindAreCalledWhatTheyAre) {
  const auto message = [&](const std::string& content) {
    write_file_atomically(folder_ / "run.yaml", content);
    try {
      load_config(folder_ / "run.yaml");
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(message("version https://git-lfs.github.com/spec/v1\n"
                      "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
                      "size 346345912\n"),
              AllOf(HasSubstr("run.yaml"), HasSubstr("git lfs pull")));
  EXPECT_THAT(message("\n<!DOCTYPE HTML>\n<html><head><title>Sign in</title></head></html>\n"),
              AllOf(HasSubstr("run.yaml"), HasSubstr("web page")));
  std::string wide;
  for (const char c : std::string("run:\n  name: a\n")) wide += {c, '\0'};
  EXPECT_THAT(message(wide), AllOf(HasSubstr("run.yaml"), HasSubstr("UTF-16")));
  EXPECT_EQ(message(""), "no error");
}

TEST_F(ConfigFiles, ThatCantBeReadAreConfigErrors) {
  EXPECT_THROW(load_config(folder_ / "absent.yaml"), ConfigError);
  EXPECT_THROW(load_config(folder_), ConfigError);
}

TEST_F(ConfigFiles, AResolvedFileReadsTheSameFromAnyFolder) {
  std::filesystem::create_directories(folder_ / "a/b");
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(TESSERA_SOURCE_DIR) / "configs")) {
    const auto config = load_config(entry.path());
    for (const auto& place : {folder_ / "r.yaml", folder_ / "a/b/r.yaml"}) {
      write_file_atomically(place, to_yaml(config));
      EXPECT_EQ(load_config(place), config) << entry.path();
    }
  }
}

// ---- overrides ----

TEST(ConfigOverrides, ReplaceTheFilesValuesAndTheLastOneCounts) {
  const auto config = parse("schedule: {epochs: 20, lora_warmup_epochs: 1}\n",
                            {"schedule.epochs=2", "schedule.epochs=3", "run.device=cpu",
                             "lora.target_modules=[all-linear]", "losses.itc.queue.size=0"});
  EXPECT_EQ(config.schedule.epochs, 3);
  EXPECT_EQ(config.schedule.lora_warmup_epochs, 1);
  EXPECT_EQ(config.run.device, DeviceChoice::kCpu);
  EXPECT_TRUE(config.lora.target_modules.is_all_linear());
  EXPECT_EQ(config.losses.itc.queue.size, 0);
}

TEST(ConfigOverrides, AreNamedInComplaints) {
  const auto of = [](const std::string& override) { return complaint("", {override}); };
  EXPECT_EQ(of("losses.itc.queue.size=many"),
            "--set losses.itc.queue.size: expected an integer from 0 to 1048576, found 'many'");
  EXPECT_THAT(of("lora.rank_=8"), StartsWith("--set lora.rank_: unknown key"));
  EXPECT_THAT(of("schedule.epoch=8"), HasSubstr("did you mean 'epochs'?; section schedule accepts: epochs"));
  EXPECT_THAT(of("schedule.epochs.x=8"), StartsWith("--set schedule.epochs.x: unknown key"));
  EXPECT_THAT(of("lora={r: 8}"), StartsWith("--set lora: is a section; set one of its keys: r, lora_alpha"));
  EXPECT_THAT(of("schedule.epochs"), StartsWith("--set schedule.epochs: expected KEY.PATH=VALUE"));
  EXPECT_THAT(of("=3"), HasSubstr("expected KEY.PATH=VALUE"));
  EXPECT_THAT(of("schedule.epochs="), HasSubstr("found nothing"));
  EXPECT_THAT(of("data.train=a.tar"),
              StartsWith("--set data.train: expected a list of paths, found 'a.tar'"));
  EXPECT_THAT(of("data.train=[a-{0..3}.tar]"), StartsWith("--set data.train: expected a list of paths"));
  EXPECT_THAT(of("data.train=[a"), HasSubstr("broken YAML"));
  EXPECT_THAT(of("lora.target_modules=[a, {b: c}]"), HasSubstr("found a section in it"));
}

TEST(ConfigOverrides, AreNamedByChecksOfSeveralKeys) {
  EXPECT_EQ(complaint("language:\n  max_tokens: 20\n", {"language.max_tokens=600"}),
            "--set language.max_tokens: expected at most language.max_position_embeddings (512), found 600");
  EXPECT_THAT(complaint("", {"schedule.epochs=2"}), StartsWith("test.yaml: schedule.lora_warmup_epochs: "));
}

}  // namespace
}  // namespace tessera
