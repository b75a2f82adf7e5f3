#include "nn/packed_tensors.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace tessera::nn {

void lay_together(const std::vector<at::Tensor*>& parameters) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> tensors;
  for (const at::Tensor* parameter : parameters) tensors.push_back(*parameter);
  if (lie_together(tensors)) return;
  const at::Tensor packed = at::cat(tensors);
  const std::int64_t size = tensors.front().size(0);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto first = static_cast<std::int64_t>(i) * size;
    parameters[i]->set_data(packed.slice(0, first, first + size));
  }
}

bool lie_together(const std::vector<at::Tensor>& tensors) {
  const auto follows = [](const at::Tensor& one, const at::Tensor& next) {
    return one.is_contiguous() && next.is_contiguous() && one.storage().is_alias_of(next.storage()) &&
           next.storage_offset() == one.storage_offset() + one.numel();
  };
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    if (!follows(tensors[i - 1], tensors[i])) return false;
  }
  return true;
}

at::Tensor together(const at::Tensor& first, std::int64_t count) {
  std::vector<std::int64_t> sizes = first.sizes().vec();
  sizes[0] *= count;
  const at::Tensor plain = first.detach();
  return plain.as_strided(sizes, plain.strides());
}

void PackedModule::to(torch::Device device, torch::Dtype dtype, bool non_blocking) {
  Module::to(device, dtype, non_blocking);
  pack();
}

void PackedModule::to(torch::Dtype dtype, bool non_blocking) {
  Module::to(dtype, non_blocking);
  pack();
}

void PackedModule::to(torch::Device device, bool non_blocking) {
  Module::to(device, non_blocking);
  pack();
}

}  // namespace tessera::nn
