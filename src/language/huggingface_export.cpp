#include "language/huggingface_export.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "core/publish_folder.h"
#include "core/safetensors.h"
#include "core/weights_file.h"

namespace tessera::language {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kWeightsFile = "model.safetensors";

/// Weights in any form, whole or in shards, or the list of these.
bool holds_weights(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.ends_with(".safetensors") || name.ends_with(".bin") || name.ends_with(".pth") ||
         name.ends_with(".pt") || name.ends_with(".index.json");
}

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
  write_safetensors(folder / kWeightsFile, weights, {{"format", "pt"}});
}

}  // namespace

void save_hugging_face(const LanguageModel& model, const Tokenizer& tokenizer, const fs::path& folder) {
  if (tokenizer.vocab_size() != model->config().vocab_size) {
    fail("{}: the model has a vocabulary of {}, the tokenizer one of {}", folder.string(),
         model->config().vocab_size, tokenizer.vocab_size());
  }
  publish_folder(folder, [&](const fs::path& fresh) { write_files(model, tokenizer, fresh); });
}

void save_changed_weights(const LanguageModel& model, const fs::path& source, const fs::path& folder) {
  const at::ScalarType dtype = stored_dtype(source);
  TensorMap weights = language_model_weights(model);
  for (auto& [name, weight] : weights) weight = weight.to(at::kCPU, dtype);
  publish_folder(
      folder,
      [&](const fs::path& fresh) {
        for (const fs::directory_entry& entry : fs::directory_iterator(source)) {
          if (!entry.is_regular_file() || holds_weights(entry.path())) continue;
          write_file_atomically(fresh / entry.path().filename(), read_file(entry.path()));
        }
        write_safetensors(fresh / kWeightsFile, weights, {{"format", "pt"}});
      },
      OldFolder::kRefuse);
}

LanguageModel load_hugging_face(const fs::path& folder) {
  const fs::path config_path = folder / "config.json";
  const auto config =
      LanguageModelConfig::from_hugging_face(read_json_file(config_path), config_path.string());
  LanguageModel model(config, /*seed=*/0);
  load_hugging_face_weights(model, folder);
  return model;
}

void load_hugging_face_weights(LanguageModel& model, const fs::path& folder) {
  const fs::path weights_path = find_weights_file(folder);
  load_language_model_weights(model, read_weights(weights_path), weights_path.string());
}

}  // namespace tessera::language
