// tessera match: which of several texts fits an image.

#include "inference/match_texts.h"

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "command_line.h"
#include "core/error.h"
#include "inference/encode_inputs.h"
#include "model_tool.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

nlohmann::json to_json(const std::vector<inference::TextMatch>& matches) {
  nlohmann::json list = nlohmann::json::array();
  const auto value = [](const std::optional<double>& score) {
    return score ? nlohmann::json(*score) : nlohmann::json(nullptr);
  };
  for (const inference::TextMatch& match : matches) {
    list.push_back({{"text", match.text},
                    {"itm", value(match.itm)},
                    {"itc", value(match.itc)},
                    {"maxsim_image_to_text", value(match.maxsim_image_to_text)},
                    {"maxsim_text_to_image", value(match.maxsim_text_to_image)}});
  }
  return list;
}

std::string table_of(const std::vector<inference::TextMatch>& matches) {
  std::string table = fmt::format("{:>6}{:>8}{:>8}{:>8}\n{:>6}{:>8}{:>8}{:>8}  text\n", "", "", "MaxSim",
                                  "MaxSim", "ITM", "ITC", "i->t", "t->i");
  const auto value = [](const std::optional<double>& score) {
    return score ? fmt::format("{:.3f}", *score) : std::string("-");
  };
  for (const inference::TextMatch& match : matches) {
    table += fmt::format("{:>6}{:>8}{:>8}{:>8}  {}\n", value(match.itm), value(match.itc),
                         value(match.maxsim_image_to_text), value(match.maxsim_text_to_image),
                         match.text.empty() ? "(empty)" : match.text);
  }
  return table;
}

/// A second picture is easily named where a text belongs.
void warn_of_files(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(text, error)) continue;
    std::fprintf(
        stderr,
        "tessera match: warning: %s is a file, and taken as a text all the same: an image is matched with "
        "texts, not with images\n",
        quoted(text).c_str());
  }
}

}  // namespace

int match_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("image", options::value<std::vector<std::string>>()->composing(), "JPEG, PNG or WebP file; the first word without a name")
      ("text", options::value<std::vector<std::string>>()->composing(), "a text; all further words without a name are texts");
  add_model_tool_options(description);
  description.add_options()("json", "print one JSON object instead of a table");
  // clang-format on
  options::positional_options_description positional;
  positional.add("image", 1).add("text", -1);
  const auto values = parse_options(
      "Says how well each text fits an image: the matching head's probability (ITM), the inner product of "
      "the embeddings (ITC), and late interaction (MaxSim) from image to text and from text to image. Best "
      "first, by ITM.\n\nUsage: tessera match IMAGE TEXT... --model FOLDER [OPTIONS]\n",
      description, arguments, positional);
  if (!values) return kDone;
  const std::vector<std::string> images = words_of(*values, "image"), texts = words_of(*values, "text");
  if (images.size() != 1 || texts.empty()) throw ConfigError("name one image and at least one text");
  warn_of_files(texts);

  const ModelTool tool(*values);
  const inference::TrainedModel evaluated = tool.evaluated();
  warn_of_cut_texts("tessera match", evaluated, texts);
  FailedImages failed("tessera match");
  failed.read(images.front(), evaluated.config.data.image_size, [&](const at::Tensor& pixels) {
    const model::ImageFeatures image =
        inference::encode_images(evaluated, pixels.unsqueeze(0), {images.front()});
    const std::vector<inference::TextMatch> matches = inference::match_texts(evaluated, image, texts);
    if (values->count("json") != 0) {
      std::cout << dumped({{"model", tool.folder}, {"image", images.front()}, {"matches", to_json(matches)}});
    } else {
      std::cout << table_of(matches);
    }
  });
  return failed.exit_code();
}

}  // namespace tessera::apps
