#pragma once

#include <filesystem>

#include "language/language_model.h"
#include "language/tokenizer.h"

namespace tessera::language {

/// Writes a folder that Hugging Face loads as LlamaForCausalLM: config.json, generation_config.json,
/// model.safetensors (float32; without `lm_head.weight` where it is tied), tokenizer.model. The folder is
/// written beside its place, fsynced and swapped in: a reader sees the old folder or the new one.
/// @throws Error where the vocabularies differ, or a file can't be written
void save_hugging_face(const LanguageModel& model, const Tokenizer& tokenizer,
                       const std::filesystem::path& folder);

/// Writes the weights of a model that was read from the folder `source` and has been changed since, rounded
/// to the type that they have there, into a new folder, and with them the other files of `source`
/// (config.json, its tokenizer's) as they are.
/// @throws Error where `folder` is there already or can't be written
void save_changed_weights(const LanguageModel& model, const std::filesystem::path& source,
                          const std::filesystem::path& folder);

/// Reads a LlamaForCausalLM folder (config.json and weights as core/weights_file.h finds them, of any
/// floating dtype) into float32 weights.
/// @throws Error naming file and field or tensors where the model isn't one that LanguageModel computes, or
///         weights are missing, unexpected or mis-shaped
LanguageModel load_hugging_face(const std::filesystem::path& folder);

/// Reads the weights of such a folder into a model of the same shape, which alone says what is computed.
/// @throws Error as load_language_model_weights does; the model is then unchanged
void load_hugging_face_weights(LanguageModel& model, const std::filesystem::path& folder);

}  // namespace tessera::language
