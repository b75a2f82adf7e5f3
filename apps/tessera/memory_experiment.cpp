#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "command_line.h"
#include "core/error.h"
#include "core/files.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "eval/encode.h"
#include "eval/memory_experiment.h"
#include "model_tool.h"
#include "tessera/memory_experiment.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

int memory_experiment_action(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  add_model_tool_options(description);
  add_table_option(description);
  // clang-format off
  description.add_options()
      ("shards", options::value<std::vector<std::string>>()->composing(),
       "WebDataset shards, or CSV or TSV tables, that were not trained on, braces allowed; default: the configuration's data.validation")
      ("pairs", options::value<std::int64_t>()->default_value(100),
       "how many to write; as many others are asked for without having been written")
      ("draws", options::value<std::int64_t>()->default_value(8),
       "how often, each time with other pairs; figures are of all together")
      ("seed", options::value<std::uint64_t>()->default_value(0), "draws the pairs, and the half that is forgotten")
      ("output,o", options::value<std::string>(), "JSON file for the figures and every answer");
  // clang-format on
  const auto values = parse_options(
      "Writes held-out pairs into an empty memory, asks for each by its image alone and decodes what comes "
      "back without any\nimage; then forgets half and asks again. Beside these: pairs that were never "
      "written, the codes decoded directly (the\nceiling), the images' codes decoded directly, and an empty "
      "memory.\n\n"
      "Usage: tessera memory experiment --model FOLDER [OPTIONS]\n",
      description, arguments);
  if (!values) return kDone;

  ModelTool model(*values);
  apply_table_option(*values, model.loaded.config.data.table);
  const Config& config = model.loaded.config;
  const auto shards = values->count("shards") != 0 ? words_of(*values, "shards") : config.data.validation;
  if (shards.empty()) throw ConfigError("the configuration names no data.validation; give --shards");
  const eval::MemoryExperimentOptions experiment{count_of(*values, "pairs", 2), count_of(*values, "draws", 1),
                                                 (*values)["seed"].as<std::uint64_t>()};
  const Logger logger = make_logger({});
  const auto dataset = data::open_source(shards, config.data, logger);
  data::EvalLoader loader(dataset, config.data, config.eval.batch_size, logger);
  nlohmann::json figures = eval::memory_experiment(model.trained(), *dataset, loader, experiment);
  figures["model"] = fs::canonical(model.folder).string();
  figures["shards"] = shards;
  std::cout << eval::memory_table(figures);
  if (values->count("output") != 0) {
    write_file_atomically((*values)["output"].as<std::string>(), dumped(figures));
  }
  return kDone;
}

}  // namespace tessera::apps
