#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/safetensors.h"

namespace tessera {

/// State that only Tessera reads back (optimizer moments, queue, sampler position): named tensors of any
/// dtype and a JSON value, in one safetensors file with the JSON under the metadata key "state". Bit-exact
/// both ways.
class Archive {
 public:
  Archive() = default;

  /// Throws Error where the file is no archive or its kind is not the one expected.
  static Archive read(const std::filesystem::path& path, const std::string& kind);
  void write(const std::filesystem::path& path, const std::string& kind) const;

  /// The file it was read from, to be named in messages; "archive" for one made in memory.
  const std::string& source() const { return source_; }

  nlohmann::json& json() { return json_; }
  const nlohmann::json& json() const { return json_; }

  void put(const std::string& name, const at::Tensor& tensor) { tensors_[name] = tensor; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  /// A copy that may be written to. Throws Error naming file and tensor where it is absent.
  at::Tensor get(const std::string& name) const;
  const TensorMap& tensors() const { return tensors_; }

 private:
  std::string source_ = "archive";
  nlohmann::json json_ = nlohmann::json::object();
  TensorMap tensors_;
};

}  // namespace tessera
