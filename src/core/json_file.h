#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"

namespace tessera {

/// A file's JSON. @tparam Json nlohmann::ordered_json where the order of an object's fields matters
/// @throws Error naming the file that can't be read or isn't valid
template <typename Json = nlohmann::json>
Json read_json_file(const std::filesystem::path& path) {
  try {
    return Json::parse(read_file(path));
  } catch (const typename Json::exception& error) {
    fail("{}: not valid JSON: {}", path.string(), error.what());
  }
}

}  // namespace tessera
