#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "ops/cpu/activation_kernel.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/matrix_product.h"
#include "ops/cpu/norm_kernel.h"
#include "ops/cpu/row_blocks.h"
#include "ops/cpu/vectors.h"
#include "ops/feed_forward_kernels.h"

namespace tessera::ops::cpu {
namespace {

/// Every thread gathers gradients of all weights; up to this many numbers a matrix they stay near it.
constexpr std::int64_t kMostWeights = 1 << 18;

bool serves_feed_forward(c10::ScalarType dtype, std::int64_t width, std::int64_t inner) {
  const auto whole = [](std::int64_t size) { return size == whole_vectors<float>(size); };
  return dtype == at::kFloat && width * inner <= kMostWeights && whole(width) && whole(inner);
}

const float* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

Norm norm_of(const FeedForward& p) {
  return {p.norm_weight.size(0), p.norm_weight.const_data_ptr<float>(), data_or_null(p.norm_bias), p.eps,
          p.norm_bias.defined()};
}

/// One thread's memory for a block of rows.
class Block {
 public:
  explicit Block(std::int64_t columns) : memory_(at::empty({kRowBlock * columns}, at::kFloat)) {}
  float* data() { return memory_.mutable_data_ptr<float>(); }

 private:
  at::Tensor memory_;
};

/// Rows of `tensor` [rows, columns]; null where there is none.
float* rows_from(const at::Tensor& tensor, std::int64_t row, std::int64_t columns) {
  return tensor.defined() ? tensor.data_ptr<float>() + row * columns : nullptr;
}

/// What the forward pass leaves for the backward pass. Statistics as pairs of floats.
struct Kept {
  at::Tensor statistics;  ///< [rows, 2]
  at::Tensor gate, up;    ///< [rows, F], before the activation; gate undefined for GELU
};

at::Tensor forward_pass(const at::Tensor& x, const FeedForward& p, Kept& kept) {
  const std::int64_t width = x.size(-1), inner = p.up.size(0), rows = x.numel() / width;
  at::Tensor y = at::empty_like(x);
  kept.statistics = at::empty({rows, 2}, x.options());
  kept.up = at::empty({rows, inner}, x.options());
  if (p.gate.defined()) kept.gate = at::empty({rows, inner}, x.options());
  const PackedMatrix up(MatrixView(p.up).transposed()), down(MatrixView(p.down).transposed());
  const std::optional<PackedMatrix> gate =
      p.gate.defined() ? std::optional<PackedMatrix>(MatrixView(p.gate).transposed()) : std::nullopt;
  const Norm norm = norm_of(p);
  const std::int64_t parts = row_parts(rows, 2 * width * inner);
  struct Work {
    Block normed, active;
  };
  std::vector<Work> works;
  for (std::int64_t part = 0; part < parts; ++part) works.push_back({Block(width), Block(inner)});
  for_row_blocks(rows, parts, [&](std::int64_t part, std::int64_t row, std::int64_t count) {
    float* n = works[static_cast<std::size_t>(part)].normed.data();
    float* a = works[static_cast<std::size_t>(part)].active.data();
    const float* in = rows_from(x, row, width);
    float* out = rows_from(y, row, width);
    float* u = rows_from(kept.up, row, inner);
    norm_rows(norm, count, in, n, reinterpret_cast<NormStatistics*>(rows_from(kept.statistics, row, 2)));
    multiply(count, Left{n, width, 1}, up, width, Result{u, inner}, Addend{data_or_null(p.up_bias), 0});
    if (gate) {
      float* g = rows_from(kept.gate, row, inner);
      multiply(count, Left{n, width, 1}, *gate, width, Result{g, inner});
      swiglu_forward(g, u, a, count * inner);
    } else {
      gelu_forward(u, a, count * inner);
    }
    multiply(count, Left{a, inner, 1}, down, inner, Result{out, width}, Addend{in, width});
    if (p.down_bias.defined()) add_to_rows(count, width, data_or_null(p.down_bias), out);
  });
  return y;
}

/// The gradients of the parameters, one after another in one piece of memory; each part of the rows sums its
/// own.
struct ParameterGradients {
  ParameterGradients(const FeedForward& p, std::int64_t parts) {
    const auto add = [&](const at::Tensor& parameter) {
      offsets.push_back(size);
      if (parameter.defined()) size += whole_vectors<float>(parameter.numel());
    };
    for (const at::Tensor* parameter :
         {&p.norm_weight, &p.norm_bias, &p.gate, &p.up, &p.up_bias, &p.down, &p.down_bias})
      add(*parameter);
    memory = at::zeros({parts, size}, p.up.options().requires_grad(false));
  }

  enum Which : std::size_t { kNormWeight, kNormBias, kGate, kUp, kUpBias, kDown, kDownBias };

  float* of(std::int64_t part, Which which) const {
    return memory.data_ptr<float>() + part * size + offsets[which];
  }

