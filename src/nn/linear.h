#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <memory>

#include "nn/frozen_cast.h"

namespace tessera::nn {

/// What one low-rank adapter of one Linear is made of.
struct LoraAdapterOptions {
  std::int64_t r = 0;    ///< rank
  double scaling = 1.0;  ///< s
  double dropout = 0.0;  ///< on the adapter's input, in training mode only
  bool dora = false;     ///< a magnitude a row beside the low-rank direction (Liu et al. 2024)
};

/// A module that is one matrix, so that an adapter's parameters are called lora_A.weight and lora_B.weight.
class LoraMatrixImpl : public torch::nn::Module {
 public:
  LoraMatrixImpl(std::int64_t in_features, std::int64_t out_features, const at::TensorOptions& options);

  at::Tensor weight;  ///< [out, in]
};
TORCH_MODULE(LoraMatrix);

/// weight + s·B·A in the weight's type: what an adapter adds, as a matrix.
/// @param weight [out, in]
/// @param a, b   [r, in], [out, r], of any float type
at::Tensor with_update(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scaling);

/// An adapter's part in one Linear. It may exist without being in use: Linears take and leave it by its
/// pointer.
struct LoraAdapter {
  LoraAdapterOptions options;
  LoraMatrix a{nullptr}, b{nullptr};  ///< [r, in], [out, r]
  at::Tensor magnitude;               ///< [out]; undefined without DoRA

  /// weight + s·B·A, as above.
  at::Tensor with_update(const at::Tensor& weight) const;
  /// output + s·B·low_rank: what the adapter adds, to an output.
  /// @param output    [M, out]
  /// @param low_rank  [M, r], A·x of the (dropped) inputs
  /// @param in_place  adds to `output` itself, which may then be no view
  at::Tensor added_to(at::Tensor output, const at::Tensor& low_rank, bool in_place) const;
};

/// y = W x + b, and with an adapter y = W x + b + s·B·A·dropout(x) (Hu et al. 2021, with PEFT's semantics).
/// With DoRA, g = m / ‖W + s·B·A‖ by rows, the norm without gradient: y = W x + b + (g−1)·W x + g·s·B·A·x,
/// and in training W x̃ of the dropped x̃ in the last two terms.
///
/// Parameters: weight [out, in], bias [out] (unless bias is false); with an adapter also
/// lora_A.weight [r, in], lora_B.weight [out, r] and with DoRA lora_magnitude_vector [out]. Weights are zero
/// until a loader or an initialiser fills them.
///
///   Linear query(768, 768);
///   query->add_lora({.r = 16, .scaling = 2.0, .dropout = 0.1});
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t in_features, std::int64_t out_features, bool with_bias = true);

  /// Fills weight and bias as torch::nn::Linear begins, by the same draws from the global generator: uniform
  /// in ±1/√in.
  void draw_parameters();

  /// @param input [..., in]
  /// @return [..., out]
  at::Tensor forward(const at::Tensor& input);

  /// An adapter for this Linear with A = B = 0, float32, on the weight's device; not in use yet. With DoRA
  /// its magnitudes are the norms of the weight's rows.
  /// @throws c10::Error where an option is out of range
  std::shared_ptr<LoraAdapter> make_adapter(const LoraAdapterOptions& options) const;
  /// Uses an adapter in place of the present one; null: none. Nothing is copied.
  /// @throws c10::Error where the present one is merged
  void use_adapter(std::shared_ptr<LoraAdapter> adapter);
  const std::shared_ptr<LoraAdapter>& adapter() const { return adapter_; }

  /// make_adapter and use_adapter. @throws c10::Error where there is one already
  void add_lora(const LoraAdapterOptions& options);
  bool has_lora() const { return adapter_ != nullptr; }
  /// Whether forward adds an adapter's part to the product with `weight`.
  bool has_active_adapter() const { return has_lora() && !is_merged(); }
  /// Whether neither weight nor bias has a gradient.
  bool is_frozen() const;
  const LoraAdapterOptions& lora_options() const;
  at::Tensor& lora_a();  ///< [r, in]
  at::Tensor& lora_b();  ///< [out, r]

  /// W with the adapter in it: W + s·B·A, with DoRA its rows scaled by g. Summed in float64 and rounded once.
  /// @throws c10::Error where there is none
  at::Tensor merged_weight() const;
  /// The weight becomes merged_weight(), and the adapter rests. The old weight is kept, so that unmerge gives
  /// it back bit for bit.
  void merge();
  void unmerge();
  bool is_merged() const { return original_weight_.defined(); }
  /// Merges for good: no adapter is left, and nothing of the old weight.
  void merge_lora();

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
  std::shared_ptr<LoraAdapter> adapter_;
  at::Tensor original_weight_;  ///< while merged
  mutable FrozenCast cast_;     ///< of weight
};
TORCH_MODULE(Linear);

/// A Linear with drawn parameters (LinearImpl::draw_parameters).
Linear drawn_linear(std::int64_t in_features, std::int64_t out_features, bool with_bias = true);

/// ‖W + s·B·A‖ by rows, [out], without gradient: DoRA's norm, and what its magnitudes begin with.
at::Tensor adapted_row_norms(const at::Tensor& weight, const LoraAdapter& adapter);

}  // namespace tessera::nn
