// tessera bundle: a checkpoint as one folder that needs nothing beside it.

#include "model/bundle.h"

#include <iostream>

#include "command_line.h"
#include "core/error.h"
#include "model_tool.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

int bundle_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("checkpoint", options::value<std::string>(), "checkpoint folder, or a bundle to merge the adapters of")
      ("model,m", options::value<std::string>(), "another name for --checkpoint")
      ("output,o", options::value<std::string>()->required(), "the folder to write; an older bundle there is replaced, and what "
       "else lies in it is kept")
      ("merge-lora", "add the adapters, those of the language model and of the fusion too, to the weights (W + s B A) instead of "
       "keeping them beside");
  // clang-format on
  const auto values = parse_options(
      "Writes a checkpoint as one self-contained folder: weights, tokenizer, backbone and adapters. "
      "Whatever\n"
      "takes --model takes it, without the training data, the checkpoint or the original backbone.\n\n"
      "Usage: tessera bundle --checkpoint FOLDER --output FOLDER [--merge-lora]\n",
      description, arguments);
  if (!values) return kDone;
  const std::string output = (*values)["output"].as<std::string>();
  const KeptFiles kept =
      model::write_bundle(model_folder(*values), output, {.merge_lora = values->count("merge-lora") != 0});
  std::cout << output << "\n";
  if (kept.count > 0) {
    std::cerr << fmt::format("tessera bundle: kept what else was in the older bundle: {}{}\n",
                             kept.first.string(),
                             kept.count > 1 ? fmt::format(" and {} more", kept.count - 1) : "");
  }
  return kDone;
}

}  // namespace tessera::apps
