#include "model/weights.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "core/safetensors.h"
#include "core/utf8.h"
#include "core/weights_file.h"
#include "language/huggingface_export.h"
#include "language/language_model.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "model/adaptable_parts.h"
#include "model/stage1_model.h"
#include "nn/state_dict.h"
#include "vision/encoder_families.h"
#include "vision/encoder_files.h"

namespace tessera::model {

namespace fs = std::filesystem;

namespace {

/// In the metadata of model.safetensors where an adapter was added to the backbone's weights for good.
constexpr const char* kMergedAdapter = "backbone_has_merged_adapter";

/// Whether a parameter is in model.safetensors: neither in an adapter's nor in the language model's folder,
/// nor part of a frozen backbone.
bool in_model_file(lora::TrainableChoice encoder, const NamedParameter& parameter) {
  const Part part = parameter.part;
  if (part == Part::kLora || part == Part::kLanguage || lora::is_lora_parameter(parameter.name)) return false;
  return part != Part::kBackbone || encoder == lora::TrainableChoice::kFull;
}

void load_model_file(const fs::path& path, Stage1Model& model) {
  TensorMap parameters;
  for (const NamedParameter& parameter : model.named_parts()) {
    if (in_model_file(model.trainable(), parameter)) parameters[parameter.name] = parameter.tensor;
  }
  nn::load_state_dict(parameters, SafetensorsFile(path).tensors(), {}, path.string());
}

SafetensorsFile open_model_file(const fs::path& folder) {
  for (const char* name : {"model.safetensors", "config.yaml"}) {
    if (fs::exists(folder / name)) continue;
    const fs::path latest = folder / "checkpoints" / "latest";
    fail("{}: neither checkpoint nor bundle (it holds no {}){}", folder.string(), name,
         fs::exists(latest) ? fmt::format("; the run's latest checkpoint is {}", latest.string()) : "");
  }
  return SafetensorsFile(folder / "model.safetensors");
}

/// The backbone's place: as it was written (relative: inside the checkpoint, as bundles have it), or, where
/// the run's folder has moved, beside the checkpoints. Another run may have taken the old place since: the
/// hash tells.
fs::path find_backbone(const fs::path& checkpoint, const fs::path& written, const std::string& hash) {
  const fs::path place = fs::absolute(checkpoint / written).lexically_normal();
  const fs::path moved = fs::canonical(checkpoint).parent_path().parent_path() / "backbone";
  const bool has_moved = written.filename() == "backbone" && moved != place && fs::exists(moved);
  if (fs::exists(place) && (!has_moved || backbone_hash(place) == hash)) return place;
  if (has_moved) return moved;
  fail("{}: its frozen backbone {} is not there any more: put it back there, or as {}", checkpoint.string(),
       place.string(), moved.string());
}

std::shared_ptr<vision::VisionEncoder> load_backbone(const fs::path& folder, const Config& config) {
  const SafetensorsFile file = open_model_file(folder);
  if (config.vision.trainable == lora::TrainableChoice::kFull) {
    const std::string source = (folder / "model.safetensors").string();
    const auto found = file.metadata().find("backbone_config");
    if (found == file.metadata().end()) fail("{}: the metadata lacks backbone_config", source);
    const std::string place = source + ": backbone_config in the metadata";
    return vision::encoder_from_config(parse_json(found->second, place), place,
                                       config.vision.position_interpolation);
  }
  const BackboneSource backbone = backbone_of_checkpoint(folder);
  check_backbone(folder, backbone, backbone_hash(backbone.path));
  return vision::load_encoder(backbone.path, config.vision.position_interpolation);
}

/// Reads a checkpoint's adapter into a part; one that the checkpoint is without begins afresh.
void load_part_adapter(const fs::path& checkpoint, const Config& then, const AdaptablePart& part,
                       const Stage1Model& model) {
  const bool has_adapters = part.options(model) != nullptr;
  if (part.is_adapted(then) && !has_adapters) {
    fail(
        "{}: its {} has adapters, for which {} of this model leaves no place: expected lora, or a checkpoint "
        "with the adapters in its weights (tessera bundle --merge-lora)",
        checkpoint.string(), part.name, part.trainable_key);
  }
  if (!has_adapters) return;
  if (part.is_adapted(then)) {
    lora::load_adapter(checkpoint / part.folder, part.module(model));
  } else {
    lora::restart_magnitudes(part.module(model));
  }
}

}  // namespace

BackboneSource backbone_of_checkpoint(const fs::path& folder) {
  const SafetensorsFile file = open_model_file(folder);
  const StringMap& metadata = file.metadata();
  const auto path = metadata.find("backbone");
  const auto hash = metadata.find("backbone_hash");
  if (path == metadata.end() || hash == metadata.end()) return {};
  return {find_backbone(folder, path_from_utf8(path->second), hash->second), hash->second,
          metadata.count(kMergedAdapter) != 0};
}

void check_backbone(const fs::path& checkpoint, const BackboneSource& expected,
                    const std::string& found_hash) {
  if (found_hash == expected.hash) return;
  // Nothing that holds weights, perhaps: that says more than a sum.
  const fs::path weights = find_weights_file(expected.path);
  if (weights.extension() == ".safetensors") SafetensorsFile{weights};
  fail("{}: the backbone {} is not the one that this checkpoint was trained on (SHA-1 {}, expected {})",
       checkpoint.string(), expected.path.string(), found_hash, expected.hash);
}

void save_weights(const fs::path& folder, const Stage1Model& model, const Config& config,
                  const language::Tokenizer& tokenizer, const BackboneSource& backbone) {
  TensorMap tensors;
  for (const NamedParameter& parameter : model.named_parts()) {
    if (in_model_file(config.vision.trainable, parameter))
      tensors[parameter.name] = parameter.tensor.detach();
  }
  StringMap metadata = {{"format", "pt"}, {"backbone_config", model.vision().config_json().dump()}};
  if (config.vision.trainable != lora::TrainableChoice::kFull) {
    TORCH_CHECK(!backbone.path.empty(), "save_weights: a frozen backbone must lie in a file");
    metadata["backbone"] = path_to_utf8(backbone.path);
    metadata["backbone_hash"] = backbone.hash;
    if (backbone.has_merged_adapter) metadata[kMergedAdapter] = "true";
  }
  write_safetensors(folder / "model.safetensors", tensors, metadata);
  for (const AdaptablePart& part : adaptable_parts()) {
    if (!part.is_adapted(config)) continue;
    TORCH_CHECK(part.options(model) != nullptr, "save_weights: the ", part.name, " has no adapter to write");
    lora::save_adapter(folder / part.folder, part.module(model), *part.options(model),
                       part.description(model, config, backbone.path));
  }
  language::save_hugging_face(model.language(), tokenizer, folder / "language_model");
  write_file_atomically(folder / "tokenizer.model", tokenizer.model_bytes());
  write_file_atomically(folder / "config.yaml", to_yaml(config));
}

void load_weights(const fs::path& folder, Stage1Model& model) {
  open_model_file(folder);
  load_model_file(folder / "model.safetensors", model);
  language::LanguageModel language = model.language();
  language::load_hugging_face_weights(language, folder / "language_model");
  const Config then = load_config(folder / "config.yaml");
  for (const AdaptablePart& part : adaptable_parts()) load_part_adapter(folder, then, part, model);
}

void save_backbone(const fs::path& folder, const vision::VisionEncoder& backbone, const Config& config) {
  fs::create_directories(folder.parent_path());
  // Evaluation scales the shorter edge to the crop's own size, so the file says that too.
  vision::save_encoder(folder, backbone,
                       {.crop_size = config.data.image_size,
                        .shortest_edge = config.data.image_size,
                        .image_mean = config.data.image_mean,
                        .image_std = config.data.image_std});
}

LoadedModel load_model(const fs::path& folder, CheckpointAdapter adapter) {
  if (!fs::is_directory(folder)) fail("{}: no such folder", folder.string());
  open_model_file(folder);
  Config config = load_config(folder / "config.yaml");
  std::shared_ptr<vision::VisionEncoder> backbone = load_backbone(folder, config);
  std::optional<lora::LoraOptions> lora;
  if (const AdaptablePart& encoder = adaptable_parts().front();
      encoder.is_adapted(config) && adapter == CheckpointAdapter::kLoad)
    lora = lora::load_adapter(folder / encoder.folder, *backbone);
  auto model = assemble_model(config, backbone, std::move(lora),
                              language::load_hugging_face(folder / "language_model"), folder);
  load_model_file(folder / "model.safetensors", *model);
  return {std::move(config), std::move(model), language::Tokenizer::load(folder / "tokenizer.model")};
}

}  // namespace tessera::model
