#include "memory/memory_losses.h"

#include <ATen/ATen.h>

namespace tessera::memory {

MemoryLosses memory_losses(const EpisodeReading& reading, const at::Tensor& codes) {
  TORCH_CHECK(reading.codes.sizes() == codes.sizes() && codes.dim() == 3,
              "memory_losses: codes like the read-outs ", reading.codes.sizes(), " expected, got ",
              codes.sizes());
  const at::Tensor difference =
      reading.codes.to(reading.kl.scalar_type()) - codes.detach().to(reading.kl.scalar_type());
  return {.alignment_sum = difference.square().mean(-1).sum(),
          .kl_sum = reading.kl.sum(),
          .count = at::full({}, static_cast<double>(codes.size(0) * codes.size(1)),
                            difference.options().requires_grad(false))};
}

}  // namespace tessera::memory
