#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_file.h"
#include "data/image_processor.h"

namespace tessera::data {
namespace {

using nlohmann::json;

constexpr std::int64_t kMaxEdge = 1 << 16;

/// Fields that say nothing about what is computed from one RGB image.
constexpr std::array kNeutral = {"image_processor_type",  "feature_extractor_type",
                                 "processor_class",       "_processor_class",
                                 "_valid_processor_keys", "model_input_names",
                                 "default_to_square",     "do_convert_rgb",
                                 "disable_grouping",      "device",
                                 "return_tensors"};
/// Fields that are read, where they count.
constexpr std::array kRead = {"do_resize",  "size",           "resample",     "do_center_crop", "crop_size",
                              "do_rescale", "rescale_factor", "do_normalize", "image_mean",     "image_std"};

/// The fields of one file; what is null counts as absent, as in transformers.
class Fields {
 public:
  Fields(const json& object, const std::string& source) : object_(object), source_(source) {}

  const json* find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  [[noreturn]] void refuse(const std::string& name, const std::string& expected, const json& found) const {
    fail("{}: {}: expected {}, found {}", source_, name, expected, json_text(found));
  }

  void read(const char* name, bool& value) const {
    const json* found = find(name);
    if (found == nullptr) return;
    if (!found->is_boolean()) refuse(name, "true or false", *found);
    value = found->get<bool>();
  }

  std::int64_t edge(const std::string& name, const json& found) const {
    if (!found.is_number_integer() || found < 1 || found > kMaxEdge) {
      refuse(name, fmt::format("an edge of 1 to {} pixels", kMaxEdge), found);
    }
    return found.get<std::int64_t>();
  }

  /// {"height": …, "width": …}, or one number for both.
  ResizedSize height_and_width(const char* name, const json& found) const {
    if (found.is_number()) return {edge(name, found), edge(name, found)};
    if (!found.is_object() || found.size() != 2 || !found.contains("height") || !found.contains("width")) {
      refuse(name, "height and width", found);
    }
    return {edge(fmt::format("{}.height", name), found["height"]),
            edge(fmt::format("{}.width", name), found["width"])};
  }

  void read(const char* name, std::array<double, 3>& values, bool positive) const {
    const json* found = find(name);
    if (found == nullptr) return;
    const std::string expected = positive ? "three numbers above 0" : "three numbers";
    const auto number = [&](const json& value) {
      const double result = value.is_number() ? value.get<double>() : std::nan("");
      if (!std::isfinite(result) || (positive && static_cast<float>(result) <= 0))
        refuse(name, expected, *found);
      return result;
    };
    if (found->is_array() && found->size() == 3) {
      for (std::size_t i = 0; i < 3; ++i) values[i] = number((*found)[i]);
    } else {
      values.fill(number(*found));
    }
  }

  /// Whatever else is in the file must not ask for anything.
  void refuse_others() const {
    for (const auto& [name, value] : object_.items()) {
      const auto is_name = [&name](const char* known) { return name == known; };
      if (std::any_of(kNeutral.begin(), kNeutral.end(), is_name)) continue;
      if (std::any_of(kRead.begin(), kRead.end(), is_name)) continue;
      if (is_missing(value) || value == false) continue;
      // Padding sizes ask for nothing unless do_pad does; channels come first here.
      if (name == "pad_size" || (name == "data_format" && value == "channels_first")) continue;
      fail("{}: {}: this field is not supported (found {})", source_, name, json_text(value));
    }
  }

