// tessera match: which of several texts fits an image.

#include "inference/match_texts.h"

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "command_line.h"
#include "core/error.h"
#include "model_tool.h"
#include "tessera/adapted_model.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

/// Appends matches to a list.
/// @param adapter  the name of the one that they were found with; empty: none is named
void add_matches(const std::string& adapter, const std::vector<inference::TextMatch>& matches,
                 nlohmann::json& list) {
  const auto value = [](const std::optional<double>& score) {
    return score ? nlohmann::json(*score) : nlohmann::json(nullptr);
  };
  for (const inference::TextMatch& match : matches) {
    list.push_back({{"text", match.text},
                    {"itm", value(match.itm)},
                    {"itc", value(match.itc)},
                    {"maxsim_image_to_text", value(match.maxsim_image_to_text)},
                    {"maxsim_text_to_image", value(match.maxsim_text_to_image)}});
    if (!adapter.empty()) list.back()["adapter"] = adapter;
  }
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

/// What was found with each adapter, in their order.
nlohmann::json to_json(const AdaptedModel& model, const std::string& image,
                       const std::vector<std::vector<inference::TextMatch>>& matches) {
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t i = 0; i < matches.size(); ++i) add_matches(model.adapters()[i].name, matches[i], list);
  nlohmann::json json = {{"model", model.tool().folder}, {"image", image}, {"matches", std::move(list)}};
  if (model.is_switched()) json["adapters"] = model.json();
  return json;
}

std::string tables_of(const AdaptedModel& model,
                      const std::vector<std::vector<inference::TextMatch>>& matches) {
  std::string tables;
  for (std::size_t i = 0; i < matches.size(); ++i) {
    if (model.is_switched())
      tables += fmt::format("{}adapter {}\n", i == 0 ? "" : "\n", model.adapters()[i].name);
    tables += table_of(matches[i]);
  }
  return tables;
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
  add_adapter_option(description);
  description.add_options()("json", "print one JSON object instead of a table");
  // clang-format on
  options::positional_options_description positional;
  positional.add("image", 1).add("text", -1);
  const auto values = parse_options(
      "Says how well each text fits an image: the matching head's probability (ITM), the inner product of "
      "the embeddings (ITC), and late interaction (MaxSim) from image to text and from text to image. Best "
      "first, by ITM.\n\nUsage: tessera match IMAGE TEXT... --model FOLDER [--adapter FOLDER]... [OPTIONS]\n",
      description, arguments, positional);
  if (!values) return kDone;
  const std::vector<std::string> images = words_of(*values, "image"), texts = words_of(*values, "text");
  if (images.size() != 1 || texts.empty()) throw ConfigError("name one image and at least one text");
  warn_of_files(texts);

  const AdaptedModel model("tessera match", *values);
  const inference::TrainedModel trained = model.tool().trained();
  warn_of_cut_texts("tessera match", trained, texts);
  FailedImages failed("tessera match");
  failed.read(images.front(), trained.config.data.image_size, [&](const at::Tensor& pixels) {
    const std::vector<std::vector<inference::TextMatch>> matches =
        inference::match_texts(trained, model.encode_images(pixels.unsqueeze(0), {images.front()}), texts);
    if (values->count("json") != 0) {
      std::cout << dumped(to_json(model, images.front(), matches));
    } else {
      std::cout << tables_of(model, matches);
    }
  });
  return failed.exit_code();
}

}  // namespace tessera::apps
