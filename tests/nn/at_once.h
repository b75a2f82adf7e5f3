#pragma once

#include <ATen/core/Tensor.h>

#include <latch>
#include <thread>
#include <vector>

#include "core/autocast.h"
#include "core/device.h"

namespace tessera::nn {

inline const Compute kBf16{.device = c10::kCPU, .dtype = c10::kBFloat16};

/// What each of several threads gives that begin at the same time.
template <typename Call>
std::vector<at::Tensor> at_once(int count, const Call& call) {
  std::vector<at::Tensor> results(static_cast<std::size_t>(count));
  std::latch start(count);
  std::vector<std::thread> threads;
  for (at::Tensor& result : results) {
    threads.emplace_back([&] {
      const at::NoGradGuard no_grad;
      const AutocastScope autocast(kBf16);
      start.arrive_and_wait();
      result = call();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace tessera::nn
