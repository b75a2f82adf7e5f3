#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tessera::eval {

/// Which images a batch shows.
struct BatchImages {
  std::vector<std::int64_t> row;    ///< B, the row of each sample's image in the set
  std::vector<std::int64_t> first;  ///< the samples that show an image for the first time; their rows go on
                                    ///< from where those of the batches before ended
};

/// Numbers the images of a set in the order in which they come. Samples that share an image id are one image:
/// a set may hold a sample a caption.
class DistinctImages {
 public:
  /// @param image_ids [B] int64 on the CPU, of the next batch
  BatchImages place(const at::Tensor& image_ids);

 private:
  std::unordered_map<std::int64_t, std::int64_t> rows_;
};

}  // namespace tessera::eval
