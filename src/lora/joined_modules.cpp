#include "lora/joined_modules.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <string_view>

#include "core/error.h"
#include "nn/packed_tensors.h"

namespace tessera::lora {

namespace {

const std::string kJoined = "mlp.weights_in.", kGate = "mlp.gate_proj.", kUp = "mlp.up_proj.";

/// `key` with the module `from` in it exchanged for `to`; empty where it isn't in it.
std::string exchanged(const std::string& key, const std::string& from, const std::string& to) {
  const std::size_t at = key.find(from);
  if (at == std::string::npos || (at != 0 && key[at - 1] != '.')) return {};
  return std::string(key).replace(at, from.size(), to);
}

bool is_shared(const std::string& key) { return key.ends_with("lora_A.weight"); }

at::Tensor joined(const at::Tensor& gate, const at::Tensor& up) {
  return gate.sizes() == up.sizes() && nn::lie_together({gate, up}) ? nn::together(gate, 2)
                                                                    : at::cat({gate, up});
}

}  // namespace

void split_gates(TensorMap& tensors) {
  TensorMap split;
  for (auto item = tensors.begin(); item != tensors.end();) {
    const auto& [key, tensor] = *item;
    const std::string gate = exchanged(key, kJoined, kGate);
    const bool splits = !gate.empty() && tensor.dim() > 0 && (is_shared(key) || tensor.size(0) % 2 == 0);
    if (!splits) {
      ++item;
      continue;
    }
    const std::string up = exchanged(key, kJoined, kUp);
    const std::int64_t half = tensor.size(0) / 2;
    split[gate] = is_shared(key) ? tensor : tensor.slice(0, 0, half);
    split[up] = is_shared(key) ? tensor : tensor.slice(0, half);
    item = tensors.erase(item);
  }
  tensors.merge(split);
}

void join_gates(TensorMap& tensors, const std::string& source) {
  const c10::NoGradGuard no_grad;
  TensorMap made;
  for (auto item = tensors.begin(); item != tensors.end();) {
    const auto& [key, tensor] = *item;
    if (!exchanged(key, kUp, kGate).empty() && tensors.count(exchanged(key, kUp, kGate)) == 0 &&
        made.count(exchanged(key, kUp, kJoined)) == 0)
      fail("{}: {} is there without its gate_proj, and the old naming has one matrix for both", source, key);
    const std::string up = exchanged(key, kGate, kUp);
    if (up.empty()) {
      ++item;
      continue;
    }
    const auto found = tensors.find(up);
    if (found == tensors.end())
      fail("{}: {} is there without its up_proj, and the old naming has one matrix for both", source, key);
    if (is_shared(key) && !at::equal(tensor, found->second))
      fail(
          "{}: {} and {} differ: the old naming has one matrix for both (weights_in), whose adapter has one "
          "A; keep the current naming",
          source, key, up);
    if (!is_shared(key) && tensor.sizes().slice(1) != found->second.sizes().slice(1))
      fail("{}: {} and {} have different shapes", source, key, up);
    made[exchanged(key, kGate, kJoined)] = is_shared(key) ? tensor : joined(tensor, found->second);
    tensors.erase(found);
    item = tensors.erase(item);
  }
  tensors.merge(made);
}

}  // namespace tessera::lora
