#include "vision/encoder_files.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "core/files.h"
#include "core/finite.h"
#include "core/publish_folder.h"

namespace tessera::vision {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kWeightsFile = "model.safetensors";

json preprocessor_json(const Preprocessing& preprocessing) {
  return {{"image_processor_type", "BitImageProcessor"},
          {"do_convert_rgb", true},
          {"do_resize", true},
          {"size", {{"shortest_edge", preprocessing.shortest_edge}}},
          {"resample", 3},  // PIL's number for bicubic
          {"do_center_crop", true},
          {"crop_size", {{"height", preprocessing.crop_size}, {"width", preprocessing.crop_size}}},
          {"do_rescale", true},
          {"rescale_factor", 1.0 / 255.0},
          {"do_normalize", true},
          {"image_mean", preprocessing.image_mean},
          {"image_std", preprocessing.image_std}};
}

/// Weights first: a folder with a config.json is complete.
void write_encoder_files(const fs::path& folder, const VisionEncoder& encoder,
                         const Preprocessing& preprocessing, at::ScalarType dtype) {
  TensorMap tensors = encoder.file_tensors();
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(dtype);
    // An adapter that was merged, or float16, which ends at 65,504.
    if (const std::string found = what_is_not_finite(tensor); !found.empty()) {
      fail("{}: tensor '{}' can't be written as {}: not finite are {}", (folder / kWeightsFile).string(),
           name, c10::toString(dtype), found);
    }
  }
  write_safetensors(folder / kWeightsFile, tensors, {{"format", "pt"}});
  write_file_atomically(folder / "preprocessor_config.json", preprocessor_json(preprocessing).dump(2) + "\n");
  json config = encoder.config_json();
  config["dtype"] = c10::getDtypeNames(dtype).first;
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

void save_encoder(const fs::path& folder, const VisionEncoder& encoder, const Preprocessing& preprocessing,
                  at::ScalarType dtype) {
  if (fs::exists(folder)) {
    if (!fs::is_directory(folder)) {
      fail("{}: expected a folder to write the model into, found a file", folder.string());
    }
    write_encoder_files(folder, encoder, preprocessing, dtype);
    return;
  }
  publish_folder(folder,
                 [&](const fs::path& fresh) { write_encoder_files(fresh, encoder, preprocessing, dtype); });
}

void save_encoder(const fs::path& folder, const VisionEncoder& encoder) {
  save_encoder(folder, encoder, encoder.preprocessing());
}

}  // namespace tessera::vision
