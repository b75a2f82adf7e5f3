#include "core/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>

#include "core/config_schema.h"
#include "core/error.h"
#include "core/files.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::filesystem::path kSource = TESSERA_SOURCE_DIR;

Config parse(const std::string& yaml, const std::vector<std::string>& overrides = {},
             const std::filesystem::path& folder = "/data/configs") {
  return parse_config(yaml, "test.yaml", folder, overrides);
}

/// The message of the ConfigError that is thrown, or "" where none is.
std::string complaint(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse(yaml, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

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
     "expected a section with the keys weight, temperature, temperature_min, queue; found '0.5'"},
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
  EXPECT_EQ(config.vision.position_interpolation, PositionInterpolation::kSizeAntialias);
  EXPECT_EQ(config.lora.target_modules, (std::vector<std::string>{"query", "value", "output.dense"}));
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

TEST_F(ConfigFiles, ThatCantBeReadAreConfigErrors) {
  EXPECT_THROW(load_config(folder_ / "absent.yaml"), ConfigError);
  EXPECT_THROW(load_config(folder_), ConfigError);
}

TEST_F(ConfigFiles, AResolvedFileReadsTheSameFromAnyFolder) {
  std::filesystem::create_directories(folder_ / "a/b");
  for (const auto& entry : std::filesystem::directory_iterator(kSource / "configs")) {
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
  EXPECT_EQ(config.lora.target_modules, std::vector<std::string>{"all-linear"});
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

// ---- writing ----

/// A Config in which every key differs from its default, or is left where its type gives no choice.
Config all_different() {
  Config config;
  for (const auto& key : config_keys()) {
    if (const auto* value = std::get_if<BooleanValue>(&key.value)) {
      value->member.of(config) = !value->member.of(config);
    } else if (const auto* integer = std::get_if<IntegerValue>(&key.value)) {
      integer->member.of(config) += 1;
    } else if (const auto* number = std::get_if<NumberValue>(&key.value)) {
      number->member.of(config) =
          number->member.of(config) * 0.9 + 1.0 / 3e7;  // many digits, within all ranges
    } else if (const auto* text = std::get_if<TextValue>(&key.value)) {
      text->member.of(config) =
          text->kind == TextKind::kName ? "wörd: \"#1\"\\ \t'x'" : "/p {0..3}/[a, b]: #é\n\x7f";
    } else if (const auto* word = std::get_if<WordValue>(&key.value)) {
      word->set(config, word->words.size() - 1);
    } else if (const auto* texts = std::get_if<TextListValue>(&key.value)) {
      texts->member.of(config) = {"/null/{a,b}", "/true", "/- x", "/1e3"};
    } else if (const auto* numbers = std::get_if<NumberListValue>(&key.value)) {
      numbers->member.of(config) = {0.1 + 0.2, 1.0 / 3.0, 5e-324};
    }
  }
  // back within what holds across keys
  config.vision.architecture.hidden_size = 13 * 60;
  config.language.hidden_size = 2 * 7 * 5 * 6;
  config.compressor.output_size = 5 * 26;
  config.data.batch_size = 17 * 4;
  return config;
}

TEST(ConfigWriting, ReadsBackExactly) {
  EXPECT_EQ(parse(to_yaml(Config{})), Config{});
  const auto config = all_different();
  EXPECT_EQ(parse(to_yaml(config)), config) << to_yaml(config);
}

TEST(ConfigWriting, QuotesWordsThatYamlWouldTakeForSomethingElse) {
  Config config;
  config.lora.target_modules = {"null", "true", "~", "12", "1e3", "-", "a: b", "#", "[x]", " x ", "query"};
  EXPECT_EQ(parse(to_yaml(config)).lora.target_modules, config.lora.target_modules);
}

TEST(ConfigTable, CoversEverySectionAndNamesEachKeyOnce) {
  std::set<std::string> paths;
  for (const auto& key : config_keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path;
    EXPECT_FALSE(key.meaning.empty()) << key.path;
    EXPECT_EQ((key.meaning + accepted_values(key)).find_first_of("|\n"), std::string::npos)
        << key.path << ": would break the table of docs/configuration.md";
    const auto dot = key.path.rfind('.');
    if (dot != std::string::npos) {
      EXPECT_NE(find_config_section(key.path.substr(0, dot)), nullptr) << key.path;
    }
  }
  for (const auto& section : config_sections()) {
    EXPECT_FALSE(names_in_section(section.path).empty()) << section.path;
    EXPECT_EQ(find_config_key(section.path), nullptr) << section.path;
  }
}

TEST(ConfigTable, BindsEveryKeyToAMemberOfItsOwn) {
  // Overriding one key changes one line of the written configuration: its own.
  const auto lines = [](const Config& config) {
    std::vector<std::string> all;
    for (const auto& key : config_keys()) all.push_back(value_as_yaml(key, config));
    return all;
  };
  const auto before = lines(Config{});
  const auto& keys = config_keys();
  const auto different = all_different();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Config config;
    std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, WordValue>) {
            value.set(config, value.get(different));
          } else {
            value.member.of(config) = value.member.of(different);
          }
        },
        keys[i].value);
    const auto after = lines(config);
    for (std::size_t j = 0; j < keys.size(); ++j) {
      EXPECT_EQ(after[j] != before[j], i == j) << keys[i].path << " and " << keys[j].path;
    }
  }
}

