#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>

#include "core/collectives.h"
#include "losses/loss_value.h"
#include "losses/temperature.h"

namespace tessera::losses {

/// The learned scale of the sigmoid loss: logits are inner products / τ + b. Parameters
/// `temperature.log_inverse` (Hugging Face's logit_scale) and `bias` (logit_bias), 0-dim both.
class SigmoidScale : public torch::nn::Module {
 public:
  /// @param temperature, minimum  as of Temperature
  /// @param bias  initial b; as many logits are of no pair as pairs are others', so that it begins far below
  /// 0
  /// @throws Error as Temperature does
  SigmoidScale(double temperature, double minimum, double bias);

  at::Tensor temperature() { return temperature_->value(); }  ///< τ, 0-dim
  const at::Tensor& bias() const { return bias_; }            ///< b, 0-dim

 private:
  std::shared_ptr<Temperature> temperature_;
  at::Tensor bias_;
};

/// Sigmoid loss of image-text pairs (SigLIP, Zhai et al. 2023, eq. 2), each pair a question of its own:
/// row i is −Σ_j log σ(z_ij · (image_i · text_j / τ + b)), z = 1 where text j is of image i's id, else −1;
/// counted are this rank's images. Transformers' SiglipModel computes the same where every id is there once.
/// (With several captions of one image in a batch all of them are its pairs, as in ITC.)
///
/// Computed in float32 also under autocast and from bfloat16, in float64 from float64.
///
/// @param image       [B, D] this rank's, L2-normalised by the caller; B >= 1, the same on every rank
/// @param text        [B, D] row i is a caption of image i
/// @param image_ids   [B] int64
/// @param temperature τ, 0-dim
/// @param bias        b, 0-dim
/// @throws c10::Error where shapes or dtypes disagree
LossValue siglip_loss(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                      const at::Tensor& temperature, const at::Tensor& bias, Collectives& collectives);

}  // namespace tessera::losses
