#include "train/training_images.h"

#include <ATen/ATen.h>

#include <set>

#include "config/config.h"
#include "core/error.h"
#include "data/image_transform.h"
#include "data/source.h"
#include "model/stage1_model.h"
#include "vision/encoder.h"

namespace tessera::train {

TrainingImages read_training_images(const data::Source& data, const Config& config, RandomPurpose purpose,
                                    std::int64_t count) {
  std::vector<at::Tensor> pixels;
  TrainingImages images;
  std::set<std::string> image_ids;
  for (const std::int64_t index :
       random_permutation(data.size(), static_cast<std::uint64_t>(config.run.seed), purpose, 0)) {
    if (static_cast<std::int64_t>(pixels.size()) == count) break;
    try {
      const data::Sample sample = data.read(index);
      if (!image_ids.insert(sample.image_id).second) continue;
      pixels.push_back(data::decode_for_evaluation(sample.image, config.data.image_size, sample.key));
      images.captions.push_back(sample.captions.front());
    } catch (const Error&) {
      // Named by the loader.
    }
  }
  if (pixels.size() < 2)
    fail("data.train: two sound images of different ids are needed, {} found", pixels.size());
  images.pixels = at::stack(pixels);
  return images;
}

void standardise_encoder(model::Stage1Model& model, const data::Source& data, const Config& config,
                         c10::Device device) {
  constexpr std::int64_t kImages = 256;
  constexpr double kSmallestDeviation = 1e-4;
  const at::NoGradGuard no_grad;
  model.set_training(false);
  const TrainingImages images = read_training_images(data, config, RandomPurpose::kInitialisation, kImages);
  std::vector<at::Tensor> tokens;
  for (const at::Tensor& pixels : images.pixels.split(config.data.batch_size)) {
    tokens.push_back(model.encoder_tokens(pixels.to(device)).flatten(0, 1));
  }
  const at::Tensor all = at::cat(tokens);
  model.vision().standardise_output(all.mean(0), all.std(0).clamp_min(kSmallestDeviation));
}

}  // namespace tessera::train
