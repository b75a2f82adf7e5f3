#include "config/config_table.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>

#include "config/config.h"
#include "core/files.h"
#include "tests/config/parse_config.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kSource = TESSERA_SOURCE_DIR;

// ---- writing ----

/// A Config in which every key differs from its default, or is left where its type gives no choice.
Config all_different() {
  Config config;
  const auto table = config_table(config);
  for (const auto& key : table.keys()) {
    if (const auto* value = std::get_if<BooleanValue>(&key.value)) {
      *value->member = !*value->member;
    } else if (const auto* integer = std::get_if<IntegerValue>(&key.value)) {
      *integer->member += 1;
    } else if (const auto* number = std::get_if<NumberValue>(&key.value)) {
      *number->member = *number->member * 0.9 + 1.0 / 3e7;  // many digits, within all ranges
    } else if (const auto* text = std::get_if<TextValue>(&key.value)) {
      *text->member = text->kind == TextKind::kName ? "wörd: \"#1\"\\ \t'x'" : "/p {0..3}/[a, b]: #é\n\x7f";
    } else if (const auto* word = std::get_if<WordValue>(&key.value)) {
      const std::size_t last = word->words.size() - 1;
      word->set(word->get() == last ? 0 : last);
    } else if (const auto* texts = std::get_if<TextListValue>(&key.value)) {
      *texts->member = {"/null/{a,b}", "/true", "/- x", "/1e3"};
    } else if (const auto* numbers = std::get_if<NumberListValue>(&key.value)) {
      *numbers->member = {0.1 + 0.2, 1.0 / 3.0, 5e-324};
    } else if (const auto* integers = std::get_if<IntegerListValue>(&key.value)) {
      *integers->member = {0, 3, 11};
    } else if (const auto* modules = std::get_if<NamesOrPatternValue>(&key.value)) {
      *modules->names = {"fc1", "1e3", ": {"};
    } else if (const auto* ranks = std::get_if<NamedIntegersValue>(&key.value)) {
      *ranks->member = {{"z.*\\.(a|b)", 3}, {"1", 2}, {"a: {", 1}};
    } else if (const auto* alphas = std::get_if<NamedNumbersValue>(&key.value)) {
      *alphas->member = {{"^query", 0.1 + 0.2}, {"true", 32}};
    }
  }
  // back within what holds across keys
  config.vision.architecture.hidden_size = 13 * 60;
  config.language.hidden_size = 2 * 7 * 5 * 6;
  config.compressor.output_size = 5 * 26;
  config.data.batch_size = 17 * 4;
  config.language.lora.init_lora_weights = config.fusion.lora.init_lora_weights = lora::LoraInit::kGaussian;
  return config;
}

TEST(ConfigWriting, ReadsBackExactly) {
  EXPECT_EQ(parse(to_yaml(Config{})), Config{});
  auto config = all_different();
  config.losses.caption.from_epoch = 1;  // one has to begin in the first epoch
  EXPECT_EQ(parse(to_yaml(config)), config) << to_yaml(config);
}

TEST(ConfigWriting, QuotesWordsThatYamlWouldTakeForSomethingElse) {
  Config config;
  config.lora.target_modules = {"null", "true", "~", "12", "1e3", "-", "a: b", "#", "[x]", " x ", "query"};
  EXPECT_EQ(parse(to_yaml(config)).lora.target_modules, config.lora.target_modules);
}

TEST(ConfigWriting, ModulesAreAListOrAnExpressionOrAllLinear) {
  Config config = parse("lora: {target_modules: all-linear, exclude_modules: '.*\\.0\\.[^:]*'}\n");
  EXPECT_TRUE(config.lora.target_modules.is_all_linear());
  EXPECT_EQ(config.lora.exclude_modules.pattern, ".*\\.0\\.[^:]*");
  EXPECT_TRUE(config.lora.exclude_modules.names.empty());
  EXPECT_EQ(parse(to_yaml(config)), config) << to_yaml(config);
  // The later of two replaces the whole value, whichever kind it has.
  config = parse("lora: {exclude_modules: '.*fc1'}\n", {"lora.exclude_modules=[fc2]"});
  EXPECT_EQ(config.lora.exclude_modules, lora::ModuleSelection({"fc2"}));
}

