#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>

namespace tessera::vision {

/// What one low-rank adapter is made of.
struct LoraAdapterOptions {
  std::int64_t r = 8;
  double scaling = 1.0;  ///< s
  double dropout = 0.0;  ///< on the adapter's input, in training mode only
};

/// A module that is one matrix, so that an adapter's parameters are called lora_A.weight and lora_B.weight.
class LoraMatrixImpl : public torch::nn::Module {
 public:
  LoraMatrixImpl(std::int64_t in_features, std::int64_t out_features, const at::TensorOptions& options);

  at::Tensor weight;  ///< [out, in]
};
TORCH_MODULE(LoraMatrix);

/// y = W x + b, and with an adapter y = W x + b + s·B·A·dropout(x) (Hu et al. 2021, with PEFT's semantics).
/// Parameters: weight [out, in], bias [out] (unless bias is false); with an adapter also lora_A.weight [r,
/// in] and lora_B.weight [out, r]. Weights are zero until a loader or an initialiser fills them.
///
///   Linear query(768, 768);
///   query->add_lora({.r = 16, .scaling = 2.0, .dropout = 0.1});
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t in_features, std::int64_t out_features, bool with_bias = true);

  /// @param input [..., in]
  /// @return [..., out]
  at::Tensor forward(const at::Tensor& input);

  /// Adds an adapter with A = B = 0, float32, on the weight's device.
  /// @throws c10::Error where there is one already, or r < 1
  void add_lora(const LoraAdapterOptions& options);
  bool has_lora() const { return !lora_a_.is_empty(); }
  /// W becomes W + s·B·A, summed in float64 and rounded once, and the adapter is gone.
  /// @throws c10::Error where there is none
  void merge_lora();
  const LoraAdapterOptions& lora_options() const { return lora_options_; }
  at::Tensor& lora_a();  ///< [r, in]
  at::Tensor& lora_b();  ///< [out, r]

  std::int64_t in_features() const { return in_features_; }
  std::int64_t out_features() const { return out_features_; }
  void pretty_print(std::ostream& stream) const override;

  at::Tensor weight;
  at::Tensor bias;

 private:
  /// W x + b, without the adapter. Everything that is known of how W is stored is known here only.
  at::Tensor base_product(const at::Tensor& input) const;

  std::int64_t in_features_;
  std::int64_t out_features_;
  LoraAdapterOptions lora_options_;
  LoraMatrix lora_a_{nullptr};
  LoraMatrix lora_b_{nullptr};
};
TORCH_MODULE(Linear);

}  // namespace tessera::vision