 private:
  const json& object_;
  const std::string& source_;
};

/// The defaults of the class that the file names, and what a plain number means as its `size`.
struct ProcessorClass {
  ImageProcessorOptions options;
  bool default_to_square = false;
};

ProcessorClass class_of(const Fields& fields) {
  const json* found = fields.find("image_processor_type");
  if (found == nullptr) return {};
  const std::string expected = "BitImageProcessor, CLIPImageProcessor or ViTImageProcessor";
  if (!found->is_string()) fields.refuse("image_processor_type", expected, *found);
  std::string name = found->get<std::string>();
  for (const std::string suffix : {"Fast", "Pil"}) {
    if (name.ends_with(suffix)) name.resize(name.size() - suffix.size());
  }
  if (name == "BitImageProcessor" || name == "CLIPImageProcessor") return {};
  if (name != "ViTImageProcessor") fields.refuse("image_processor_type", expected, *found);
  ProcessorClass vit{{}, /*default_to_square=*/true};
  vit.options.shortest_edge = 0;
  vit.options.size = {224, 224};
  vit.options.resample = ResizeFilter::kBilinear;
  vit.options.do_center_crop = false;
  vit.options.image_mean = {0.5, 0.5, 0.5};
  vit.options.image_std = {0.5, 0.5, 0.5};
  return vit;
}

void read_size(const Fields& fields, bool default_to_square, ImageProcessorOptions& options) {
  const json* size = fields.find("size");
  if (size == nullptr) return;
  const bool shortest = size->is_object() ? size->size() == 1 && size->contains("shortest_edge")
                                          : size->is_number() && !default_to_square;
  if (shortest) {
    options.shortest_edge =
        fields.edge("size.shortest_edge", size->is_object() ? (*size)["shortest_edge"] : *size);
    return;
  }
  if (size->is_object() && !(size->contains("height") && size->contains("width"))) {
    fields.refuse("size", "shortest_edge alone, or height and width", *size);
  }
  options.shortest_edge = 0;
  options.size = fields.height_and_width("size", *size);
}

}  // namespace

ImageProcessorOptions ImageProcessorOptions::from_json(const json& config, const std::string& source) {
  if (!config.is_object()) fail("{}: expected a JSON object", source);
  const Fields fields(config, source);
  auto [options, default_to_square] = class_of(fields);
  fields.refuse_others();
  fields.read("default_to_square", default_to_square);
  fields.read("do_resize", options.do_resize);
  fields.read("do_center_crop", options.do_center_crop);
  fields.read("do_rescale", options.do_rescale);
  fields.read("do_normalize", options.do_normalize);
  if (options.do_resize) {
    read_size(fields, default_to_square, options);
    if (const json* filter = fields.find("resample"); filter != nullptr) {
      if (*filter != 2 && *filter != 3) fields.refuse("resample", "2 (bilinear) or 3 (bicubic)", *filter);
      options.resample = *filter == 2 ? ResizeFilter::kBilinear : ResizeFilter::kBicubic;
    }
  }
  if (const json* size = fields.find("crop_size"); size != nullptr && options.do_center_crop) {
    options.crop_size = fields.height_and_width("crop_size", *size);
  }
  if (const json* factor = fields.find("rescale_factor"); factor != nullptr && options.do_rescale) {
    const double value = factor->is_number() ? factor->get<double>() : std::nan("");
    if (!std::isfinite(value)) fields.refuse("rescale_factor", "a number", *factor);
    options.rescale_factor = value;
  }
  if (options.do_normalize) {
    fields.read("image_mean", options.image_mean, /*positive=*/false);
    fields.read("image_std", options.image_std, /*positive=*/true);
  }
  return options;
}

ImageProcessorOptions ImageProcessorOptions::load(const std::filesystem::path& path) {
  const std::filesystem::path file =
      std::filesystem::is_directory(path) ? path / "preprocessor_config.json" : path;
  if (!std::filesystem::exists(file)) {
    fail("{}: no such file; it says how images are resized and normalised for the model", file.string());
  }
  return from_json(read_json_file(file), file.string());
}

json ImageProcessorOptions::to_json() const {
  const auto edges = [](const ResizedSize& of) { return json{{"height", of.height}, {"width", of.width}}; };
  return {{"image_processor_type", "BitImageProcessor"},
          {"do_convert_rgb", true},
          {"do_resize", do_resize},
          {"size", shortest_edge > 0 ? json{{"shortest_edge", shortest_edge}} : edges(size)},
          {"resample", static_cast<int>(resample)},
          {"do_center_crop", do_center_crop},
          {"crop_size", edges(crop_size)},
          {"do_rescale", do_rescale},
          {"rescale_factor", rescale_factor},
          {"do_normalize", do_normalize},
          {"image_mean", image_mean},
          {"image_std", image_std}};
}

}  // namespace tessera::data
