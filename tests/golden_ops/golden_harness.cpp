#include "golden_harness.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <exception>
#include <limits>

#include "core/error.h"

namespace tessera::golden {

namespace {

using Complaints = std::vector<std::string>;

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

/// "[1, 0, 7]": the place of a flat index.
std::string place(const at::Tensor& tensor, std::int64_t flat) {
  std::vector<std::int64_t> index(static_cast<std::size_t>(tensor.dim()));
  for (std::int64_t d = tensor.dim() - 1; d >= 0; --d) {
    index[static_cast<std::size_t>(d)] = flat % tensor.size(d);
    flat /= tensor.size(d);
  }
  return fmt::format("[{}]", fmt::join(index, ", "));
}

/// @param scale  what rtol multiplies, broadcastable to `expected`
void compare(const std::string& name, const at::Tensor& actual, const at::Tensor& expected,
             const at::Tensor& scale, const GoldenCase& golden, Complaints& complaints) {
  if (actual.sizes() != expected.sizes()) {
    complaints.push_back(
        fmt::format("{}: has shape {}, expected {}", name, shape_text(actual), shape_text(expected)));
    return;
  }
  if (expected.numel() == 0) {
    return;
  }
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const at::Tensor allowed = (golden.atol + golden.rtol * scale).expand_as(expected);
  const at::Tensor difference = (actual - expected).abs();
  const at::Tensor agrees = (difference <= allowed).logical_or(actual == expected);
  if (agrees.all().item<bool>()) {
    return;
  }
  const at::Tensor excess =
      at::nan_to_num(difference - allowed, kInfinity, kInfinity).masked_fill(agrees, -kInfinity).flatten();
  const auto worst = excess.argmax().item<std::int64_t>();
  const auto at_worst = [worst](const at::Tensor& tensor) { return tensor.flatten()[worst].item<double>(); };
  complaints.push_back(
      fmt::format("{}: {} of {} elements disagree; at {} found {:.9g}, expected {:.9g}, difference {:.3g}, "
                  "allowed {:.3g} (largest difference of the tensor {:.3g})",
                  name, expected.numel() - agrees.sum().item<std::int64_t>(), expected.numel(),
                  place(expected, worst), at_worst(actual), at_worst(expected), at_worst(difference),
                  at_worst(allowed), difference.max().item<double>()));
}

at::Tensor to_double(const at::Tensor& tensor) { return tensor.detach().to(at::kCPU, at::kDouble); }

void compare_outputs(const GoldenCase& golden, const GoldenResult& result, Complaints& complaints) {
  for (const auto& [name, expected] : golden.outputs) {
    const auto found = result.outputs.find(name);
    if (found == result.outputs.end() || !found->second.defined()) {
      complaints.push_back(fmt::format("out.{}: the op has no such output", name));
      continue;
    }
    const at::Tensor reference = to_double(expected);
    compare("out." + name, to_double(found->second), reference, reference.abs(), golden, complaints);
  }
}

/// What the gradients are of. Undefined, with complaints, where it can't be formed.
at::Tensor scalar_to_differentiate(const GoldenCase& golden, const GoldenResult& result,
                                   Complaints& complaints) {
  if (golden.outputs.count("loss") != 0) {
    const auto found = result.outputs.find("loss");  // its absence is reported with the outputs
    return found == result.outputs.end() ? at::Tensor() : found->second.sum();
  }
  at::Tensor total;
  for (const auto& [name, cotangent] : golden.cotangents) {
    const auto found = result.outputs.find(name);
    if (found == result.outputs.end()) {
      complaints.push_back(fmt::format("cotangent.{}: the op has no such output", name));
      return {};
    }
    if (found->second.sizes() != cotangent.sizes()) {
      complaints.push_back(fmt::format("cotangent.{}: has shape {}, the output {}", name,
                                       shape_text(cotangent), shape_text(found->second)));
      return {};
    }
    const at::Tensor term = (found->second * cotangent.to(found->second.options())).sum();
    total = total.defined() ? total + term : term;
  }
  return total;
}

void compare_gradients(const GoldenCase& golden, const GoldenResult& result, Complaints& complaints) {
  std::vector<std::string> names;
  std::vector<at::Tensor> leaves;
  for (const auto& [name, expected] : golden.gradients) {
    const auto leaf = result.leaves.find(name);
    if (leaf == result.leaves.end() || !leaf->second.requires_grad()) {
      complaints.push_back(fmt::format("grad.{}: the op offers no gradient of it", name));
      continue;
    }
    names.push_back(name);
    leaves.push_back(leaf->second);
  }
  const at::Tensor total = scalar_to_differentiate(golden, result, complaints);
  if (leaves.empty() || !total.defined()) {
    return;
  }
  if (!total.requires_grad()) {
    complaints.push_back("grad: the outputs depend on none of the tensors whose gradient is expected");
    return;
  }
  const auto gradients = torch::autograd::grad({total}, leaves, /*grad_outputs=*/{},
                                               /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                                               /*allow_unused=*/true);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const at::Tensor expected = to_double(golden.gradients.at(names[i]));
    if (gradients[i].defined()) {
      const at::Tensor scale = expected.numel() == 0 ? expected : expected.abs().max();
      compare("grad." + names[i], to_double(gradients[i]), expected, scale, golden, complaints);
    } else if (expected.count_nonzero().item<std::int64_t>() != 0) {
      complaints.push_back(fmt::format("grad.{}: the outputs don't depend on it at all", names[i]));
    }
  }
}

}  // namespace

std::vector<std::filesystem::path> find_cases(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> cases;
  if (!std::filesystem::is_directory(folder)) {
    return cases;
  }
  for (const auto& item : std::filesystem::directory_iterator(folder)) {
    if (item.is_regular_file() && item.path().extension() == ".safetensors") {
      cases.push_back(item.path());
    }
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

std::vector<std::string> check_case(const GoldenCase& golden, const GoldenOps& ops) {
  const auto op = ops.find(golden.op);
  if (op == ops.end()) {
    std::vector<std::string> known;
    for (const auto& [name, unused] : ops) {
      known.push_back(name);
    }
    return {fmt::format("op '{}' is not known; known: {}", golden.op, fmt::join(known, ", "))};
  }
  Complaints complaints;
  try {
    const at::AutoGradMode with_gradients(true);
    const GoldenResult result = op->second(golden);
    compare_outputs(golden, result, complaints);
    if (!golden.gradients.empty()) {
      compare_gradients(golden, result, complaints);
    }
  } catch (const std::exception& error) {
    complaints.push_back(fmt::format("op '{}' threw: {}", golden.op, error.what()));
  }
  return complaints;
}

}  // namespace tessera::golden
