#include "tests/fuzz/readers.h"

#include <ATen/ATen.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/pytorch_file.h"
#include "core/safetensors.h"
#include "vision/dinov2.h"
#include "vision/dinov2_weights.h"
#include "vision/facebook_weights.h"
#include "vision/peft_files.h"

namespace tessera {

namespace {

void write(std::string_view bytes, const std::filesystem::path& path) {
  std::filesystem::remove(path);  // ext4 flushes a file that is truncated and written anew: 10 ms each time
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// Reads every element: a view that reaches out of its file ends here.
void look_at(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) tensor.clone();
}

/// What a file of that content is then used for.
void load(const TensorMap& tensors) {
  if (!vision::has_facebook_names(tensors)) return;
  const vision::FacebookWeights weights = vision::from_facebook(tensors, "file");
  vision::Dinov2Model model(weights.config);
  vision::load_dinov2_tensors(model, weights.tensors, "file");
}

}  // namespace

bool accepts_safetensors(std::string_view bytes, const std::filesystem::path& scratch) {
  write(bytes, scratch);
  try {
    look_at(SafetensorsFile(scratch).tensors());
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool accepts_pytorch_file(std::string_view bytes, const std::filesystem::path& scratch) {
  write(bytes, scratch);
  try {
    const TensorMap tensors = read_pytorch_file(scratch);
    look_at(tensors);
    load(tensors);
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool accepts_adapter_config(std::string_view bytes, const std::filesystem::path&) {
  const auto json = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return false;
  try {
    vision::parse_adapter_config(json, "adapter_config.json");
  } catch (const Error&) {
    return false;
  }
  return true;
}

}  // namespace tessera
