#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "nn/linear.h"

namespace tessera::fusion {

struct MatchHeadOptions {
  std::int64_t image_size = 0;
  std::int64_t text_size = 0;
};

/// Tells from the fused states whether image and text belong together (ITM). Its poolers are its own, apart
/// from ITC's (as in FIBER): Linear and Tanh over [CLS] ⊕ mean patch for the image, over the first token ⊕
/// the mean of all valid tokens for the text, then one Linear over both.
class MatchHeadImpl : public torch::nn::Module {
 public:
  explicit MatchHeadImpl(const MatchHeadOptions& options);

  /// @param image          [B, 1+P, image_size] fused
  /// @param text           [B, T, text_size] fused, after the final norm
  /// @param attention_mask [B, T] bool
  /// @return [B, 2] float32 logits; column 1 is "match"
  at::Tensor forward(const at::Tensor& image, const at::Tensor& text, const at::Tensor& attention_mask);

 private:
  nn::Linear image_pooler_{nullptr}, text_pooler_{nullptr}, classifier_{nullptr};
};
TORCH_MODULE(MatchHead);

}  // namespace tessera::fusion
