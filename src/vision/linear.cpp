#include "vision/linear.h"

#include <ATen/ATen.h>

#include <ostream>

#include "ops/activations.h"
#include "ops/linear.h"

namespace tessera::vision {

LoraMatrixImpl::LoraMatrixImpl(std::int64_t in_features, std::int64_t out_features,
                               const at::TensorOptions& options) {
  weight = register_parameter("weight", at::zeros({out_features, in_features}, options));
}

LinearImpl::LinearImpl(std::int64_t in_features, std::int64_t out_features, bool with_bias)
    : in_features_(in_features), out_features_(out_features) {
  weight = register_parameter("weight", at::zeros({out_features, in_features}));
  if (with_bias) {
    bias = register_parameter("bias", at::zeros({out_features}));
  }
}

at::Tensor LinearImpl::base_product(const at::Tensor& input) const {
  return ops::linear(input, weight, bias);
}

at::Tensor LinearImpl::forward(const at::Tensor& input) {
  TORCH_CHECK(input.dim() >= 1 && input.size(-1) == in_features_, "Linear: input [..., ", in_features_,
              "] expected, got ", input.sizes());
  if (!has_lora()) {
    return base_product(input);
  }
  // Two dimensions throughout: the product is then no view of anything, and the adapter's part can be added
  // to it in place, inside the second product, without a further pass over the output.
  const at::Tensor rows = input.reshape({-1, in_features_});
  at::Tensor output = base_product(rows);
  const bool drops = is_training() && lora_options_.dropout > 0;
  const at::Tensor low_rank =
      ops::linear(drops ? ops::dropout(rows, lora_options_.dropout) : rows, lora_a_->weight);
  // Under autocast the products above come out in its dtype; an in-place product is not cast for us.
  output.addmm_(low_rank.to(output.scalar_type()), lora_b_->weight.to(output.scalar_type()).t(), /*beta=*/1,
                /*alpha=*/lora_options_.scaling);
  std::vector<std::int64_t> shape = input.sizes().vec();
  shape.back() = out_features_;
  return output.view(shape);
}

void LinearImpl::add_lora(const LoraAdapterOptions& options) {
  TORCH_CHECK(!has_lora(), "Linear: there is an adapter already");
  TORCH_CHECK(options.r >= 1, "Linear: an adapter's r must be at least 1, got ", options.r);
  TORCH_CHECK(options.dropout >= 0 && options.dropout < 1,
              "Linear: an adapter's dropout must be in [0, 1), got ", options.dropout);
  lora_options_ = options;
  const at::TensorOptions float_here = at::TensorOptions().dtype(at::kFloat).device(weight.device());
  lora_a_ = register_module("lora_A", LoraMatrix(in_features_, options.r, float_here));
  lora_b_ = register_module("lora_B", LoraMatrix(options.r, out_features_, float_here));
  lora_a_->train(is_training());
  lora_b_->train(is_training());
}

void LinearImpl::merge_lora() {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter to merge");
  const at::NoGradGuard no_grad;
  const at::Tensor product = at::mm(lora_b_->weight.to(at::kDouble), lora_a_->weight.to(at::kDouble));
  weight.copy_(weight.to(at::kDouble).add_(product, lora_options_.scaling));
  unregister_module("lora_A");
  unregister_module("lora_B");
  lora_a_ = nullptr;
  lora_b_ = nullptr;
}

at::Tensor& LinearImpl::lora_a() {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter");
  return lora_a_->weight;
}

at::Tensor& LinearImpl::lora_b() {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter");
  return lora_b_->weight;
}

void LinearImpl::pretty_print(std::ostream& stream) const {
  stream << "tessera::vision::Linear(" << in_features_ << " -> " << out_features_;
  if (has_lora()) {
    stream << ", LoRA r " << lora_options_.r;
  }
  stream << ")";
}

}  // namespace tessera::vision
