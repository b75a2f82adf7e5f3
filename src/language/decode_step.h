#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::language {

/// What a search asks of a model: the logits of the next token, for a batch of texts that grow together. It
/// remembers what it was given; one object serves one batch, from its prompts to its last token.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;

  /// @param input_ids [N, t] int64 on the CPU: the tokens since the last call, t ≥ 1. The first call's are
  ///                  the prompts, all of one length; later calls have as many rows, or as many as reorder
  ///                  left.
  /// @return [N, V] float32: logits of the token after the last
  virtual at::Tensor next_logits(const at::Tensor& input_ids) = 0;

  /// Row i continues what row rows[i] was. @param rows [N'] int64 on the CPU, with repetitions; N' may differ
  virtual void reorder(const at::Tensor& rows) = 0;

  /// The most tokens a row can be given, prompt included.
  virtual std::int64_t max_length() const = 0;
};

}  // namespace tessera::language
