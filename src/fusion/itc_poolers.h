#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "fusion/pooling.h"
#include "nn/linear.h"

namespace tessera::fusion {

struct ItcPoolersOptions {
  std::int64_t image_size = 0;      ///< width of the compressed image tokens
  std::int64_t text_size = 0;       ///< width of the language model's hidden states
  std::int64_t embedding_size = 0;  ///< width of both embeddings
};

/// Pools image tokens and text states into the embeddings that ITC compares.
///
/// Image: [CLS] ⊕ mean patch → Linear (dino.txt, Jose et al. 2024: patches carry what [CLS] leaves out).
/// Text: mean over the valid tokens → Linear. Both are L2-normalised in float32.
class ItcPoolersImpl : public torch::nn::Module {
 public:
  explicit ItcPoolersImpl(const ItcPoolersOptions& options);

  /// @param tokens [B, 1+P, image_size], [CLS] first
  /// @return [B, embedding_size] float32, rows of length 1
  at::Tensor image(const at::Tensor& tokens);

  /// @param hidden_states  [B, T, text_size], after the final norm
  /// @param attention_mask [B, T] bool, true for real tokens; a row without one gives a finite embedding
  /// @return [B, embedding_size] float32, rows of length 1
  at::Tensor text(const at::Tensor& hidden_states, const at::Tensor& attention_mask);

 private:
  nn::Linear image_projection_{nullptr};
  nn::Linear text_projection_{nullptr};
};
TORCH_MODULE(ItcPoolers);

}  // namespace tessera::fusion
