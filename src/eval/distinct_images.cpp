#include "eval/distinct_images.h"

#include <ATen/ATen.h>

namespace tessera::eval {

BatchImages DistinctImages::place(const at::Tensor& image_ids) {
  TORCH_CHECK(image_ids.dim() == 1 && image_ids.scalar_type() == at::kLong && image_ids.device().is_cpu(),
              "distinct images: image_ids [B] int64 on the CPU expected, got ", image_ids.sizes(), " ",
              image_ids.scalar_type(), " on ", image_ids.device());
  const at::Tensor contiguous = image_ids.contiguous();
  const std::int64_t* ids = contiguous.const_data_ptr<std::int64_t>();
  BatchImages images;
  for (std::int64_t sample = 0; sample < contiguous.size(0); ++sample) {
    const auto [found, is_new] = rows_.try_emplace(ids[sample], static_cast<std::int64_t>(rows_.size()));
    images.row.push_back(found->second);
    if (is_new) images.first.push_back(sample);
  }
  return images;
}

}  // namespace tessera::eval