// ---- help ----

TEST(ConfigHelp, TheCommentedFileIsValidAndHoldsTheDefaults) {
  const auto text = commented_default_config();
  EXPECT_EQ(parse(text), Config{});
  const auto unbroken = std::regex_replace(text, std::regex("\\n *# "), " ");
  for (const auto& key : config_keys()) {
    EXPECT_NE(unbroken.find(key.meaning), std::string::npos) << key.path;
    EXPECT_NE(unbroken.find(fmt::format("[{}; default ", accepted_values(key))), std::string::npos)
        << key.path;
  }
}

TEST(ConfigHelp, TheCommittedReferenceIsCurrent) {
  EXPECT_EQ(read_file(kSource / "docs/configuration.md"), configuration_markdown())
      << "regenerate it: stage1_train --help-config=markdown > docs/configuration.md";
}

TEST(ConfigHelp, TheErrorInTheReferenceIsTheOneThatIsGiven) {
  const auto message = complaint("losses:\n  itc:\n    queue:\n      size: many\n")
                           .substr(std::string("test.yaml:4:13").size());
  EXPECT_THAT(configuration_markdown(), HasSubstr(message));
}

// ---- the files that come with the program ----

TEST(CommittedConfigs, AllLoadAndAreNamedAfterTheirFile) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kSource / "configs")) {
    SCOPED_TRACE(entry.path().string());
    const auto config = load_config(entry.path());
    EXPECT_EQ(config.run.name, entry.path().stem().string());
    EXPECT_FALSE(config.data.train.empty());
    EXPECT_FALSE(config.vision.weights.empty());
    EXPECT_FALSE(config.language.tokenizer.empty());
    names.insert(config.run.name);
  }
  EXPECT_THAT(names, ::testing::IsSupersetOf(
                         {"stage1", "stage1-all-linear", "quickstart", "flickr8k-small", "flickr8k-lora"}));
}

TEST(CommittedConfigs, AllLinearDiffersFromStageOneInItsTargetsAlone) {
  auto stage1 = load_config(kSource / "configs/stage1.yaml");
  const auto all_linear = load_config(kSource / "configs/stage1-all-linear.yaml");
  stage1.run.name = all_linear.run.name;
  stage1.lora.target_modules = {"all-linear"};
  EXPECT_EQ(stage1, all_linear);
}

TEST(CommittedConfigs, TheLoraRunStartsFromTheBackboneThatTheSmallRunExports) {
  const auto small = load_config(kSource / "configs/flickr8k-small.yaml");
  const auto lora = load_config(kSource / "configs/flickr8k-lora.yaml");
  EXPECT_EQ(small.vision.trainable, TrainableChoice::kFull);
  EXPECT_EQ(lora.vision.trainable, TrainableChoice::kLora);
  const auto repository = std::filesystem::canonical(kSource);
  EXPECT_EQ(lora.vision.weights,
            (repository / small.run.output_dir / small.run.name / "export/backbone").string());
  EXPECT_EQ(lora.data, small.data);
}

}  // namespace
}  // namespace tessera
