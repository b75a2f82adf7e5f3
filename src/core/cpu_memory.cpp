#include "core/cpu_memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <limits>

#include "core/error.h"

namespace tessera {

namespace {

/// Tensors from malloc, aligned as LibTorch's own; in front of each stands where its piece begins.
class ReusingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    if (size == 0) return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    void* const piece = size > kMostBytes ? nullptr : std::malloc(size + sizeof(void*) + c10::gAlignment);
    if (piece == nullptr) {
      c10::profiledCPUMemoryReporter().OutOfMemory(size);
      throw OutOfMemory(
          fmt::format("out of memory: the system has none for a tensor of {} MiB", (size >> 20) + 1));
    }
    const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(piece) + sizeof(void*);
    void* const data =
        reinterpret_cast<void*>((first + c10::gAlignment - 1) / c10::gAlignment * c10::gAlignment);
    static_cast<void**>(data)[-1] = piece;
    c10::profiledCPUMemoryReporter().New(data, size);
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }

 private:
  static constexpr std::size_t kMostBytes = std::numeric_limits<std::int64_t>::max();

  static void release(void* data) {
    if (data == nullptr) return;
    c10::profiledCPUMemoryReporter().Delete(data);
    std::free(static_cast<void**>(data)[-1]);
  }
};

}  // namespace

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kLargestKept = 32 << 20;  // glibc's own limit
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
  static ReusingAllocator allocator;  // LibTorch keeps the pointer
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

}  // namespace tessera
