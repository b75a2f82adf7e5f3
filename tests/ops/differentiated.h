#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

namespace tessera::ops {

/// Gradients of Σ f(inputs) · cotangent by every input, then the output.
template <typename Function>
std::vector<at::Tensor> differentiated(const Function& function, std::vector<at::Tensor> inputs,
                                       const at::Tensor& cotangent) {
  for (at::Tensor& input : inputs) input = input.detach().clone().requires_grad_();
  const at::Tensor output = function(inputs);
  auto result = torch::autograd::grad({(output * cotangent).sum()}, inputs);
  result.push_back(output.detach());
  return result;
}

inline at::Tensor random(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randn(shape, at::TensorOptions().dtype(dtype));
}

inline void expect_close(const at::Tensor& found, const at::Tensor& expected, double tolerance) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_LE((found - expected).abs().max().item<double>(), tolerance);
}

/// Ours in float32 against a reference in float64, each tensor within `tolerance` of its own largest value.
template <typename Ours, typename Theirs>
void expect_agreement(const Ours& ours, const Theirs& theirs, const std::vector<at::Tensor>& inputs,
                      const at::Tensor& cotangent, double tolerance = 2e-6) {
  const auto found = differentiated(ours, inputs, cotangent);
  std::vector<at::Tensor> wide;
  for (const at::Tensor& input : inputs) wide.push_back(input.to(at::kDouble));
  const auto expected = differentiated(theirs, wide, cotangent.to(at::kDouble));
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].sizes(), expected[i].sizes());
    EXPECT_EQ(found[i].scalar_type(), at::kFloat);
    const double largest = expected[i].abs().max().item().toDouble();
    EXPECT_LE((found[i] - expected[i]).abs().max().item().toDouble(), tolerance * largest) << "tensor " << i;
  }
}

}  // namespace tessera::ops
