// tessera embed: embeddings of images and texts as a safetensors file.

#include <ATen/ATen.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "command_line.h"
#include "core/autocast.h"
#include "core/error.h"
#include "core/finite.h"
#include "core/safetensors.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "eval/pair_scores.h"
#include "inference/encode_inputs.h"
#include "losses/loss_abilities.h"
#include "model/stage1_model.h"
#include "model_tool.h"
#include "tessera/adapted_model.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

/// Embeds batch by batch what it is given one by one: images with each adapter, texts once.
class Embedder {
 public:
  Embedder(const AdaptedModel& model, bool with_tokens)
      : model_(model),
        trained_(model.tool().trained()),
        with_tokens_(with_tokens),
        images_(model.adapters().size()),
        patches_(model.adapters().size()) {}

  void add_image(const std::string& name, const at::Tensor& pixels) {
    image_names_.push_back(name);
    waiting_images_.push_back(pixels);
    if (is_full(waiting_images_.size())) encode_images();
  }

  void add_text(const std::string& text) {
    texts_.push_back(text);
    waiting_texts_.push_back(text);
    if (is_full(waiting_texts_.size())) encode_texts();
  }

  /// The file's tensors.
  TensorMap tensors() {
    encode_images();
    encode_texts();
    TensorMap tensors;
    for (std::size_t i = 0; i < images_.size(); ++i) {
      if (!images_[i].empty()) tensors[key("images", i)] = at::cat(images_[i]);
      if (!patches_[i].empty()) tensors[key("patches", i)] = at::cat(patches_[i]);
    }
    if (!text_rows_.empty()) tensors["texts"] = at::cat(text_rows_);
    if (!tokens_.empty()) {
      const eval::PaddedRows rows =
          eval::padded(tokens_, at::arange(static_cast<std::int64_t>(tokens_.size())));
      tensors["tokens"] = rows.values;
      tensors["token_mask"] = rows.mask;
    }
    return tensors;
  }

  /// The names of the rows.
  StringMap metadata() const {
    const auto list = [](const std::vector<std::string>& names) { return utf8_json(names).dump(); };
    StringMap metadata = {{"format", "pt"},
                          {"model", as_utf8(model_.tool().folder)},
                          {"images", list(image_names_)},
                          {"texts", list(texts_)}};
    if (model_.is_switched()) metadata["adapters"] = utf8_json(model_.json()).dump();
    return metadata;
  }

 private:
  bool is_full(std::size_t count) const {
    return static_cast<std::int64_t>(count) >= trained_.config.eval.batch_size;
  }

  void encode_images() {
    if (waiting_images_.empty()) return;
    const AutocastScope autocast(trained_.compute);
    const std::vector<std::string> names(
        image_names_.end() - static_cast<std::ptrdiff_t>(waiting_images_.size()), image_names_.end());
    const at::Tensor pixels = at::stack(waiting_images_);
    for (std::size_t i = 0; i < images_.size(); ++i) {
      const model::ImageFeatures features =
          inference::encode_images(model_.with(model_.adapters()[i]), pixels, names);
      images_[i].push_back(features.embedding.cpu());
      if (!with_tokens_) continue;
      patches_[i].push_back(plain(trained_.model.patch_embeddings(features)));
      check_computed(patches_[i].back(), "one of its patches' embeddings", names);
    }
    waiting_images_.clear();
  }

  /// The name of a tensor that depends on the adapter.
  std::string key(const std::string& what, std::size_t adapter) const {
    const std::string& name = model_.adapters()[adapter].name;
    return name.empty() ? what : what + "." + as_utf8(name);
  }

  void encode_texts() {
    if (waiting_texts_.empty()) return;
    const AutocastScope autocast(trained_.compute);
    const model::TextFeatures features = inference::encode_texts(trained_, waiting_texts_);
    text_rows_.push_back(features.embedding.cpu());
    if (with_tokens_) {
      const at::Tensor tokens = plain(trained_.model.token_embeddings(features));
      check_computed(tokens, "one of its tokens' embeddings", inference::quoted_texts(waiting_texts_));
      const at::Tensor lengths = features.attention_mask.sum(1).cpu();
      for (std::int64_t row = 0; row < tokens.size(0); ++row)
        tokens_.push_back(tokens[row].slice(0, 0, lengths[row].item<std::int64_t>()).clone());
    }
    waiting_texts_.clear();
  }

