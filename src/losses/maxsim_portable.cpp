#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "losses/maxsim_kernels.h"

namespace tessera::losses {

namespace {

/// About the second-level cache of a large GPU.
constexpr std::int64_t kChunkBytes = std::int64_t{32} << 20;

/// Images whose similarities to all tokens fill a chunk.
std::int64_t images_per_chunk(const at::Tensor& patches, const at::Tensor& tokens) {
  const std::int64_t bytes =
      patches.size(1) * tokens.size(0) * tokens.size(1) * static_cast<std::int64_t>(sizeof(float));
  return std::clamp<std::int64_t>(kChunkBytes / bytes, 1, patches.size(0));
}

/// a · b, in float32 also from bfloat16.
at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != at::kBFloat16) return at::mm(a, b);
  return a.is_cuda() ? at::mm(a, b, at::kFloat) : at::mm(a.to(at::kFloat), b.to(at::kFloat));
}

/// [B_t]: the number of real tokens, at least 1.
at::Tensor token_counts(const at::Tensor& mask, at::ScalarType dtype) {
  return mask.sum(1).clamp_min(1).to(dtype);
}

}  // namespace

MaxSimForward maxsim_portable_forward(const at::Tensor& patches, const at::Tensor& given_tokens,
                                      const at::Tensor& mask) {
  const at::Tensor padding = mask.logical_not();
  const at::Tensor tokens = given_tokens.masked_fill(padding.unsqueeze(2), 0);
  const std::int64_t texts = tokens.size(0), length = tokens.size(1), width = tokens.size(2);
  const at::Tensor keys = tokens.view({texts * length, width}).t();
  const at::Tensor has_tokens = mask.any(1);

  std::vector<at::Tensor> image_to_text, text_to_image, best_token, best_patch;
  for (const at::Tensor& chunk : patches.split(images_per_chunk(patches, tokens))) {
    at::Tensor similarity = product(chunk.reshape({-1, width}), keys)
                                .view({chunk.size(0), chunk.size(1), texts, length});  // [c, P, B_t, T]
    const auto [of_token, patch] = similarity.max(1);                                  // [c, B_t, T]
    similarity.masked_fill_(padding, -std::numeric_limits<double>::infinity());
    const auto [of_patch, token] = similarity.max(3);  // [c, P, B_t]
    image_to_text.push_back(of_patch.mean(1).masked_fill(has_tokens.logical_not(), 0));
    text_to_image.push_back(of_token.masked_fill(padding, 0).sum(2) /
                            token_counts(mask, of_token.scalar_type()));
    best_token.push_back(token.to(index_dtype(length)));
    best_patch.push_back(patch.to(index_dtype(chunk.size(1))));
  }
  return {{at::cat(image_to_text), at::cat(text_to_image)},
          {patches, tokens, mask, at::cat(best_token), at::cat(best_patch)}};
}

MaxSimGradients maxsim_portable_backward(const std::vector<at::Tensor>& saved,
                                         const MaxSimBackwardArguments& gradients) {
  const at::Tensor &patches = saved[0], &tokens = saved[1], &mask = saved[2];
  const at::Tensor &best_token = saved[3], &best_patch = saved[4];
  const std::int64_t texts = tokens.size(0), length = tokens.size(1), width = tokens.size(2);
  const std::int64_t patch_count = patches.size(1);
  const at::Tensor keys = tokens.view({texts * length, width});

  // What a best pair's similarity weighs in the sum that is differentiated.
  const at::ScalarType dtype = gradients.image_to_text.scalar_type();
  const at::Tensor of_patch =
      (gradients.image_to_text / patch_count).masked_fill(mask.any(1).logical_not(), 0);
  const at::Tensor of_token = gradients.text_to_image / token_counts(mask, dtype);

  MaxSimGradients result;
  std::vector<at::Tensor> patch_gradients;
  const std::int64_t step = images_per_chunk(patches, tokens);
  for (std::int64_t first = 0; first < patches.size(0); first += step) {
    const std::int64_t count = std::min(step, patches.size(0) - first);
    const auto rows = [&](const at::Tensor& all) { return all.narrow(0, first, count); };
    at::Tensor weights = at::zeros({count, patch_count, texts, length}, of_patch.options());
    weights.scatter_(3, rows(best_token).to(at::kLong).unsqueeze(3),
                     rows(of_patch).view({count, 1, texts, 1}).expand({count, patch_count, texts, 1}));
    weights.scatter_add_(1, rows(best_patch).to(at::kLong).unsqueeze(1),
                         (rows(of_token).unsqueeze(2) * mask).unsqueeze(1));
    const at::Tensor matrix = weights.view({count * patch_count, texts * length}).to(patches.scalar_type());
    if (gradients.wants_patches) patch_gradients.push_back(product(matrix, keys));
    if (gradients.wants_tokens) {
      const at::Tensor part = product(matrix.t(), rows(patches).reshape({-1, width}));
      result.tokens = result.tokens.defined() ? result.tokens.add_(part) : part;
    }
  }
  if (gradients.wants_patches) {
    result.patches = at::cat(patch_gradients).view(patches.sizes()).to(patches.scalar_type());
  }
  if (gradients.wants_tokens) result.tokens = result.tokens.view(tokens.sizes()).to(tokens.scalar_type());
  return result;
}

}  // namespace tessera::losses
