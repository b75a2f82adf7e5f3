// stage1_eval: evaluates a checkpoint.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "command_line.h"
#include "core/config.h"
#include "core/device.h"
#include "core/error.h"
#include "core/files.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/webdataset.h"
#include "eval/encode.h"
#include "eval/report.h"
#include "eval/suites.h"
#include "model/weights.h"

namespace options = boost::program_options;

namespace tessera::apps {
namespace {

const std::vector<std::string> kSuites = {"retrieval", "matching", "captions", "zero-shot", "all"};

options::options_description described_options() {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("suite", options::value<std::string>()->default_value("retrieval"),
       "what to evaluate: retrieval, matching, captions, zero-shot, or all that the model was trained for")
      ("checkpoint", options::value<std::string>(),
       "checkpoint folder (runs/NAME/checkpoints/latest, best, phase1 or step-NNNNNN)")
      ("data", options::value<std::vector<std::string>>()->composing(),
       "WebDataset shards to evaluate on, braces allowed; default: the configuration's data.validation")
      ("split", options::value<std::string>(), "name of the split, for the report; default: validation, or the shards' names")
      ("output,o", options::value<std::string>(), "write the figures as JSON to this file")
      ("batch-size", options::value<std::int64_t>(), "images a batch; default: eval.batch_size")
      ("device", options::value<std::string>(), "auto, cpu or cuda; default: the configuration's run.device")
      ("rerank-top-k", options::value<std::int64_t>()->default_value(16),
       "retrieval: candidates of a query by ITC that ITM orders anew; 0: none")
      ("beams", options::value<std::int64_t>()->default_value(1), "captions: width of the beam search; 1: greedy")
      ("images", options::value<std::string>(), "zero-shot: a folder of classes, FOLDER/CLASS/IMAGE")
      ("classes-file", options::value<std::string>()->default_value(""),
       "zero-shot: what the classes are called, FOLDER<tab>NAME a line; default: the folders' names")
      ("templates-file", options::value<std::string>()->default_value(""),
       "zero-shot: sentences with {} in place of the class, one a line");
  // clang-format on
  return description;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

DeviceChoice device_of(const std::string& word) {
  if (word == "auto") return DeviceChoice::kAuto;
  if (word == "cpu") return DeviceChoice::kCpu;
  if (word == "cuda") return DeviceChoice::kCuda;
  throw ConfigError(fmt::format("--device: expected auto, cpu or cuda, found '{}'", word));
}

/// The value of an option that counts something.
std::int64_t count_of(const options::variables_map& values, const char* name, std::int64_t least) {
  const std::int64_t value = values[name].as<std::int64_t>();
  if (value < least)
    throw ConfigError(fmt::format("--{}: expected at least {}, found {}", name, least, value));
  return value;
}

/// What the command line changes in the checkpoint's configuration.
void apply_options(const options::variables_map& values, Config& config) {
  if (values.count("device") != 0) config.run.device = device_of(values["device"].as<std::string>());
  if (values.count("batch-size") != 0) config.eval.batch_size = count_of(values, "batch-size", 1);
  if (values.count("data") != 0) config.data.validation = values["data"].as<std::vector<std::string>>();
}

/// The suites of one call.
class Evaluation {
 public:
  Evaluation(const options::variables_map& values, model::LoadedModel& loaded)
      : values_(values),
        loaded_(loaded),
        suite_(values["suite"].as<std::string>()),
        logger_(make_logger({})),
        evaluated_{*loaded.model, loaded.tokenizer, loaded.config, choose_compute(loaded.config.run)} {
    loaded.model->to(evaluated_.compute.device);
    loaded.model->set_training(false);
  }

  nlohmann::json run() {
    if (suite_ != "zero-shot") run_on_captioned_images();
    if (suite_ == "zero-shot" || (suite_ == "all" && values_.count("images") != 0)) run_zero_shot();
    return std::move(figures_);
  }

 private:
  void run_on_captioned_images() {
    const Config& config = loaded_.config;
    if (config.data.validation.empty()) {
      throw ConfigError("the checkpoint's configuration names no data.validation; give shards with --data");
    }
    const auto dataset = data::WebDataset::open(config.data.validation, logger_);
    data::EvalLoader loader(dataset, eval::eval_loader_options(config), logger_);
    const eval::EncodedSet set =
        eval::encode_set(*loaded_.model, loaded_.tokenizer, loader, evaluated_.compute,
                         config.language.max_tokens, eval::EncodeDetail::kTokens);
    if (suite_ == "retrieval" || suite_ == "all") {
      figures_.update(eval::retrieval_suite(evaluated_, set, {count_of(values_, "rerank-top-k", 0)}));
    }
    if (suite_ == "matching" || (suite_ == "all" && config.losses.itm.weight > 0)) {
      figures_.update(eval::matching_suite(evaluated_, set));
    }
    if (suite_ == "captions" || (suite_ == "all" && config.losses.caption.weight > 0)) {
      figures_.update(eval::captions_suite(evaluated_, set, *dataset, {count_of(values_, "beams", 1)}));
    }
    figures_["data"] = config.data.validation;
    figures_["split"] = split();
    figures_["broken_samples"] = set.broken;
  }

  void run_zero_shot() {
    if (values_.count("images") == 0) throw ConfigError("--suite zero-shot: --images FOLDER is missing");
    const eval::ZeroShotSuiteOptions suite_options{values_["images"].as<std::string>(),
                                                   values_["classes-file"].as<std::string>(),
                                                   values_["templates-file"].as<std::string>()};
    figures_.update(eval::zero_shot_suite(evaluated_, suite_options, logger_));
    figures_["zero_shot_data"] = suite_options.images.string();
  }

  std::string split() const {
    if (values_.count("split") != 0) return values_["split"].as<std::string>();
    return values_.count("data") != 0 ? joined(loaded_.config.data.validation) : "validation";
  }

  const options::variables_map& values_;
  model::LoadedModel& loaded_;
  std::string suite_;
  Logger logger_;
  eval::EvaluatedModel evaluated_;
  nlohmann::json figures_ = nlohmann::json::object();
};

constexpr const char* kUsageText =
    "Evaluates a checkpoint.\n\n"
    "Usage: stage1_eval --suite SUITE --checkpoint FOLDER [--data SHARDS]... [--output FILE]\n";

int body(int argc, char** argv) {
  const auto parsed = parse_options(kUsageText, described_options(), {argv + 1, argv + argc});
  if (!parsed) return kDone;
  const options::variables_map& values = *parsed;
  const std::string suite = values["suite"].as<std::string>();
  if (std::find(kSuites.begin(), kSuites.end(), suite) == kSuites.end()) {
    throw ConfigError(fmt::format("--suite: expected one of {}, found '{}'", joined(kSuites), suite));
  }
  if (values.count("checkpoint") == 0)
    throw ConfigError("--checkpoint FOLDER is missing; see stage1_eval --help");
  const std::string checkpoint = values["checkpoint"].as<std::string>();
  model::LoadedModel loaded = model::load_model(checkpoint);
  apply_options(values, loaded.config);
  nlohmann::json figures = Evaluation(values, loaded).run();
  figures["suite"] = suite;
  figures["checkpoint"] = std::filesystem::canonical(checkpoint).string();
  std::cout << suite << " of " << checkpoint;
  if (figures.contains("split")) std::cout << " on " << figures["split"].get<std::string>();
  std::cout << "\n" << eval::to_table(figures);
  if (values.count("output") != 0) {
    write_file_atomically(values["output"].as<std::string>(),
                          figures.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
  return kDone;
}

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) {
  return tessera::apps::run_program("stage1_eval", [&] { return tessera::apps::body(argc, argv); });
}
