#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "nn/linear.h"

namespace tessera::fusion {

struct TokenProjectionsOptions {
  std::int64_t image_size = 0;
  std::int64_t text_size = 0;
  std::int64_t token_size = 0;  ///< S, common to both
};

/// Brings patches and text tokens into the space in which MaxSim compares them: one Linear each, then L2 in
/// float32.
class TokenProjectionsImpl : public torch::nn::Module {
 public:
  explicit TokenProjectionsImpl(const TokenProjectionsOptions& options);

  /// @param tokens [B, 1+P, image_size], [CLS] first, which is left out
  /// @return [B, P, S] float32, rows of length 1
  at::Tensor patches(const at::Tensor& tokens);
  /// @param hidden_states [B, T, text_size] after the final norm
  /// @return [B, T, S] float32, rows of length 1
  at::Tensor text_tokens(const at::Tensor& hidden_states);

 private:
  nn::Linear image_projection_{nullptr}, text_projection_{nullptr};
};
TORCH_MODULE(TokenProjections);

}  // namespace tessera::fusion
