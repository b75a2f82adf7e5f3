#pragma once

#include <ATen/Parallel.h>

#include "ops/cpu/attention_kernel.h"
#include "ops/cpu/attention_scores.h"

/// How the attention kernels go through a batch: a head of a batch row at a time, each by one thread. For
/// their .cpp files alone.

namespace tessera::ops::cpu {

/// What a head's passes share.
template <typename Number>
struct HeadPass {
  const AttentionInput<Number>& input;
  AttentionRows<Number> query, key, value;
  ScoreRule rule;

  HeadPass(const AttentionInput<Number>& from, std::int64_t batch, std::int64_t head)
      : input(from),
        query(from.query.rows(batch, head)),
        key(from.key.rows(batch, head)),
        value(from.value.rows(batch, head)),
        rule(ScoreRule::of(from, batch)) {}
};

/// The gradient of a head's output, and where those of its operands go.
template <typename Number>
struct HeadGradients {
  AttentionRows<Number> output, query, key, value;
};

/// Calls work(batch row, head, the head's first place in log_sums, scratch) for every head.
/// @tparam Scratch  what a thread works in, made of the input once for all its heads
template <typename Scratch, typename Number, typename Work>
void for_heads(const AttentionInput<Number>& input, const Work& work) {
  at::parallel_for(0, input.batch * input.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch(input);
    for (std::int64_t unit = begin; unit < end; ++unit)
      work(unit / input.heads, unit % input.heads, unit * input.query.tokens, scratch);
  });
}

/// attention_forward by a kernel's head_forward.
template <typename Scratch, typename Number, typename HeadForward>
void forward_heads(const AttentionInput<Number>& input, const AttentionOperand<Number>& output,
                   float* log_sums, const HeadForward& head_forward) {
  for_heads<Scratch>(input,
                     [&](std::int64_t batch, std::int64_t head, std::int64_t first_sum, Scratch& scratch) {
                       head_forward(HeadPass<Number>(input, batch, head), output.rows(batch, head),
                                    log_sums + first_sum, scratch);
                     });
}

/// attention_backward by a kernel's head_backward.
template <typename Scratch, typename Number, typename HeadBackward>
void backward_heads(const AttentionInput<Number>& input, const float* log_sums,
                    const AttentionOperand<Number>& grad_output, const AttentionGradients<Number>& gradients,
                    const HeadBackward& head_backward) {
  for_heads<Scratch>(input, [&](std::int64_t batch, std::int64_t head, std::int64_t first_sum,
                                Scratch& scratch) {
    head_backward(HeadPass<Number>(input, batch, head), log_sums + first_sum,
                  HeadGradients<Number>{grad_output.rows(batch, head), gradients.query.rows(batch, head),
                                        gradients.key.rows(batch, head), gradients.value.rows(batch, head)},
                  scratch);
  });
}

}  // namespace tessera::ops::cpu
