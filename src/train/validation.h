#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "core/logging.h"

namespace tessera {
struct Compute;
struct Config;
}  // namespace tessera
namespace tessera::data {
class Source;
}
namespace tessera::language {
class Tokenizer;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::train {

/// The retrieval figures of a model on the validation set (eval::to_json). The model is in training mode
/// before and after, whatever happens.
/// @param between  called again and again while it lasts; what it throws ends the validation
/// @throws Error where too much of the set is broken, or a score is not finite
nlohmann::json measure_validation(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                                  const std::shared_ptr<const data::Source>& data, const Config& config,
                                  const Compute& compute, const Logger& logger,
                                  const std::function<void()>& between);

/// A checkpoint's validation.json: its figures and the mark of the pictures (keys_hash) that they were
/// measured on. It comes into the checkpoint after that was published: one that has none was not validated.
void write_validation(const std::filesystem::path& checkpoint, const nlohmann::json& record,
                      const std::string& data);

/// Empty where there is no such file, or none that can be read.
std::optional<nlohmann::json> read_validation(const std::filesystem::path& checkpoint);

/// A figure of a checkpoint's validation on the pictures of this mark; empty where there is none.
std::optional<double> validation_figure(const std::filesystem::path& checkpoint, const std::string& metric,
                                        const std::string& data);

}  // namespace tessera::train
