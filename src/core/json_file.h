#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/text_file.h"

namespace tessera {

/// A file's JSON. @tparam Json nlohmann::ordered_json where the order of an object's fields matters
/// @throws Error naming the file that can't be read or isn't valid
template <typename Json = nlohmann::json>
Json read_json_file(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  try {
    return Json::parse(text);
  } catch (const typename Json::exception& error) {
    refuse_other_kind(text, path.string(), "JSON file", {FileKind::kText});
    fail("{}: not valid JSON: {}", path.string(), error.what());
  }
}

}  // namespace tessera