TEST(ConfigWriting, PatternsKeepTheirOrder) {
  const Config config = parse("lora:\n  rank_pattern:\n    query: 4\n    'layer\\.1\\..*': 2\n    fc1: 8\n");
  const std::vector<std::pair<std::string, std::int64_t>> expected = {
      {"query", 4}, {"layer\\.1\\..*", 2}, {"fc1", 8}};
  EXPECT_EQ(config.lora.rank_pattern, expected);
}

/// A key's member becomes what the same key's of another configuration is.
void take_value(const ConfigKey& key, const ConfigKey& from) {
  std::visit(
      [&](const auto& value) {
        using Value = std::decay_t<decltype(value)>;
        const Value& other = std::get<Value>(from.value);
        if constexpr (std::is_same_v<Value, WordValue>) {
          value.set(other.get());
        } else if constexpr (std::is_same_v<Value, NamesOrPatternValue>) {
          *value.names = *other.names;
          *value.pattern = *other.pattern;
        } else {
          *value.member = *other.member;
        }
      },
      key.value);
}

TEST(ConfigTable, CoversEverySectionAndNamesEachKeyOnce) {
  Config config;
  const auto table = config_table(config);
  std::set<std::string> paths;
  for (const auto& key : table.keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path;
    EXPECT_FALSE(key.meaning.empty()) << key.path;
    EXPECT_EQ((key.meaning + accepted_values(key)).find_first_of("|\n"), std::string::npos)
        << key.path << ": would break the table of docs/configuration.md";
    const auto dot = key.path.rfind('.');
    if (dot != std::string::npos) {
      EXPECT_NE(table.find_section(key.path.substr(0, dot)), nullptr) << key.path;
    }
  }
  for (const auto& section : table.sections()) {
    EXPECT_FALSE(table.names_in_section(section.path).empty()) << section.path;
    EXPECT_EQ(table.find_key(section.path), nullptr) << section.path;
  }
}

TEST(ConfigTable, BindsEveryKeyToAMemberOfItsOwn) {
  // Changing one key changes one line of the written configuration: its own.
  Config config;
  const auto table = config_table(config);
  const auto lines = [&] {
    std::vector<std::string> all;
    for (const auto& key : table.keys()) all.push_back(value_as_yaml(key));
    return all;
  };
  const auto before = lines();
  auto different = all_different();
  const auto of_different = config_table(different);
  for (std::size_t i = 0; i < before.size(); ++i) {
    config = Config{};
    take_value(table.keys()[i], of_different.keys()[i]);
    const auto after = lines();
    for (std::size_t j = 0; j < before.size(); ++j) {
      EXPECT_EQ(after[j] != before[j], i == j) << table.keys()[i].path << " and " << table.keys()[j].path;
    }
  }
}

// ---- help ----

TEST(ConfigHelp, TheCommentedFileIsValidAndHoldsTheDefaults) {
  const auto text = commented_default_config();
  EXPECT_EQ(parse(text), Config{});
  const auto unbroken = std::regex_replace(text, std::regex("\\n *# "), " ");
  Config config;
  const auto table = config_table(config);
  for (const auto& key : table.keys()) {
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
  EXPECT_EQ(small.vision.trainable, lora::TrainableChoice::kFull);
  EXPECT_EQ(lora.vision.trainable, lora::TrainableChoice::kLora);
  const auto repository = std::filesystem::canonical(kSource);
  EXPECT_EQ(lora.vision.weights,
            (repository / small.run.output_dir / small.run.name / "export/backbone").string());
  EXPECT_EQ(lora.data, small.data);
}

}  // namespace
}  // namespace tessera
