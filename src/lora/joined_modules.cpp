#include "lora/joined_modules.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <optional>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "nn/packed_tensors.h"

namespace tessera::lora {

namespace {

bool is_of_module(const std::string& key, std::string_view module) {
  const std::size_t at = find_segments(key, module);
  return at != std::string_view::npos && at + module.size() < key.size();
}

/// The key of a parameter of the module `from`, as one of the module `to`; nothing where it is of no such
/// module.
std::optional<std::string> exchanged(const std::string& key, std::string_view from, std::string_view to) {
  if (!is_of_module(key, from)) return {};
  return std::string(key).replace(find_segments(key, from), from.size(), to);
}

bool is_shared(const std::string& key) { return key.ends_with("lora_A.weight"); }

at::Tensor laid_out(const std::vector<at::Tensor>& parts) {
  bool are_one = nn::lie_together(parts);
  for (const at::Tensor& part : parts) are_one &= part.sizes() == parts.front().sizes();
  return are_one ? nn::together(parts.front(), static_cast<std::int64_t>(parts.size())) : at::cat(parts);
}

void split(const ModuleNames::Joined& joined, TensorMap& tensors) {
  const auto count = static_cast<std::int64_t>(joined.current.size());
  TensorMap made;
  for (auto item = tensors.begin(); item != tensors.end();) {
    const auto& [key, tensor] = *item;
    if (!is_of_module(key, joined.legacy) || tensor.dim() == 0 ||
        (!is_shared(key) && tensor.size(0) % count != 0)) {
      ++item;
      continue;
    }
    const std::int64_t rows = tensor.size(0) / count;
    for (std::int64_t i = 0; i < count; ++i) {
      made[*exchanged(key, joined.legacy, joined.current[static_cast<std::size_t>(i)])] =
          is_shared(key) ? tensor : tensor.slice(0, i * rows, (i + 1) * rows);
    }
    item = tensors.erase(item);
  }
  tensors.merge(made);
}

/// The tensors of the other parts beside that of the first, whose key is given.
std::vector<at::Tensor> parts_beside(const ModuleNames::Joined& joined, const TensorMap& tensors,
                                     const std::string& key, const std::string& source) {
  std::vector<at::Tensor> parts = {tensors.at(key)};
  for (std::size_t i = 1; i < joined.current.size(); ++i) {
    const std::string other = *exchanged(key, joined.current[0], joined.current[i]);
    const auto found = tensors.find(other);
    if (found == tensors.end())
      fail("{}: {} is there without its {}, and the old naming has one matrix for both", source, key,
           last_segment(joined.current[i]));
    if (is_shared(key) && !at::equal(parts[0], found->second))
      fail(
          "{}: {} and {} differ: the old naming has one matrix for both ({}), whose adapter has one A; keep "
          "the current naming",
          source, key, other, last_segment(joined.legacy));
    if (!is_shared(key) && parts[0].sizes().slice(1) != found->second.sizes().slice(1))
      fail("{}: {} and {} have different shapes", source, key, other);
    parts.push_back(found->second);
  }
  return parts;
}

void join(const ModuleNames::Joined& joined, TensorMap& tensors, const std::string& source) {
  TensorMap made;
  std::vector<std::string> taken;
  for (const auto& [key, tensor] : tensors) {
    for (std::size_t i = 1; i < joined.current.size(); ++i) {
      const auto first = exchanged(key, joined.current[i], joined.current[0]);
      if (!first) continue;
      if (tensors.count(*first) == 0)
        fail("{}: {} is there without its {}, and the old naming has one matrix for both", source, key,
             last_segment(joined.current[0]));
      taken.push_back(key);
    }
    const auto whole = exchanged(key, joined.current[0], joined.legacy);
    if (!whole) continue;
    const std::vector<at::Tensor> parts = parts_beside(joined, tensors, key, source);
    made[*whole] = is_shared(key) ? tensor : laid_out(parts);
    taken.push_back(key);
  }
  for (const std::string& key : taken) tensors.erase(key);
  tensors.merge(made);
}

}  // namespace

void split_joined(const ModuleNames& names, TensorMap& tensors) {
  for (const ModuleNames::Joined& joined : names.joined) split(joined, tensors);
}

void join_parts(const ModuleNames& names, TensorMap& tensors, const std::string& source) {
  const c10::NoGradGuard no_grad;
  for (const ModuleNames::Joined& joined : names.joined) join(joined, tensors, source);
}

}  // namespace tessera::lora
