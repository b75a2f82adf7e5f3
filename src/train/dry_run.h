#pragma once

#include <string>

namespace tessera {
struct Config;
}

namespace tessera::train {

/// Builds the model that a configuration asks for and describes the run without data or tokenizer: the
/// parameter table of each phase, both phase lines as the run will log them, and an estimate of memory by
/// kind.
/// @throws Error / ConfigError as building the model does
std::string dry_run_report(const Config& config);

}  // namespace tessera::train
