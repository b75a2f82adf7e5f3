#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/logging.h"
#include "data/data_config.h"
#include "data/source.h"

namespace tessera::data {

/// Opens whatever the patterns name, in their order. The log says which form of source that is, and by what
/// it was recognised.
/// @param patterns  names of files, with braces (file_pattern.h)
/// @param options   what is known beforehand about data of a form
/// @throws Error naming the pattern or file: absent, of no known form, of another form than the first one, or
///         unusable
std::shared_ptr<const Source> open_source(const std::vector<std::string>& patterns, const DataConfig& options,
                                          const Logger& logger);

}  // namespace tessera::data
