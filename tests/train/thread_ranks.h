#pragma once

#include <torch/torch.h>

#include <barrier>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "core/collectives.h"

namespace tessera::train {

/// Several ranks as threads of this process. A gather's backward pass sums the gradients of all ranks for a
/// rank's part, as over c10d: every rank has to run its backward pass.
class ThreadRanks {
 public:
  /// Runs `body` once a rank, each in its own thread; rethrows the first of their exceptions.
  static void run(std::int64_t ranks, const std::function<void(Collectives&)>& body) {
    ThreadRanks shared(ranks);
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
    std::vector<std::thread> threads;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        at::set_num_threads(1);  // per thread
        Rank collectives(shared, rank);
        try {
          body(collectives);
        } catch (...) {
          errors[static_cast<std::size_t>(rank)] = std::current_exception();
          shared.barrier_.arrive_and_drop();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  explicit ThreadRanks(std::int64_t ranks) : barrier_(ranks), slots_(static_cast<std::size_t>(ranks)) {}

  /// Every rank's tensor, in rank order.
  std::vector<at::Tensor> exchange(std::int64_t rank, const at::Tensor& tensor) {
    slots_[static_cast<std::size_t>(rank)] = tensor.detach();
    barrier_.arrive_and_wait();
    std::vector<at::Tensor> all = slots_;
    barrier_.arrive_and_wait();
    for (const at::Tensor& each : all) {
      TORCH_CHECK(each.sizes() == tensor.sizes() && each.scalar_type() == tensor.scalar_type(),
                  "ranks gather ", each.sizes(), " and ", tensor.sizes());
    }
    return all;
  }

  struct Gather : torch::autograd::Function<Gather> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& tensor,
                              ThreadRanks* shared, std::int64_t rank) {
      context->saved_data["rank"] = rank;
      context->saved_data["shared"] = reinterpret_cast<std::int64_t>(shared);
      return at::cat(shared->exchange(rank, tensor));
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   torch::autograd::variable_list gradients) {
      const std::int64_t rank = context->saved_data["rank"].toInt();
      auto* shared = reinterpret_cast<ThreadRanks*>(context->saved_data["shared"].toInt());
      const auto all = shared->exchange(rank, gradients[0].contiguous());
      at::Tensor sum = at::zeros_like(all.front());
      for (const at::Tensor& each : all) sum = sum + each;
      return {sum.chunk(static_cast<std::int64_t>(all.size()))[static_cast<std::size_t>(rank)], {}, {}};
    }
  };

  class Rank final : public Collectives {
   public:
    Rank(ThreadRanks& shared, std::int64_t rank) : shared_(shared), rank_(rank) {}
    std::int64_t rank() const override { return rank_; }
    std::int64_t size() const override { return static_cast<std::int64_t>(shared_.slots_.size()); }
    at::Tensor all_gather(const at::Tensor& tensor) override {
      return Gather::apply(tensor, &shared_, rank_);
    }
    at::Tensor all_reduce_sum(const at::Tensor& tensor) override {
      return at::stack(shared_.exchange(rank_, tensor)).sum(0).to(tensor.scalar_type());
    }
    void barrier() override { shared_.barrier_.arrive_and_wait(); }

   private:
    ThreadRanks& shared_;
    std::int64_t rank_;
  };

  std::barrier<> barrier_;
  std::vector<at::Tensor> slots_;
};

}  // namespace tessera::train
