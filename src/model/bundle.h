#pragma once

#include <filesystem>

#include "core/kept_files.h"

namespace tessera::model {

struct BundleOptions {
  bool merge_lora = false;  ///< the adapter goes into the backbone's weights instead of a folder of its own
};

/// Writes a checkpoint (or another bundle) as one folder that load_model reads without anything beside it:
///   config.yaml        whose paths are relative to the folder, and which names no data
///   model.safetensors, language_model/, tokenizer.model   as in a checkpoint (model/weights.h)
///   backbone/          a Hugging Face folder, also where the backbone was trained
///   adapter/           PEFT's two files, where there is LoRA and it is not merged
/// The folder appears whole or not at all, in the place of an older bundle where there is one. What else lies
/// in that (a README.md, a .git) is kept.
/// @return what was kept
/// @throws Error where `checkpoint` can't be loaded, where there is no adapter to merge, or where `output`
///         exists and is neither empty nor a bundle
KeptFiles write_bundle(const std::filesystem::path& checkpoint, const std::filesystem::path& output,
                       const BundleOptions& options);

}  // namespace tessera::model
