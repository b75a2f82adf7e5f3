#pragma once

#include <filesystem>
#include <memory>

#include "config/config.h"
#include "language/tokenizer.h"
#include "model/build.h"

namespace tessera::model {
class Stage1Model;
}
namespace tessera::vision {
class VisionEncoder;
}

namespace tessera::model {

/// Writes a model's weights into an existing folder:
///   config.yaml        the configuration as given
///   model.safetensors  everything that is in no other file (compressor, fusion, heads, memory, temperatures;
///                      the backbone where vision.trainable is full); its metadata names a frozen backbone by
///                      path and hash
///   adapter/, language_adapter/, fusion_adapter/
///                      PEFT's two files each, where vision.trainable, language.trainable, fusion.trainable
///                      are lora
///   language_model/    a Hugging Face LlamaForCausalLM folder, without adapters
///   tokenizer.model
/// @param backbone  where the frozen backbone lies; a relative path is one inside the folder
void save_weights(const std::filesystem::path& folder, const Stage1Model& model, const Config& config,
                  const language::Tokenizer& tokenizer, const BackboneSource& backbone);

/// Reads what save_weights wrote into a model of the same shape (resume, init_from). A part's adapters begin
/// afresh where the checkpoint has none; where it has and the model has no place for them, that is an Error,
/// as is a tensor that is missing, unexpected or of another shape, which it lists.
void load_weights(const std::filesystem::path& folder, Stage1Model& model);

/// The frozen backbone that a checkpoint names.
BackboneSource backbone_of_checkpoint(const std::filesystem::path& folder);

/// Throws Error where the backbone behind `expected.path`, whose hash is now `found_hash`, is not the one
/// that the checkpoint was trained on.
void check_backbone(const std::filesystem::path& checkpoint, const BackboneSource& expected,
                    const std::string& found_hash);

/// Writes a backbone as a Hugging Face folder, whole or not at all, with the preparation of images that the
/// configuration's evaluation has.
void save_backbone(const std::filesystem::path& folder, const vision::VisionEncoder& backbone,
                   const Config& config);

/// A model, its tokenizer and its configuration, from a checkpoint or a bundle (model/bundle.h) alone; the
/// training data is not needed.
struct LoadedModel {
  Config config;
  std::shared_ptr<Stage1Model> model;
  language::Tokenizer tokenizer;
};

/// What becomes of the adapter in a checkpoint of vision.trainable lora.
enum class CheckpointAdapter {
  kLoad,     ///< it is in the encoder
  kLeaveOut  ///< the encoder is the frozen backbone, to which a lora::AdapterSet can add it and others
};

/// @throws Error where the folder is neither checkpoint nor bundle, or its frozen backbone is gone or has
/// changed
LoadedModel load_model(const std::filesystem::path& folder,
                       CheckpointAdapter adapter = CheckpointAdapter::kLoad);

}  // namespace tessera::model
