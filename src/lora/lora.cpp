#include "lora/lora.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <tuple>

#include "core/error.h"
#include "nn/freeze.h"

namespace tessera::lora {

namespace {

void fill_uniform(at::Tensor& matrix, double bound, const at::Generator& generator) {
  matrix.copy_(at::empty(matrix.sizes(), at::kFloat).uniform_(-bound, bound, generator));
}

/// W ≈ s·B·A from its greatest singular values, or from the first columns of W = QR.
void factorise(const at::Tensor& weight, nn::LoraAdapter& adapter, LoraInit init) {
  const std::int64_t r = adapter.options.r;
  TORCH_CHECK(r <= std::min(weight.size(0), weight.size(1)), "r ", r, " is more than the rank of a weight ",
              weight.sizes(), ", which init_lora_weights \"", init_word(init), "\" takes apart");
  const at::Tensor w = weight.to(at::kFloat);
  if (init == LoraInit::kOlora) {
    const auto [q, upper] = at::linalg_qr(w);
    adapter.a->weight.copy_(upper.slice(0, 0, r));
    adapter.b->weight.copy_(q.slice(1, 0, r));
    return;
  }
  const auto [u, s, vh] = at::linalg_svd(w, /*full_matrices=*/false);
  const at::Tensor root = (s.slice(0, 0, r) / adapter.options.scaling).sqrt();
  adapter.a->weight.copy_(root.unsqueeze(1) * vh.slice(0, 0, r));
  adapter.b->weight.copy_(u.slice(1, 0, r) * root);
}

}  // namespace

nn::LoraAdapterOptions adapter_options(const LoraOptions& options, const std::string& module,
                                       const ModuleNames& names) {
  return {.r = options.rank_of(module, names),
          .scaling = options.scaling_of(module, names),
          .dropout = options.lora_dropout,
          .dora = options.use_dora};
}

at::Tensor initialise_adapter(const nn::LinearImpl& linear, nn::LoraAdapter& adapter, LoraInit init,
                              const at::Generator& generator) {
  const at::NoGradGuard no_grad;
  at::Tensor &a = adapter.a->weight, &b = adapter.b->weight;
  at::Tensor rest;
  switch (init) {
    case LoraInit::kUniform:
    case LoraInit::kNone:
      fill_uniform(a, 1.0 / std::sqrt(static_cast<double>(linear.in_features())), generator);
      if (init == LoraInit::kNone)
        fill_uniform(b, 1.0 / std::sqrt(static_cast<double>(adapter.options.r)), generator);
      break;
    case LoraInit::kGaussian:
      a.copy_(at::empty(a.sizes(), at::kFloat)
                  .normal_(0, 1.0 / static_cast<double>(adapter.options.r), generator));
      break;
    case LoraInit::kPissa:
    case LoraInit::kOlora:
      factorise(linear.weight, adapter, init);
      rest = (linear.weight.to(at::kFloat) - adapter.with_update(at::zeros_like(linear.weight, at::kFloat)))
                 .to(linear.weight.scalar_type());
      break;
  }
  if (adapter.options.dora)
    adapter.magnitude.copy_(nn::adapted_row_norms(rest.defined() ? rest : linear.weight, adapter));
  return rest;
}

std::vector<std::string> inject_lora(AdaptableModule& root, const LoraOptions& options, std::uint64_t seed) {
  options.check("LoRA");
  const std::vector<NamedLinear> targets = match_targets(root, options);
  TORCH_CHECK(adapted_linears(root).empty(), "inject_lora: the modules have adapters already");
  parameters_beside_adapters(root, options);  // complains before anything is changed
  nn::freeze(root);
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<std::string> names;
  for (const NamedLinear& target : targets) {
    nn::LinearImpl& linear = *target.linear;
    linear.add_lora(adapter_options(options, target.name, root.module_names()));
    const at::Tensor rest = initialise_adapter(linear, *linear.adapter(), options.init, generator);
    const at::NoGradGuard no_grad;
    if (rest.defined()) linear.weight.copy_(rest);
    names.push_back(target.name);
  }
  set_lora_trainable(root, options, true);
  return names;
}

TensorMap lora_parameters(torch::nn::Module& root) {
  TensorMap parameters;
  for (const NamedLinear& module : adapted_linears(root)) {
    const nn::LoraAdapter& adapter = *module.linear->adapter();
    parameters[module.name + ".lora_A.weight"] = adapter.a->weight;
    parameters[module.name + ".lora_B.weight"] = adapter.b->weight;
    if (adapter.options.dora) parameters[module.name + ".lora_magnitude_vector"] = adapter.magnitude;
  }
  return parameters;
}

TensorMap adapter_parameters(AdaptableModule& root, const LoraOptions& options) {
  TensorMap parameters = lora_parameters(root);
  const auto all = root.named_parameters();
  for (const std::string& name : parameters_beside_adapters(root, options)) parameters[name] = all[name];
  return parameters;
}

bool is_lora_parameter(const std::string& name) {
  return has_last_segments(name, "lora_A.weight") || has_last_segments(name, "lora_B.weight") ||
         has_last_segments(name, "lora_magnitude_vector");
}

void set_lora_trainable(AdaptableModule& root, const LoraOptions& options, bool trainable) {
  for (auto& [name, parameter] : adapter_parameters(root, options)) parameter.set_requires_grad(trainable);
}

void restart_magnitudes(torch::nn::Module& root) {
  const at::NoGradGuard no_grad;
  for (const NamedLinear& item : adapted_linears(root)) {
    nn::LoraAdapter& adapter = *item.linear->adapter();
    if (adapter.options.dora) adapter.magnitude.copy_(nn::adapted_row_norms(item.linear->weight, adapter));
  }
}

void merge_lora(torch::nn::Module& root) {
  for (const NamedLinear& module : adapted_linears(root)) module.linear->merge_lora();
}

}  // namespace tessera::lora
