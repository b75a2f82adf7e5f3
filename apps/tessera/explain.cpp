// tessera explain: what a model says of images and where it sees the words, as pictures.

#include "inference/explanation.h"

#include <filesystem>
#include <iostream>

#include "command_line.h"
#include "core/error.h"
#include "inference/encode_inputs.h"
#include "inference/explanation_pages.h"
#include "model_tool.h"
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
      : caption_options_(caption_options(values)), words_(words_of(values, "words")), tool_(values) {
    if (values.count("text") != 0) text_ = values["text"].as<std::string>();
    if (!text_) check_captions(tool_);
  }

  inference::ExplainedImage explain(const std::string& file, const at::Tensor& pixels) const {
    const inference::TrainedModel evaluated = tool_.evaluated();
    inference::ExplainedImage explained{file, pixels, text_.value_or(""), "given text", {}};
    const model::ImageFeatures image = inference::encode_images(evaluated, pixels.unsqueeze(0), {file});
    if (!text_) {
      const inference::GeneratedCaption caption = caption_of(evaluated, image, caption_options_);
      explained.caption = caption.text;
      explained.note = fmt::format("generated, log p {:.2f}", caption.log_probability);
    }
    explained.maps = inference::heat_maps(evaluated, image, explained.caption, words_);
    return explained;
  }

  const ModelTool& tool() const { return tool_; }

 private:
  inference::CaptionOptions caption_options_;
  std::vector<std::string> words_;
  ModelTool tool_;
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
  add_caption_options(description);
  // clang-format on
  options::positional_options_description positional;
  positional.add("image", -1);
  const auto values = parse_options(
      "Draws each image with its caption and, for words of it, how similar each patch of the image is to the "
      "word\n(what MaxSim compares): one PNG and one web page.\n\n"
      "Usage: tessera explain IMAGE... --model FOLDER --output FOLDER [--words WORD]... [OPTIONS]\n",
      description, arguments, positional);
  if (!values) return kDone;
  const std::vector<std::string> files = words_of(*values, "image");
  if (files.empty()) throw ConfigError("name at least one image");

  const Explainer explainer(*values);
  if (values->count("text") != 0)
    warn_of_cut_texts("tessera explain", explainer.tool().evaluated(), {(*values)["text"].as<std::string>()});
  FailedImages failed("tessera explain");
  std::vector<inference::ExplainedImage> images;
  for (const std::string& file : files) {
    failed.read(file, explainer.tool().loaded.config.data.image_size,
                [&](const at::Tensor& pixels) { images.push_back(explainer.explain(file, pixels)); });
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
