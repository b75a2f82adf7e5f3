#include "nn/linear.h"

#include <ATen/ATen.h>
#include <torch/nn/init.h>

#include <cmath>
#include <ostream>
#include <utility>

#include "ops/activations.h"
#include "ops/linear.h"

namespace tessera::nn {

namespace {

constexpr const char* kMagnitude = "lora_magnitude_vector";

}  // namespace

at::Tensor with_update(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scaling) {
  const at::ScalarType type = weight.scalar_type();
  return at::addmm(weight, b.to(type), a.to(type), /*beta=*/1, /*alpha=*/scaling);
}

at::Tensor LoraAdapter::with_update(const at::Tensor& weight) const {
  return nn::with_update(weight, a->weight, b->weight, options.scaling);
}

at::Tensor LoraAdapter::added_to(at::Tensor output, const at::Tensor& low_rank, bool in_place) const {
  // Under autocast the products before come out in its dtype; an in-place product is not cast for us.
  const at::ScalarType type = output.scalar_type();
  const at::Tensor left = low_rank.to(type), right = b->weight.to(type).t();
  if (in_place) return output.addmm_(left, right, /*beta=*/1, /*alpha=*/options.scaling);
  return at::addmm(output, left, right, /*beta=*/1, /*alpha=*/options.scaling);
}

at::Tensor adapted_row_norms(const at::Tensor& weight, const LoraAdapter& adapter) {
  const at::NoGradGuard no_grad;
  return adapter.with_update(weight).norm(2, {1});
}

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

void LinearImpl::draw_parameters() {
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  const double bound = in_features_ > 0 ? 1 / std::sqrt(static_cast<double>(in_features_)) : 0;
  if (bias.defined()) torch::nn::init::uniform_(bias, -bound, bound);
}

Linear drawn_linear(std::int64_t in_features, std::int64_t out_features, bool with_bias) {
  Linear linear(in_features, out_features, with_bias);
  linear->draw_parameters();
  return linear;
}

bool LinearImpl::is_frozen() const {
  return !weight.requires_grad() && !(bias.defined() && bias.requires_grad());
}

at::Tensor LinearImpl::base_product(const at::Tensor& input) const {
  return ops::linear(input, cast_.of(weight), bias);
}

at::Tensor LinearImpl::forward(const at::Tensor& input) {
  TORCH_CHECK(input.dim() >= 1 && input.size(-1) == in_features_, "Linear: input [..., ", in_features_,
              "] expected, got ", input.sizes());
  if (!has_active_adapter()) return base_product(input);
  const LoraAdapter& adapter = *adapter_;
  // Two dimensions throughout: the product is then no view of anything, and the adapter's part can be added
  // to it in place, inside the second product, without a further pass over the output.
  const at::Tensor rows = input.reshape({-1, in_features_});
  at::Tensor output = base_product(rows);
  const bool drops = is_training() && adapter.options.dropout > 0;
  const at::Tensor dropped = drops ? ops::dropout(rows, adapter.options.dropout) : rows;
  const at::Tensor low_rank = ops::linear(dropped, adapter.a->weight);
  if (adapter.options.dora) {
    const at::Tensor scale = adapter.magnitude / adapted_row_norms(weight, adapter);
    at::Tensor direction = drops            ? ops::linear(dropped, cast_.of(weight))
                           : bias.defined() ? output - bias.to(output.scalar_type())
                                            : output.clone();
    const at::Tensor low_rank_product =
        adapter.added_to(at::zeros_like(direction), low_rank, /*in_place=*/true);
    output = (output + (scale - 1) * direction + scale * low_rank_product).to(output.scalar_type());
  } else {
    output = adapter.added_to(std::move(output), low_rank, /*in_place=*/true);
  }
  std::vector<std::int64_t> shape = input.sizes().vec();
  shape.back() = out_features_;
  return output.view(shape);
}

std::shared_ptr<LoraAdapter> LinearImpl::make_adapter(const LoraAdapterOptions& options) const {
  TORCH_CHECK(options.r >= 1, "Linear: an adapter's r must be at least 1, got ", options.r);
  TORCH_CHECK(options.dropout >= 0 && options.dropout < 1,
              "Linear: an adapter's dropout must be in [0, 1), got ", options.dropout);
  const at::TensorOptions float_here = at::TensorOptions().dtype(at::kFloat).device(weight.device());
  auto adapter = std::make_shared<LoraAdapter>();
  adapter->options = options;
  adapter->a = LoraMatrix(in_features_, options.r, float_here);
  adapter->b = LoraMatrix(options.r, out_features_, float_here);
  if (options.dora) adapter->magnitude = adapted_row_norms(weight, *adapter).set_requires_grad(true);
  return adapter;
}

void LinearImpl::use_adapter(std::shared_ptr<LoraAdapter> adapter) {
  TORCH_CHECK(!is_merged(), "Linear: the adapter is merged; unmerge it first");
  if (has_lora()) {
    unregister_module("lora_A");
    unregister_module("lora_B");
    if (adapter_->options.dora) parameters_.erase(kMagnitude);
  }
  adapter_ = std::move(adapter);
  if (!has_lora()) return;
  register_module("lora_A", adapter_->a);
  register_module("lora_B", adapter_->b);
  adapter_->a->train(is_training());
  adapter_->b->train(is_training());
  if (adapter_->options.dora) {
    register_parameter(kMagnitude, adapter_->magnitude, adapter_->magnitude.requires_grad());
  }
}

void LinearImpl::add_lora(const LoraAdapterOptions& options) {
  TORCH_CHECK(!has_lora(), "Linear: there is an adapter already");
  use_adapter(make_adapter(options));
}

at::Tensor LinearImpl::merged_weight() const {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter to merge");
  TORCH_CHECK(!is_merged(), "Linear: the adapter is merged already");
  const at::NoGradGuard no_grad;
  at::Tensor merged = adapter_->with_update(weight.to(at::kDouble));
  if (adapter_->options.dora)
    merged.mul_((adapter_->magnitude.to(at::kDouble) / merged.norm(2, {1})).unsqueeze(1));
  return merged.to(weight.scalar_type());
}

void LinearImpl::merge() {
  const at::NoGradGuard no_grad;
  at::Tensor merged = merged_weight();
  original_weight_ = weight.clone();
  weight.copy_(merged);
}

void LinearImpl::unmerge() {
  TORCH_CHECK(is_merged(), "Linear: no adapter is merged");
  const at::NoGradGuard no_grad;
  weight.copy_(original_weight_);
  original_weight_ = at::Tensor();
}

void LinearImpl::merge_lora() {
  const at::NoGradGuard no_grad;
  if (!is_merged()) weight.copy_(merged_weight());
  original_weight_ = at::Tensor();
  use_adapter(nullptr);
}

const LoraAdapterOptions& LinearImpl::lora_options() const {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter");
  return adapter_->options;
}

at::Tensor& LinearImpl::lora_a() {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter");
  return adapter_->a->weight;
}

at::Tensor& LinearImpl::lora_b() {
  TORCH_CHECK(has_lora(), "Linear: there is no adapter");
  return adapter_->b->weight;
}

void LinearImpl::pretty_print(std::ostream& stream) const {
  stream << "tessera::nn::Linear(" << in_features_ << " -> " << out_features_;
  if (has_lora()) {
    stream << ", " << (adapter_->options.dora ? "DoRA" : "LoRA") << " r " << adapter_->options.r
           << (is_merged() ? ", merged" : "");
  }
  stream << ")";
}

}  // namespace tessera::nn