  std::vector<std::int64_t> offsets;
  std::int64_t size = 0;
  at::Tensor memory;  ///< [parts, size]
};

at::Tensor backward_pass(const at::Tensor& grad, const at::Tensor& x, const FeedForward& p, const Kept& kept,
                         const ParameterGradients* to) {
  using Which = ParameterGradients::Which;
  const std::int64_t width = x.size(-1), inner = p.up.size(0), rows = x.numel() / width;
  at::Tensor grad_x = at::empty_like(x);
  const PackedMatrix up{MatrixView(p.up)}, down{MatrixView(p.down)};
  const std::optional<PackedMatrix> gate =
      p.gate.defined() ? std::optional<PackedMatrix>(MatrixView(p.gate)) : std::nullopt;
  const Norm norm = norm_of(p);
  const std::int64_t parts = to != nullptr ? to->memory.size(0) : row_parts(rows, 4 * width * inner);
  struct Work {
    Block normed, grad_normed, active, grad_up, grad_gate;
    PackedMatrix packed_normed, packed_active;
    NormStatistics statistics[kRowBlock];
  };
  std::vector<Work> works;
  works.reserve(static_cast<std::size_t>(parts));
  for (std::int64_t part = 0; part < parts; ++part) {
    works.push_back({Block(width),
                     Block(width),
                     Block(inner),
                     Block(inner),
                     Block(gate ? inner : 0),
                     PackedMatrix(kRowBlock, width),
                     PackedMatrix(kRowBlock, inner),
                     {}});
  }
  for_row_blocks(rows, parts, [&](std::int64_t part, std::int64_t row, std::int64_t count) {
    Work& work = works[static_cast<std::size_t>(part)];
    const float* in = rows_from(x, row, width);
    const float* dy = rows_from(grad, row, width);
    const float* u = rows_from(kept.up, row, inner);
    const float* g = rows_from(kept.gate, row, inner);
    float *du = work.grad_up.data(), *dg = work.grad_gate.data(), *dn = work.grad_normed.data();
    float* a = to != nullptr ? work.active.data() : nullptr;
    // Through the down projection and the activation.
    multiply(count, Left{dy, width, 1}, down, width, Result{du, inner});
    if (gate) {
      swiglu_backward(du, g, u, {dg, du, a}, count * inner);
    } else {
      gelu_backward(du, u, du, a, count * inner);
    }
    // Through the up projection, or both.
    multiply(count, Left{du, inner, 1}, up, inner, Result{dn, width});
    if (gate) multiply(count, Left{dg, inner, 1}, *gate, inner, Result{dn, width}, Addend{dn, width});
    const auto* statistics = reinterpret_cast<const NormStatistics*>(rows_from(kept.statistics, row, 2));
    NormGradients norm_gradients{rows_from(grad_x, row, width), nullptr, nullptr};
    if (to != nullptr) {
      norm_gradients.weight = to->of(part, Which::kNormWeight);
      if (p.norm_bias.defined()) norm_gradients.bias = to->of(part, Which::kNormBias);
      const auto gather = [&](const float* gradients, std::int64_t size, const PackedMatrix& other,
                              Which which) {
        float* sums = to->of(part, which);
        const std::int64_t columns = other.columns();
        multiply(size, Left{gradients, 1, size}, other, count, Result{sums, columns}, Addend{sums, columns});
      };
      work.packed_active.pack(MatrixView(a, count, inner, inner, 1));
      gather(dy, width, work.packed_active, Which::kDown);
      norm_rows(norm, count, in, work.normed.data(), work.statistics);
      work.packed_normed.pack(MatrixView(work.normed.data(), count, width, width, 1));
      gather(du, inner, work.packed_normed, Which::kUp);
      if (gate) gather(dg, inner, work.packed_normed, Which::kGate);
      if (p.up_bias.defined()) add_rows(count, inner, du, inner, to->of(part, Which::kUpBias));
      if (p.down_bias.defined()) add_rows(count, width, dy, width, to->of(part, Which::kDownBias));
    }
    norm_backward_rows(norm, count, dn, in, statistics, /*beside=*/dy, norm_gradients);
  });
  return grad_x;
}

FeedForwardForward feed_forward_pass(const at::Tensor& x, const FeedForward& p) {
  Kept kept;
  const at::Tensor y = forward_pass(x, p, kept);
  return {y, {kept.statistics, kept.gate, kept.up}};
}

FeedForwardGradients feed_forward_backward_pass(const at::Tensor& grad, const at::Tensor& x,
                                                const FeedForward& p, const std::vector<at::Tensor>& saved,
                                                bool wants_parameters) {
  const Kept kept{saved[0], saved[1], saved[2]};
  if (!wants_parameters) return {backward_pass(grad, x, p, kept, nullptr), {}};
  const std::int64_t rows = x.numel() / x.size(-1);
  const ParameterGradients sums(p, row_parts(rows, 4 * p.up.numel()));
  const at::Tensor grad_x = backward_pass(grad, x, p, kept, &sums);
  const at::Tensor total = sums.memory.size(0) == 1 ? sums.memory[0] : sums.memory.sum(0);
  const auto part = [&](ParameterGradients::Which which, const at::Tensor& like) {
    if (!like.defined()) return at::Tensor();
    const std::int64_t first = sums.offsets[which];
    return total.slice(0, first, first + like.numel()).view(like.sizes());
  };
  using Which = ParameterGradients::Which;
  return {grad_x,
          {.norm_weight = part(Which::kNormWeight, p.norm_weight),
           .norm_bias = part(Which::kNormBias, p.norm_bias),
           .gate = part(Which::kGate, p.gate),
           .up = part(Which::kUp, p.up),
           .up_bias = part(Which::kUpBias, p.up_bias),
           .down = part(Which::kDown, p.down),
           .down_bias = part(Which::kDownBias, p.down_bias)}};
}

}  // namespace

const FeedForwardKernel kFeedForward{serves_feed_forward, feed_forward_pass, feed_forward_backward_pass};

}  // namespace tessera::ops::cpu
