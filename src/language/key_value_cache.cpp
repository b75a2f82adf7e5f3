#include "language/key_value_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace tessera::language {
namespace {

constexpr std::int64_t kSmallestCapacity = 16;

/// Storage of `capacity` tokens that begins with what `held` holds (undefined: nothing).
at::Tensor grown(const at::Tensor& held, const at::Tensor& like, std::int64_t capacity) {
  std::vector<std::int64_t> shape = like.sizes().vec();
  shape[1] = capacity;
  at::Tensor storage = at::empty(shape, like.options());
  if (held.defined()) storage.narrow(1, 0, held.size(1)).copy_(held);
  return storage;
}

}  // namespace

void KeyValueCache::append(const at::Tensor& new_key, const at::Tensor& new_value) {
  TORCH_CHECK(!new_key.requires_grad() && !new_value.requires_grad(),
              "a key/value cache is for decoding without gradients; set at::NoGradGuard");
  TORCH_CHECK(new_key.dim() == 4 && new_key.sizes() == new_value.sizes(),
              "keys and values are [B, t, heads, D] each, got ", new_key.sizes(), " and ", new_value.sizes());
  TORCH_CHECK(!key.defined() || key.size(0) == new_key.size(0), "the cache holds ",
              key.defined() ? key.size(0) : 0, " rows, got ", new_key.size(0));
  const std::int64_t before = length();
  const std::int64_t after = before + new_key.size(1);
  if (!key_storage_.defined() || key_storage_.size(1) < after) {
    const std::int64_t capacity = std::max({2 * before, after, kSmallestCapacity});
    key_storage_ = grown(key, new_key, capacity);
    value_storage_ = grown(value, new_value, capacity);
  }
  key_storage_.narrow(1, before, new_key.size(1)).copy_(new_key);
  value_storage_.narrow(1, before, new_key.size(1)).copy_(new_value);
  key = key_storage_.narrow(1, 0, after);
  value = value_storage_.narrow(1, 0, after);
}

void KeyValueCache::reorder(const at::Tensor& rows) {
  if (!key.defined()) return;
  const std::int64_t held = length();
  // The unused capacity comes along: it costs at most as much again, and the next append needs none.
  key_storage_ = key_storage_.index_select(0, rows);
  value_storage_ = value_storage_.index_select(0, rows);
  key = key_storage_.narrow(1, 0, held);
  value = value_storage_.narrow(1, 0, held);
}

}  // namespace tessera::language
