// tessera caption: what a model says of image files.

#include <ATen/Parallel.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "command_line.h"
#include "core/error.h"
#include "inference/encode_inputs.h"
#include "inference/generate_captions.h"
#include "model_tool.h"
#include "tessera/adapted_model.h"
#include "tessera/caption_options.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

namespace {

using Clock = std::chrono::steady_clock;

/// Seconds from an image's file to a caption of it.
class Latency {
 public:
  void add(double seconds) { seconds_.push_back(seconds); }

  /// Of the first image, which also warms the program up; and the median of the others.
  nlohmann::json json(const ModelTool& tool) const {
    nlohmann::json json = {{"load_s", tool.load_seconds}, {"compute", tool.compute.describe()}};
    if (!seconds_.empty()) json["first_s"] = seconds_.front();
    if (seconds_.size() > 1) json["steady_s"] = steady();
    return json;
  }

  std::string line(const ModelTool& tool) const {
    if (seconds_.empty()) return "";
    std::string text = fmt::format("from file to caption: {:.3f} s the first", seconds_.front());
    if (seconds_.size() > 1)
      text += fmt::format(", {:.3f} s steady (median of {})", steady(), seconds_.size() - 1);
    return text + fmt::format("; {}; model loaded in {:.2f} s\n", tool.compute.describe(), tool.load_seconds);
  }

 private:
  double steady() const {
    std::vector<double> others(seconds_.begin() + 1, seconds_.end());
    const auto middle = others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2);
    std::nth_element(others.begin(), middle, others.end());
    if (others.size() % 2 == 1) return *middle;
    return (*middle + *std::max_element(others.begin(), middle)) / 2;
  }

  std::vector<double> seconds_;
};

/// Captions images one after the other, as somebody does who has one.
class Captioner {
 public:
  Captioner(const options::variables_map& values, bool as_json)
      : options_(caption_options(values)), model_("tessera caption", values), as_json_(as_json) {
    check_captions(model_.tool());
  }

  int run(const std::vector<std::string>& files) {
    FailedImages failed("tessera caption");
    const ModelTool& tool = model_.tool();
    for (const std::string& file : files) {
      const auto start = Clock::now();
      failed.read(file, tool.loaded.config.data.image_size, [&](const at::Tensor& pixels) {
        const double reading = seconds_since(start);
        for (const NamedAdapter& adapter : model_.adapters()) caption(file, pixels, adapter, reading);
      });
    }
    if (as_json_) {
      nlohmann::json json = {{"model", tool.folder},
                             {"images", images_},
                             {"failed", failed.json()},
                             {"latency", latency_.json(tool)}};
      if (model_.is_switched()) json["adapters"] = model_.json();
      std::cout << dumped(json);
    } else {
      std::cout << latency_.line(tool);
    }
    return failed.exit_code();
  }

 private:
  /// @param reading  seconds that the pixels took
  void caption(const std::string& file, const at::Tensor& pixels, const NamedAdapter& adapter,
               double reading) {
    const auto start = Clock::now();
    const inference::TrainedModel trained = model_.with(adapter);
    const inference::GeneratedCaption caption =
        caption_of(trained, inference::encode_images(trained, pixels.unsqueeze(0), {file}), options_);
    const double seconds = reading + seconds_since(start);
    latency_.add(seconds);
    report(file, adapter.name, caption, seconds);
  }

  void report(const std::string& file, const std::string& adapter, const inference::GeneratedCaption& caption,
              double seconds) {
    if (as_json_) {
      images_.push_back({{"image", file},
                         {"caption", caption.text},
                         {"log_probability", caption.log_probability},
                         {"new_tokens", caption.new_tokens},
                         {"finished", caption.finished},
                         {"seconds", seconds}});
      if (!adapter.empty()) images_.back()["adapter"] = adapter;
      return;
    }
    std::cout << fmt::format("{}{}: {} (log p {:.2f}{})", file,
                             adapter.empty() ? "" : fmt::format(" [{}]", adapter), caption.text,
                             caption.log_probability, caption.finished ? "" : ", cut off")
              << std::endl;  // shown at once: the next image may take a while
  }

  inference::CaptionOptions options_;
  AdaptedModel model_;
  bool as_json_;
  Latency latency_;
  nlohmann::json images_ = nlohmann::json::array();
};

}  // namespace

int caption_command(const std::vector<std::string>& arguments) {
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("image", options::value<std::vector<std::string>>()->composing(), "JPEG, PNG or WebP file; words without a name are images");
  add_model_tool_options(description);
  add_adapter_option(description);
  add_caption_options(description);
  description.add_options()("json", "print one JSON object instead of a line an image");
  // clang-format on
  options::positional_options_description positional;
  positional.add("image", -1);
  const auto values = parse_options(
      "Writes a caption for each image, by greedy search unless told otherwise, with the log-probability "
      "that the model gives it (in nats).\n\n"
      "Usage: tessera caption IMAGE... --model FOLDER [--adapter FOLDER]... [OPTIONS]\n",
      description, arguments, positional);
  if (!values) return kDone;
  const std::vector<std::string> files = words_of(*values, "image");
  if (files.empty()) throw ConfigError("name at least one image");
  return Captioner(*values, values->count("json") != 0).run(files);
}

}  // namespace tessera::apps
