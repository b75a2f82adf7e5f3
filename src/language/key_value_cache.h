#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::language {

/// What one attention layer has read so far, so that a new token attends to it without computing it again.
/// Empty at first. For decoding without gradients.
struct KeyValueCache {
  at::Tensor key;    ///< [B, T, key_value_heads, D], rotated; a view of the storage, undefined while empty
  at::Tensor value;  ///< the same, not rotated

  /// Tokens held, T.
  std::int64_t length() const { return key.defined() ? key.size(1) : 0; }

  /// Appends t tokens: [B, t, key_value_heads, D] each, B as before. The storage doubles when it is full, so
  /// that a token is copied a constant number of times however long the text becomes.
  void append(const at::Tensor& new_key, const at::Tensor& new_value);

  /// Row i becomes what row rows[i] was: [B'] int64, on the cache's device.
  void reorder(const at::Tensor& rows);

 private:
  at::Tensor key_storage_;  ///< [B, capacity, key_value_heads, D]
  at::Tensor value_storage_;
};

}  // namespace tessera::language
