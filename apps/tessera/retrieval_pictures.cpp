#include <algorithm>
#include <filesystem>
#include <iostream>

#include <ATen/ATen.h>

#include "command_line.h"
#include "core/error.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "eval/encode.h"
#include "inference/contact_sheet.h"
#include "model_tool.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

namespace {

/// A set's embeddings beside what a person can look at.
struct ShownSet {
  eval::EncodedSet encoded;
  std::vector<at::Tensor> pictures;   ///< the first ones only
  std::vector<std::string> captions;  ///< all, in the order of the embeddings
};

ShownSet read_set(const inference::TrainedModel& trained, std::size_t shown) {
  const Logger logger = make_logger({});
  const auto dataset = data::open_source(trained.config.data.validation, trained.config.data, logger);
  ShownSet set;
  data::EvalLoader loader(dataset, trained.config.data, trained.config.eval.batch_size, logger);
  set.encoded = eval::encode_set(trained.model, trained.tokenizer, loader, trained.compute,
                                 trained.config.language.max_tokens);
  const std::size_t count = std::min(shown, set.encoded.indices.size());
  loader.start();
  while (set.pictures.size() < count) {
    const auto batch = loader.next();
    if (!batch) break;
    for (std::int64_t i = 0; i < batch->pixels.size(0) && set.pictures.size() < count; ++i) {
      const bool shows_next =
          batch->indices[static_cast<std::size_t>(i)] == set.encoded.indices[set.pictures.size()];
      if (shows_next) set.pictures.push_back(batch->pixels[i].clone());
    }
  }
  for (const auto& of_image : set.encoded.captions)
    set.captions.insert(set.captions.end(), of_image.begin(), of_image.end());
  return set;
}

inference::SheetCell found_captions(const ShownSet& set, std::int64_t image, std::int64_t count) {
  const at::Tensor scores = at::mv(set.encoded.text, set.encoded.image[image]);
  const auto [values, indices] = scores.topk(std::min(count, scores.size(0)));
  inference::SheetCell cell{set.pictures[static_cast<std::size_t>(image)], {}};
  for (std::int64_t k = 0; k < indices.size(0); ++k) {
    const std::int64_t caption = indices[k].item<std::int64_t>();
    const bool right = set.encoded.caption_image[caption].item<std::int64_t>() == image;
    cell.lines.push_back(
        {fmt::format("{:.2f} {}", values[k].item<float>(), set.captions[static_cast<std::size_t>(caption)]),
         right ? inference::SheetLine::Mark::kRight : inference::SheetLine::Mark::kWrong});
  }
  return cell;
}

}  // namespace

int retrieval_pictures_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("data", options::value<std::vector<std::string>>()->composing(),
       "WebDataset shards, or CSV or TSV tables, braces allowed; default: the configuration's data.validation")
      ("output,o", options::value<std::string>()->required(), "folder for captions_found.png; made where absent")
      ("pictures", options::value<std::int64_t>()->default_value(12), "how many, from the first of the data on")
      ("captions", options::value<std::int64_t>()->default_value(3), "how many captions a picture");
  // clang-format on
  add_model_tool_options(description);
  add_table_option(description);
  const auto values = parse_options(
      "Draws pictures with the captions, out of those of the whole set, that the model finds closest to "
      "each: green ones are the picture's own, red ones another's.\n\n"
      "Usage: tessera retrieval-pictures --model FOLDER --output FOLDER [OPTIONS]\n",
      description, arguments);
  if (!values) return kDone;
  const std::int64_t shown = (*values)["pictures"].as<std::int64_t>();
  const std::int64_t captions = (*values)["captions"].as<std::int64_t>();
  if (shown < 1 || captions < 1) throw ConfigError("--pictures and --captions: expected at least 1");

  ModelTool tool(*values);
  data::DataConfig& data = tool.loaded.config.data;
  if (values->count("data") != 0) data.validation = words_of(*values, "data");
  apply_table_option(*values, data.table);
  if (data.validation.empty()) throw ConfigError("the configuration names no data.validation; give --data");

  const ShownSet set = read_set(tool.trained(), static_cast<std::size_t>(shown));
  std::vector<inference::SheetCell> cells;
  for (std::int64_t image = 0; image < static_cast<std::int64_t>(set.pictures.size()); ++image) {
    cells.push_back(found_captions(set, image, captions));
  }
  const fs::path folder = (*values)["output"].as<std::string>();
  fs::create_directories(folder);
  inference::write_contact_sheet(folder / "captions_found.png", cells, 4);
  std::cout << (folder / "captions_found.png").string() << "\n";
  return kDone;
}

}  // namespace tessera::apps
