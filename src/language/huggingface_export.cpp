#include "language/huggingface_export.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/publish_folder.h"
#include "core/safetensors.h"

namespace tessera::language {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json generation_config(const LanguageModelConfig& config) {
  json result = {{"_from_model_config", true}};
  const auto add = [&](const char* field, std::int64_t id) {
    if (id >= 0) result[field] = id;
  };
  add("pad_token_id", config.pad_token_id);
  add("bos_token_id", config.bos_token_id);
  add("eos_token_id", config.eos_token_id);
  return result;
}

void write_files(const LanguageModel& model, const Tokenizer& tokenizer, const fs::path& folder) {
  write_file_atomically(folder / "config.json", model->config().to_hugging_face().dump(2) + "\n");
  write_file_atomically(folder / "generation_config.json", generation_config(model->config()).dump(2) + "\n");
  write_file_atomically(folder / "tokenizer.model", tokenizer.model_bytes());
  TensorMap weights = language_model_weights(model);
  for (auto& [name, weight] : weights) weight = weight.to(at::kCPU, at::kFloat);
  write_safetensors(folder / "model.safetensors", weights, {{"format", "pt"}});
}

json read_json(const fs::path& path) {
  try {
    return json::parse(read_file(path));
  } catch (const json::parse_error& error) {
    fail("{}: not JSON: {}", path.string(), error.what());
  }
}

}  // namespace

void save_hugging_face(const LanguageModel& model, const Tokenizer& tokenizer, const fs::path& folder) {
  if (tokenizer.vocab_size() != model->config().vocab_size) {
    fail("{}: the model has a vocabulary of {}, the tokenizer one of {}", folder.string(),
         model->config().vocab_size, tokenizer.vocab_size());
  }
  publish_folder(folder, [&](const fs::path& fresh) { write_files(model, tokenizer, fresh); });
}

LanguageModel load_hugging_face(const fs::path& folder) {
  const fs::path config_path = folder / "config.json";
  const fs::path weights_path = folder / "model.safetensors";
  const auto config = LanguageModelConfig::from_hugging_face(read_json(config_path), config_path.string());
  if (!fs::exists(weights_path) && fs::exists(folder / "model.safetensors.index.json")) {
    fail(
        "{}: the weights are split over several files, which isn't supported; save them as one "
        "model.safetensors",
        folder.string());
  }
  LanguageModel model(config, /*seed=*/0);
  load_language_model_weights(model, SafetensorsFile(weights_path).tensors(), weights_path.string());
  return model;
}

}  // namespace tessera::language
