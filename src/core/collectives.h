#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace tessera {

/// What the ranks of a run do together. Losses gather through this interface and know no process group. So
/// far there is the form of one process.
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual std::int64_t rank() const = 0;
  virtual std::int64_t size() const = 0;

  /// Concatenates every rank's tensor along dimension 0, in rank order. Same shape on every rank.
  /// The backward pass sums the gradients of all ranks for this rank's part (reduce-scatter).
  virtual at::Tensor all_gather(const at::Tensor& tensor) = 0;
  /// The sum over ranks, outside autograd.
  virtual at::Tensor all_reduce_sum(const at::Tensor& tensor) = 0;
  /// Returns when every rank has arrived.
  virtual void barrier() = 0;

  bool is_main() const { return rank() == 0; }
};

/// One process: gathering is the identity.
class SingleProcess final : public Collectives {
 public:
  std::int64_t rank() const override { return 0; }
  std::int64_t size() const override { return 1; }
  at::Tensor all_gather(const at::Tensor& tensor) override { return tensor; }
  at::Tensor all_reduce_sum(const at::Tensor& tensor) override { return tensor; }
  void barrier() override {}
};

}  // namespace tessera
