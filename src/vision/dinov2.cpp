#include "vision/dinov2.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/modules/container/modulelist.h>

#include <cmath>
#include <string>

#include "lora/lora.h"
#include "nn/checkpointed.h"
#include "vision/dinov2_names.h"

namespace tessera::vision {

namespace {

PositionInterpolation resolve(PositionInterpolation interpolation, const Dinov2Config& config) {
  if (interpolation != PositionInterpolation::kAuto) {
    return interpolation;
  }
  const bool says_none = config.position_interpolation == PositionInterpolation::kAuto;
  return says_none ? config.hugging_face_interpolation() : config.position_interpolation;
}

bool ends_with(const std::string& name, const char* ending) {
  return std::string_view(name).ends_with(ending);
}

}  // namespace

Dinov2Model::Dinov2Model(const Dinov2Config& config, PositionInterpolation interpolation)
    : config_(config), interpolation_(resolve(interpolation, config)) {
  config.check("DINOv2 configuration");
  config_.position_interpolation = interpolation_;  // so that whoever reads a written model computes the same
  embeddings_ = register_module("embeddings", Dinov2Embeddings(config, interpolation_));
  auto encoder = register_module("encoder", std::make_shared<torch::nn::Module>());
  auto layers = encoder->register_module("layer", torch::nn::ModuleList());
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers_.emplace_back(config);
    layers->push_back(layers_.back());
  }
  layernorm_ = register_module(
      "layernorm",
      torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.hidden_size}).eps(config.layer_norm_eps)));
}

at::Tensor Dinov2Model::forward(const at::Tensor& pixels) {
  at::Tensor hidden_states = embed(pixels);
  for (Dinov2Layer& layer : layers_) {
    hidden_states = gradient_checkpointing_
                        ? nn::checkpointed(hidden_states, *layer,
                                           [layer](const at::Tensor& x) mutable { return layer->forward(x); })
                        : layer->forward(hidden_states);
  }
  return layernorm_->forward(hidden_states);
}

const lora::ModuleNames& Dinov2Model::module_names() const { return dinov2_module_names(); }

void Dinov2Model::set_backbone_trainable(bool trainable) {
  for (auto& item : named_parameters()) {
    if (!lora::is_lora_parameter(item.key())) {
      item.value().set_requires_grad(trainable && item.key() != "embeddings.mask_token");
    }
  }
}

void Dinov2Model::standardise_output(const at::Tensor& mean, const at::Tensor& deviation) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK(mean.sizes() == layernorm_->weight.sizes() && deviation.sizes() == mean.sizes(),
              "standardise_output: mean and deviation [", layernorm_->weight.size(0), "] expected, got ",
              mean.sizes(), " and ", deviation.sizes());
  layernorm_->weight.div_(deviation);
  layernorm_->bias.sub_(mean).div_(deviation);
}

void initialise_random(Dinov2Model& model, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const auto fill_normal = [&](at::Tensor& tensor, double deviation) {
    tensor.copy_(at::empty(tensor.sizes(), at::kFloat).normal_(0.0, deviation, generator));
  };
  for (auto& item : model.named_parameters()) {
    const std::string& name = item.key();
    at::Tensor& tensor = item.value();
    if (lora::is_lora_parameter(name)) {
      continue;
    }
    if (ends_with(name, "lambda1")) {
      tensor.fill_(model.config().layerscale_value);
    } else if (ends_with(name, "position_embeddings") || ends_with(name, "cls_token") ||
               ends_with(name, "register_tokens")) {
      fill_normal(tensor, 0.5);
    } else if (ends_with(name, "bias") || ends_with(name, "mask_token")) {
      tensor.zero_();
    } else if (tensor.dim() == 1) {
      tensor.fill_(1.0);  // a norm's weight
    } else {
      const std::int64_t fan_in = tensor.numel() / tensor.size(0);
      fill_normal(tensor, 1.0 / std::sqrt(static_cast<double>(fan_in)));
    }
  }
}

}  // namespace tessera::vision
