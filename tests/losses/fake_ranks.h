#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "core/collectives.h"

namespace tessera::losses {

/// Stands for one of several ranks within one process: a gather finds this rank's tensor among tensors that
/// were given for all ranks, and concatenates those of its group with their graphs. Summing the losses of all
/// fake ranks and differentiating the sum is then what gather, reduce-scatter and all-reduce do together.
class FakeRanks final : public Collectives {
 public:
  /// @param groups each the tensors of all ranks that are gathered together
  FakeRanks(std::int64_t rank, std::vector<std::vector<at::Tensor>> groups)
      : rank_(rank), groups_(std::move(groups)) {}

  std::int64_t rank() const override { return rank_; }
  std::int64_t size() const override { return static_cast<std::int64_t>(groups_.front().size()); }

  at::Tensor all_gather(const at::Tensor& tensor) override {
    for (const auto& group : groups_) {
      if (group.at(static_cast<std::size_t>(rank_)).data_ptr() == tensor.data_ptr()) {
        return at::cat(group);
      }
    }
    TORCH_CHECK(false, "gathered a tensor that no group holds");
  }

  at::Tensor all_reduce_sum(const at::Tensor&) override { TORCH_CHECK(false, "nothing to reduce"); }
  void barrier() override {}

 private:
  std::int64_t rank_;
  std::vector<std::vector<at::Tensor>> groups_;
};

}  // namespace tessera::losses
