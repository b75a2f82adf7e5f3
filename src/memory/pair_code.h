#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "memory/running_moments.h"

namespace tessera::memory {

struct PairCodeOptions {
  std::int64_t image_size = 0;    ///< width of the pooled image vector
  std::int64_t text_size = 0;     ///< width of the pooled text vector
  std::int64_t code_size = 0;     ///< C
  std::int64_t hidden_size = 64;  ///< width d of the embedding whose neighbourhoods the code separates
  double frequency = 2.0;  ///< standard deviation of ⟨ω, u⟩: larger separates more, and generalises less
};

/// The code of an image-caption pair, either side of which may be absent:
///
///   standardise(image) ⊕ standardise(text) → Linear → LayerNorm (without parameters): u [d]
///   → cos(Ωu + φ) [C] → LayerNorm (without parameters)
///
/// Vectors are standardised by channel with the moments of the pairs met in training: what all pairs have in
/// common is most of a pooled vector, and would make all codes alike. An absent side is a learned vector,
/// at first the average. No gradient reaches the vectors: the memory keeps what other losses make of images
/// and texts, and does not shape it (both measured: docs/memory.md).
///
/// with Ω and φ random and fixed (random Fourier features, Rahimi & Recht 2007). A memory of projections
/// recalls what lies in the span of what was written, so it can neither miss nor forget a code of a
/// low-dimensional family: some of its members span all of it. A learned Linear at the end makes just such
/// codes, whatever nonlinearity precedes it, because the alignment loss and the decoder both prefer the few
/// directions that the captions vary in (measured: docs/memory.md). Here the inner product of two codes is a
/// Gaussian kernel of the distance of their embeddings, whose width is fixed and whose scale is normalised,
/// so that training places pairs in a small space, and pairs that differ get codes that are nearly
/// independent. The mean square of a code is 1.
///
/// Ω and φ are buffers, the same in every model of the same sizes, and need not be saved.
class PairCodeImpl : public torch::nn::Module {
 public:
  explicit PairCodeImpl(const PairCodeOptions& options);

  /// @param image     [B, image_size], or undefined where no row has one
  /// @param text      [B, text_size], or undefined where no row has one; one of the two is given
  /// @param has_image [B] bool; undefined: every row, where `image` is given. A row without takes a learned
  ///                  embedding, whatever `image` holds there
  /// @param has_text  likewise
  /// @return [B, C], the dtype of the parameters; autocast is without effect here
  at::Tensor forward(const at::Tensor& image, const at::Tensor& text, const at::Tensor& has_image = {},
                     const at::Tensor& has_text = {});

  /// Takes whole pairs into the moments. @param image [B, image_size] @param text [B, text_size]
  void observe(const at::Tensor& image, const at::Tensor& text);

  const PairCodeOptions& options() const { return options_; }

 private:
  PairCodeOptions options_;
  RunningMoments image_moments_{nullptr}, text_moments_{nullptr};
  torch::nn::Linear embedding_{nullptr};
  at::Tensor null_image_, null_text_;  ///< in place of a standardised vector
  at::Tensor frequencies_;             ///< Ωᵀ [d, C]
  at::Tensor phases_;                  ///< [C]
};
TORCH_MODULE(PairCode);

}  // namespace tessera::memory
