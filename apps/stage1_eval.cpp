// stage1_eval: evaluates a checkpoint.

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
#include "eval/retrieval.h"
#include "model/weights.h"

namespace options = boost::program_options;

namespace tessera::apps {
namespace {

options::options_description described_options() {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("suite", options::value<std::string>()->default_value("retrieval"), "what to evaluate: retrieval")
      ("checkpoint", options::value<std::string>(),
       "checkpoint folder (runs/NAME/checkpoints/latest, best, phase1 or step-NNNNNN)")
      ("data", options::value<std::vector<std::string>>()->composing(),
       "WebDataset shards to evaluate on, braces allowed; default: the configuration's data.validation")
      ("split", options::value<std::string>(), "name of the split, for the report; default: validation, or the shards' names")
      ("output,o", options::value<std::string>(), "write the figures as JSON to this file")
      ("batch-size", options::value<std::int64_t>(), "images a batch; default: eval.batch_size")
      ("device", options::value<std::string>(), "auto, cpu or cuda; default: the configuration's run.device");
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

int retrieval(const options::variables_map& values) {
  if (values.count("checkpoint") == 0)
    throw ConfigError("--checkpoint FOLDER is missing; see stage1_eval --help");
  model::LoadedModel loaded = model::load_model(values["checkpoint"].as<std::string>());
  Config& config = loaded.config;
  if (values.count("device") != 0) config.run.device = device_of(values["device"].as<std::string>());
  if (values.count("batch-size") != 0) config.eval.batch_size = values["batch-size"].as<std::int64_t>();
  if (config.eval.batch_size < 1) throw ConfigError("--batch-size: expected at least 1");
  std::string split = "validation";
  if (values.count("data") != 0) {
    config.data.validation = values["data"].as<std::vector<std::string>>();
    split = joined(config.data.validation);
  }
  if (values.count("split") != 0) split = values["split"].as<std::string>();
  if (config.data.validation.empty()) {
    throw ConfigError("the checkpoint's configuration names no data.validation; give shards with --data");
  }

  const Compute compute = choose_compute(config.run);
  const Logger logger = make_logger({});
  loaded.model->to(compute.device);
  loaded.model->set_training(false);
  const auto dataset = data::WebDataset::open(config.data.validation, logger);
  data::EvalLoader loader(dataset, eval::eval_loader_options(config), logger);
  const eval::EncodedSet encoded =
      eval::encode_set(*loaded.model, loaded.tokenizer, loader, compute, config.language.max_tokens);
  const eval::RetrievalScores scores =
      eval::retrieval_scores(encoded.image, encoded.text, encoded.caption_image);

  nlohmann::json report = eval::to_json(scores);
  report["suite"] = "retrieval";
  report["scoring"] = "itc";
  report["data"] = config.data.validation;
  report["split"] = split;
  report["checkpoint"] = std::filesystem::canonical(values["checkpoint"].as<std::string>()).string();
  report["broken_samples"] = encoded.broken;
  std::cout << "retrieval by ITC on " << split << " (" << joined(config.data.validation) << ")\n"
            << eval::to_table(scores);
  if (values.count("output") != 0) {
    write_file_atomically(values["output"].as<std::string>(), report.dump(2) + "\n");
  }
  return kDone;
}

constexpr const char* kUsageText =
    "Evaluates a checkpoint.\n\n"
    "Usage: stage1_eval --suite retrieval --checkpoint FOLDER [--data SHARDS]... [--output FILE]\n";

int body(int argc, char** argv) {
  const auto parsed = parse_options(kUsageText, described_options(), {argv + 1, argv + argc});
  if (!parsed) return kDone;
  const options::variables_map& values = *parsed;
  const std::string suite = values["suite"].as<std::string>();
  if (suite != "retrieval") throw ConfigError(fmt::format("--suite: expected retrieval, found '{}'", suite));
  return retrieval(values);
}

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) {
  return tessera::apps::run_program("stage1_eval", [&] { return tessera::apps::body(argc, argv); });
}
