// stage1_eval: evaluates a checkpoint or a bundle.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command_line.h"
#include "config/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "eval/encode.h"
#include "eval/report.h"
#include "eval/suites.h"
#include "losses/loss_abilities.h"
#include "model_tool.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

const std::vector<std::string> kSuites = {"retrieval", "matching", "captions", "zero-shot", "all"};

options::options_description described_options() {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("suite", options::value<std::string>()->default_value("retrieval"),
       "what to evaluate: retrieval, matching, captions, zero-shot, or all that the model was trained for")
      ("data", options::value<std::vector<std::string>>()->composing(),
       "WebDataset shards or CSV or TSV tables to evaluate on, braces allowed; default: the configuration's data.validation")
      ("split", options::value<std::string>(), "name of the split, for the report; default: validation, or the names of --data")
      ("output,o", options::value<std::string>(), "write the figures as JSON to this file")
      ("batch-size", options::value<std::int64_t>(), "images a batch; default: eval.batch_size")
      ("rerank-top-k", options::value<std::int64_t>()->default_value(16),
       "retrieval: candidates of a query by ITC that ITM orders anew; 0: none")
      ("beams", options::value<std::int64_t>()->default_value(1), "captions: width of the beam search; 1: greedy")
      ("images", options::value<std::string>(), "zero-shot: a folder of classes, FOLDER/CLASS/IMAGE")
      ("classes-file", options::value<std::string>()->default_value(""),
       "zero-shot: what the classes are called, FOLDER<tab>NAME a line; default: the folders' names")
      ("templates-file", options::value<std::string>()->default_value(""),
       "zero-shot: sentences with {} in place of the class, one a line");
  // clang-format on
  add_table_option(description);
  add_broken_fraction_option(description);
  add_model_tool_options(description);
  return description;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

/// What the command line changes in the model's configuration.
void apply_options(const options::variables_map& values, Config& config) {
  if (values.count("batch-size") != 0) config.eval.batch_size = count_of(values, "batch-size", 1);
  if (values.count("data") != 0) config.data.validation = words_of(values, "data");
  apply_table_option(values, config.data.table);
  apply_broken_fraction(values, config);
}

/// The suites of one call.
class Evaluation {
 public:
  Evaluation(const options::variables_map& values, const ModelTool& tool)
      : values_(values),
        suite_(values["suite"].as<std::string>()),
        logger_(make_logger({})),
        trained_(tool.trained()) {}

  nlohmann::json run() {
    if (suite_ != "zero-shot") run_on_captioned_images();
    if (suite_ == "zero-shot" || (suite_ == "all" && values_.count("images") != 0)) run_zero_shot();
    return std::move(figures_);
  }

 private:
  void run_on_captioned_images() {
    const Config& config = trained_.config;
    if (config.data.validation.empty()) {
      throw ConfigError("the model's configuration names no data.validation; name some with --data");
    }
    const auto dataset = data::open_source(config.data.validation, config.data, logger_);
    data::EvalLoader loader(dataset, config.data, config.eval.batch_size, logger_);
    const eval::EncodedSet set =
        eval::encode_set(trained_.model, trained_.tokenizer, loader, trained_.compute,
                         config.language.max_tokens, eval::EncodeDetail::kTokens);
    if (suite_ == "retrieval" || suite_ == "all") {
      figures_.update(eval::retrieval_suite(trained_, set, {count_of(values_, "rerank-top-k", 0)}));
    }
    if (suite_ == "matching" || (suite_ == "all" && trains(config.losses, losses::Ability::kMatching))) {
      figures_.update(eval::matching_suite(trained_, set));
    }
    if (suite_ == "captions" || (suite_ == "all" && trains(config.losses, losses::Ability::kCaptions))) {
      figures_.update(eval::captions_suite(trained_, set, *dataset, {count_of(values_, "beams", 1)}));
    }
    figures_["data"] = config.data.validation;
    figures_["split"] = split();
    figures_["broken_samples"] = set.broken;
  }

  void run_zero_shot() {
    const eval::ZeroShotSuiteOptions suite_options{values_["images"].as<std::string>(),
                                                   values_["classes-file"].as<std::string>(),
                                                   values_["templates-file"].as<std::string>()};
    figures_.update(eval::zero_shot_suite(trained_, suite_options, logger_));
    figures_["zero_shot_data"] = suite_options.images.string();
  }

  std::string split() const {
    if (values_.count("split") != 0) return values_["split"].as<std::string>();
    return values_.count("data") != 0 ? joined(trained_.config.data.validation) : "validation";
  }

  const options::variables_map& values_;
  std::string suite_;
  Logger logger_;
  inference::TrainedModel trained_;
  nlohmann::json figures_ = nlohmann::json::object();
};

/// What can be known to be wrong before anything is computed.
void check_options(const options::variables_map& values, const std::string& suite) {
  if (std::find(kSuites.begin(), kSuites.end(), suite) == kSuites.end()) {
    throw ConfigError(fmt::format("--suite: expected one of {}, found '{}'", joined(kSuites), suite));
  }
  count_of(values, "rerank-top-k", 0);
  count_of(values, "beams", 1);
  if (suite == "zero-shot" && values.count("images") == 0)
    throw ConfigError("--suite zero-shot: --images FOLDER is missing");
  if (values.count("images") != 0) {
    if (suite != "zero-shot" && suite != "all")
      throw ConfigError(fmt::format("--images belongs to --suite zero-shot or all, not {}", suite));
    const std::filesystem::path images = values["images"].as<std::string>();
    if (!std::filesystem::is_directory(images))
      fail("--images: {}: there is no such folder", images.string());
  }
  if (values.count("output") != 0) {
    const auto folder = std::filesystem::absolute(values["output"].as<std::string>()).parent_path();
    if (!std::filesystem::is_directory(folder))
      fail("--output: {}: there is no such folder", folder.string());
  }
}

constexpr const char* kUsageText =
    "Evaluates a checkpoint or a bundle.\n\n"
    "Usage: stage1_eval --suite SUITE --model FOLDER [--data FILES]... [--output FILE]\n";

int body(int argc, char** argv) {
  const auto parsed = parse_options(kUsageText, described_options(), {argv + 1, argv + argc});
  if (!parsed) return kDone;
  const options::variables_map& values = *parsed;
  const std::string suite = values["suite"].as<std::string>();
  check_options(values, suite);
  ModelTool tool(values);
  apply_options(values, tool.loaded.config);
  nlohmann::json figures = Evaluation(values, tool).run();
  figures["suite"] = suite;
  figures["checkpoint"] = std::filesystem::canonical(tool.folder).string();
  std::cout << suite << " of " << tool.folder;
  if (figures.contains("split")) std::cout << " on " << figures["split"].get<std::string>();
  std::cout << "\n" << eval::to_table(figures);
  if (values.count("output") != 0) {
    write_file_atomically(values["output"].as<std::string>(), dumped(figures));
  }
  return kDone;
}

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) {
  return tessera::apps::run_program("stage1_eval", [&] { return tessera::apps::body(argc, argv); });
}
