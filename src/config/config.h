#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "config/training_config.h"
#include "data/data_config.h"
#include "fusion/fusion_config.h"
#include "language/language_config.h"
#include "lora/lora_config.h"
#include "losses/losses_config.h"
#include "memory/memory_config.h"
#include "vision/vision_config.h"

namespace tessera {

/// The typed form of a configuration file, composed of its sections. Each stands with the folder whose
/// options it holds: type and default of a key in NAME_config.h, range and meaning in NAME_config_rows.cpp
/// beside it.
struct Config {
  RunConfig run;
  data::DataConfig data;
  vision::VisionConfig vision;
  lora::LoraConfig lora;
  vision::CompressorConfig compressor;
  language::LanguageConfig language;
  fusion::FusionConfig fusion;
  memory::MemoryConfig memory;
  losses::LossesConfig losses;
  ScheduleConfig schedule;
  OptimizerConfig optimizer;
  CheckpointConfig checkpoint;
  EvalConfig eval;
  std::string init_from;  ///< checkpoint folder whose weights a new run starts from

  bool operator==(const Config&) const = default;
};

/// Reads a configuration file and applies `KEY.PATH=VALUE` overrides. Relative input paths (data, weights,
/// tokenizer, adapter, init_from) resolve against the file's folder, those given in overrides against the
/// working folder; both become absolute. An empty path stays empty, `~` is not expanded.
/// @throws ConfigError "FILE:LINE:COLUMN: what is wrong, what is accepted" for an unknown key, a wrong type
///         or a value out of range; overrides are named "--set KEY"
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

/// The same from text, with `name` standing for the file in messages and `folder` for its folder.
Config parse_config(const std::string& yaml, const std::string& name, const std::filesystem::path& folder,
                    const std::vector<std::string>& overrides = {});

/// The resolved configuration as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);

/// A default file with every key commented by meaning, range and default (--help-config).
std::string commented_default_config();

/// docs/configuration.md.
std::string configuration_markdown();

}  // namespace tessera