  static at::Tensor plain(const at::Tensor& tensor) { return tensor.detach().to(at::kCPU, at::kFloat); }

  const AdaptedModel& model_;
  inference::TrainedModel trained_;
  bool with_tokens_;
  std::vector<std::string> image_names_, texts_;
  std::vector<at::Tensor> waiting_images_;
  std::vector<std::string> waiting_texts_;
  std::vector<std::vector<at::Tensor>> images_, patches_;  ///< of each adapter
  std::vector<at::Tensor> text_rows_, tokens_;
};

/// A text a line; an empty line is an empty text.
std::vector<std::string> texts_in(const std::string& path) {
  std::vector<std::string> lines = read_lines(path);
  for (std::size_t i = 0; i < lines.size(); ++i) check_utf8(lines[i], fmt::format("{}:{}", path, i + 1));
  return lines;
}

void check_trained(const ModelTool& tool, bool with_tokens) {
  const losses::LossesConfig& losses = tool.loaded.config.losses;
  require_trained(losses, losses::Ability::kEmbeddings, tool.folder);
  if (with_tokens) require_trained(losses, losses::Ability::kTokenEmbeddings, tool.folder + ": --tokens");
}

}  // namespace

int embed_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("images", options::value<std::vector<std::string>>()->composing()->multitoken(), "JPEG, PNG or WebP files")
      ("texts", options::value<std::string>(), "a file with a text a line")
      ("text", options::value<std::vector<std::string>>()->composing(), "one text; may be given many times, \"\" too")
      ("output,o", options::value<std::string>()->required(), "the safetensors file to write")
      ("tokens", "also the embeddings of patches and tokens that MaxSim compares");
  add_model_tool_options(description);
  add_adapter_option(description);
  // clang-format on
  const auto values = parse_options(
      "Writes embeddings of images and texts: tensors `images` [N, E] and `texts` [M, E], rows of length 1 "
      "whose\n"
      "inner product is the ITC similarity; with --tokens also `patches` [N, P, S], `tokens` [M, T, S] and\n"
      "`token_mask` [M, T]. The metadata's `images` and `texts` name the rows (JSON lists).\n"
      "With --adapter there are `images.NAME` and `patches.NAME` for each adapter, whose names and folders "
      "are the\n"
      "metadata's `adapters`; texts don't depend on them.\n\n"
      "Usage: tessera embed [--images FILE...] [--texts FILE] [--text TEXT]... --model FOLDER\n"
      "                     [--adapter FOLDER]... --output FILE\n",
      description, arguments);
  if (!values) return kDone;
  const std::vector<std::string> files = words_of(*values, "images");
  std::vector<std::string> texts = words_of(*values, "text");
  if (values->count("texts") != 0) {
    const std::vector<std::string> lines = texts_in((*values)["texts"].as<std::string>());
    texts.insert(texts.begin(), lines.begin(), lines.end());
  }
  if (files.empty() && texts.empty()) throw ConfigError("name something with --images, --texts or --text");
  const bool with_tokens = values->count("tokens") != 0;
  const AdaptedModel model("tessera embed", *values);
  const ModelTool& tool = model.tool();
  check_trained(tool, with_tokens);

  warn_of_cut_texts("tessera embed", tool.trained(), texts);
  FailedImages failed("tessera embed");
  Embedder embedder(model, with_tokens);
  for (const std::string& file : files) {
    failed.read(file, tool.loaded.config.data.image_size,
                [&](const at::Tensor& pixels) { embedder.add_image(file, pixels); });
  }
  for (const std::string& text : texts) embedder.add_text(text);
  const TensorMap tensors = embedder.tensors();
  if (tensors.empty()) return failed.exit_code();
  const std::string output = (*values)["output"].as<std::string>();
  write_safetensors(output, tensors, embedder.metadata());
  for (const auto& [name, tensor] : tensors)
    std::cout << fmt::format("{}: {} [{}]\n", output, name, fmt::join(tensor.sizes().vec(), ", "));
  return failed.exit_code();
}

}  // namespace tessera::apps
