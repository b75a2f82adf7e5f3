#include "inference/encode_inputs.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/regular_file.h"
#include "data/image_transform.h"

namespace tessera::inference {

at::Tensor read_image(const std::filesystem::path& file, std::int64_t size) {
  return data::decode_for_evaluation(RegularFile(file).read(), size, file.string());
}

model::ImageFeatures encode_images(const TrainedModel& evaluated, const at::Tensor& pixels) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(evaluated.compute);
  return evaluated.model.encode_image(pixels.to(evaluated.compute.device));
}

model::TextFeatures encode_texts(const TrainedModel& evaluated, const std::vector<std::string>& texts) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(evaluated.compute);
  const language::TokenBatch tokens =
      evaluated.tokenizer.encode_batch(texts, evaluated.config.language.max_tokens);
  return evaluated.model.encode_text(
      {tokens.input_ids.to(evaluated.compute.device), tokens.attention_mask.to(evaluated.compute.device)});
}

}  // namespace tessera::inference
