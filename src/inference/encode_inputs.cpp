#include "inference/encode_inputs.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "config/config.h"
#include "core/autocast.h"
#include "core/error.h"
#include "core/finite.h"
#include "core/regular_file.h"
#include "data/image_transform.h"
#include "language/tokenizer.h"
#include "model/stage1_model.h"

namespace tessera::inference {

std::vector<std::string> quoted_texts(const std::vector<std::string>& texts) {
  std::vector<std::string> shown;
  for (const std::string& text : texts) shown.push_back(quoted(text));
  return shown;
}

at::Tensor read_image(const std::filesystem::path& file, std::int64_t size) {
  return data::decode_for_evaluation(RegularFile(file).read(), size, file.string());
}

model::ImageFeatures encode_images(const TrainedModel& trained, const at::Tensor& pixels,
                                   const std::vector<std::string>& names) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  model::ImageFeatures features = trained.model.encode_image(pixels.to(trained.compute.device));
  // Of the mean over all patches too, so that what is wrong in one of them shows.
  check_computed(features.embedding, "the image's embedding", names);
  return features;
}

model::TextFeatures encode_texts(const TrainedModel& trained, const std::vector<std::string>& texts) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  const language::TokenBatch tokens =
      trained.tokenizer.encode_batch(texts, trained.config.language.max_tokens);
  model::TextFeatures features = trained.model.encode_text(tokens.to(trained.compute.device));
  check_computed(features.embedding, "the text's embedding", quoted_texts(texts));
  return features;
}

}  // namespace tessera::inference
