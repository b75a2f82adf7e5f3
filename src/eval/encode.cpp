#include "eval/encode.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "core/error.h"

namespace tessera::eval {

EncodedSet encode_set(model::Stage1Model& model, const language::Tokenizer& tokenizer,
                      data::EvalLoader& loader, const Compute& compute, std::int64_t max_tokens) {
  TORCH_CHECK(!model.is_training(), "encode_set: the model must be in evaluation mode");
  const torch::NoGradGuard no_grad;
  const AutocastScope autocast(compute);
  std::vector<at::Tensor> images, texts;
  std::vector<std::int64_t> caption_image;
  std::int64_t image_row = 0;
  while (const std::optional<data::EvalBatch> batch = loader.next()) {
    images.push_back(model.encode_image(batch->pixels.to(compute.device)).embedding.cpu());
    std::vector<std::string> captions;
    for (const std::vector<std::string>& of_image : batch->captions) {
      captions.insert(captions.end(), of_image.begin(), of_image.end());
      caption_image.insert(caption_image.end(), of_image.size(), image_row++);
    }
    const language::TokenBatch tokens = tokenizer.encode_batch(captions, max_tokens);
    texts.push_back(
        model.encode_text({tokens.input_ids.to(compute.device), tokens.attention_mask.to(compute.device)})
            .embedding.cpu());
  }
  if (images.empty()) fail("evaluation: the data holds no readable sample");
  return {at::cat(images), at::cat(texts), at::tensor(caption_image, at::kLong), loader.broken()};
}

data::EvalLoaderOptions eval_loader_options(const Config& config) {
  return {.image_size = config.data.image_size,
          .batch_size = config.eval.batch_size,
          .workers = config.data.workers,
          .prefetch_batches = config.data.prefetch_batches,
          .max_broken_fraction = config.data.max_broken_fraction};
}

}  // namespace tessera::eval
