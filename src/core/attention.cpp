#include "core/attention.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <optional>

namespace tessera {

namespace {

/// Autocast would turn float32 operands back into bfloat16.
class WithoutCpuAutocast {
 public:
  WithoutCpuAutocast() : was_enabled_(at::autocast::is_autocast_enabled(at::kCPU)) {
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
  ~WithoutCpuAutocast() { at::autocast::set_autocast_enabled(at::kCPU, was_enabled_); }
  WithoutCpuAutocast(const WithoutCpuAutocast&) = delete;
  WithoutCpuAutocast& operator=(const WithoutCpuAutocast&) = delete;

 private:
  bool was_enabled_;
};

std::optional<at::Tensor> optional_bias(const at::Tensor& bias, at::ScalarType dtype) {
  if (!bias.defined()) return std::nullopt;
  return bias.to(dtype);
}

}  // namespace

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& bias, bool is_causal) {
  const bool cpu_autocast = query.device().is_cpu() && at::autocast::is_autocast_enabled(at::kCPU);
  if (cpu_autocast) {
    const WithoutCpuAutocast without_autocast;
    return at::scaled_dot_product_attention(query.to(at::kFloat), key.to(at::kFloat), value.to(at::kFloat),
                                            optional_bias(bias, at::kFloat), /*dropout_p=*/0.0, is_causal)
        .to(query.scalar_type());
  }
  return at::scaled_dot_product_attention(query, key, value, optional_bias(bias, query.scalar_type()),
                                          /*dropout_p=*/0.0, is_causal);
}

}  // namespace tessera
