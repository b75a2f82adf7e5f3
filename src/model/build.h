#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lora/lora_options.h"

namespace tessera {
struct Config;
}
namespace tessera::language {
class LanguageModel;
}
namespace tessera::model {
class Stage1Model;
}
namespace tessera::vision {
class VisionEncoder;
}

namespace tessera::model {

/// Where a model's frozen backbone comes from, so that a checkpoint can name it instead of copying it.
struct BackboneSource {
  std::filesystem::path
      path;          ///< folder or file, as load_encoder takes it; empty: random, not written anywhere yet
  std::string hash;  ///< of the weights file
  bool has_merged_adapter = false;  ///< an adapter was added to its weights for good (write_bundle)
};

struct BuiltModel {
  std::shared_ptr<Stage1Model> model;
  BackboneSource backbone;
};

/// A new model as the configuration asks: weights read from the files that it names, everything else
/// initialised from run.seed. Where the configuration has LoRA it is injected, that of the encoder frozen.
/// @param vocabulary the tokenizer's size, checked against the language model's; empty: not checked
/// (--dry-run)
/// @throws Error / ConfigError naming key, file or tensor
BuiltModel build_model(const Config& config, std::optional<std::int64_t> vocabulary);

/// Puts the parts of a model together: `backbone` (with adapters where `lora` is set) and `language` as they
/// are, everything else (compressor, fusion, heads, memory, temperatures) fresh, initialised from run.seed.
/// Language model and fusion are frozen and get adapters as the configuration says.
/// @param checkpoint  folder that says what these adapters are; empty: the configuration
std::shared_ptr<Stage1Model> assemble_model(const Config& config,
                                            std::shared_ptr<vision::VisionEncoder> backbone,
                                            std::optional<lora::LoraOptions> lora,
                                            language::LanguageModel language,
                                            const std::filesystem::path& checkpoint = {});

/// SHA-1 of the weights behind a backbone path: of the file, of a folder's one file of weights, or of its
/// index.
std::string backbone_hash(const std::filesystem::path& path);

}  // namespace tessera::model
