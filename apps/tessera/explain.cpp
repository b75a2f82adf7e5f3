// tessera explain: what a model says of images and where it sees the words, as pictures.

#include "inference/explanation.h"

#include <filesystem>
#include <iostream>

#include "command_line.h"
#include "core/error.h"
#include "inference/explanation_pages.h"
#include "model_tool.h"
#include "tessera/adapted_model.h"
#include "tessera/caption_options.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;
namespace fs = std::filesystem;

namespace {

/// What is said of every image: a text of the user's, or a caption of the model's.
class Explainer {
 public:
  explicit Explainer(const options::variables_map& values)
      : caption_options_(caption_options(values)),
        words_(words_of(values, "words")),
        model_("tessera explain", values) {
    if (values.count("text") != 0) text_ = values["text"].as<std::string>();
    if (!text_) check_captions(tool());
  }

  /// Appends the image as each adapter has it.
  void explain(const std::string& file, const at::Tensor& pixels,
               std::vector<inference::ExplainedImage>& images) const {
    const inference::TrainedModel trained = tool().trained();
    const std::vector<model::ImageFeatures> features = model_.encode_images(pixels.unsqueeze(0), {file});
    std::vector<std::vector<inference::HeatMap>> maps;
    if (text_) maps = inference::heat_maps(trained, features, *text_, words_);
    for (std::size_t i = 0; i < features.size(); ++i) {
      inference::ExplainedImage explained{file, pixels, text_.value_or(""), "given text", {}};
      if (text_) {
        explained.maps = std::move(maps[i]);
      } else {
        const inference::GeneratedCaption caption = caption_of(trained, features[i], caption_options_);
        explained.caption = caption.text;
        explained.note = fmt::format("generated, log p {:.2f}", caption.log_probability);
        explained.maps = inference::heat_maps(trained, features[i], explained.caption, words_);
      }
      if (model_.is_switched())
        explained.note = fmt::format("adapter {}: {}", model_.adapters()[i].name, explained.note);
      images.push_back(std::move(explained));
    }
  }

  const ModelTool& tool() const { return model_.tool(); }

 private:
  inference::CaptionOptions caption_options_;
  std::vector<std::string> words_;
  AdaptedModel model_;
  std::optional<std::string> text_;
};

}  // namespace

int explain_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("image", options::value<std::vector<std::string>>()->composing(), "JPEG, PNG or WebP file; words without a name are images")
      ("output,o", options::value<std::string>()->required(), "folder for explain.png and explain.html; made where absent")
      ("words,w", options::value<std::vector<std::string>>()->composing(),
       "a word or phrase to find in the image, may be given many times; default: the content words of the caption")
      ("text,t", options::value<std::string>(), "explain this text instead of a generated caption");
  add_model_tool_options(description);
  add_adapter_option(description);
  add_caption_options(description);
  // clang-format on
  options::positional_options_description positional;
  positional.add("image", -1);
  const auto values = parse_options(
      "Draws each image with its caption and, for words of it, how similar each patch of the image is to the "
      "word\n"
      "(what MaxSim compares): one PNG and one web page. With several adapters each image is there once for "
      "each.\n\n"
      "Usage: tessera explain IMAGE... --model FOLDER [--adapter FOLDER]... --output FOLDER [--words "
      "WORD]... [OPTIONS]\n",
      description, arguments, positional);
  if (!values) return kDone;
  const std::vector<std::string> files = words_of(*values, "image");
  if (files.empty()) throw ConfigError("name at least one image");

  const Explainer explainer(*values);
  if (values->count("text") != 0)
    warn_of_cut_texts("tessera explain", explainer.tool().trained(), {(*values)["text"].as<std::string>()});
  FailedImages failed("tessera explain");
  std::vector<inference::ExplainedImage> images;
  for (const std::string& file : files) {
    failed.read(file, explainer.tool().loaded.config.data.image_size,
                [&](const at::Tensor& pixels) { explainer.explain(file, pixels, images); });
  }
  if (images.empty()) return failed.exit_code();
  const fs::path folder = (*values)["output"].as<std::string>();
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: the folder can't be made: {}", folder.string(), error.message());
  inference::write_explanation_sheet(folder / "explain.png", images);
  inference::write_explanation_page(folder / "explain.html", "What " + explainer.tool().folder + " sees",
                                    images);
  std::cout << (folder / "explain.png").string() << "\n" << (folder / "explain.html").string() << "\n";
  return failed.exit_code();
}

}  // namespace tessera::apps
