#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/autocast.h"
#include "core/error.h"
#include "eval/suites.h"
#include "eval/zero_shot.h"
#include "inference/encode_inputs.h"
#include "inference/trained_model.h"

namespace tessera::eval {

namespace {

/// [C, E]
at::Tensor encode_classes(const inference::TrainedModel& trained, const std::vector<std::string>& classes,
                          const std::vector<std::string>& templates) {
  const std::vector<std::string> prompts = class_prompts(classes, templates);
  const auto batch_size = static_cast<std::size_t>(trained.config.eval.batch_size);
  std::vector<at::Tensor> embeddings;
  for (std::size_t first = 0; first < prompts.size(); first += batch_size) {
    const std::vector<std::string> batch(
        prompts.begin() + static_cast<std::ptrdiff_t>(first),
        prompts.begin() + static_cast<std::ptrdiff_t>(std::min(first + batch_size, prompts.size())));
    embeddings.push_back(inference::encode_texts(trained, batch).embedding.cpu());
  }
  return class_embeddings(at::cat(embeddings), static_cast<std::int64_t>(classes.size()));
}

/// Encodes images in batches and keeps the labels of those that could be read.
class ImageEncoder {
 public:
  explicit ImageEncoder(const inference::TrainedModel& trained) : trained_(trained) {}

  void add(const at::Tensor& pixels, const std::filesystem::path& file, std::int64_t label) {
    pixels_.push_back(pixels);
    names_.push_back(file.string());
    labels_.push_back(label);
    if (static_cast<std::int64_t>(pixels_.size()) == trained_.config.eval.batch_size) encode();
  }

  ZeroShotScores scores(const at::Tensor& classes) {
    encode();
    return zero_shot_scores(at::cat(embeddings_), classes, at::tensor(labels_, at::kLong));
  }

 private:
  void encode() {
    if (pixels_.empty()) return;
    embeddings_.push_back(inference::encode_images(trained_, at::stack(pixels_), names_).embedding.cpu());
    pixels_.clear();
    names_.clear();
  }

  const inference::TrainedModel& trained_;
  std::vector<at::Tensor> pixels_, embeddings_;
  std::vector<std::string> names_;  ///< of pixels_
  std::vector<std::int64_t> labels_;
};

}  // namespace

nlohmann::json zero_shot_suite(const inference::TrainedModel& trained, const ZeroShotSuiteOptions& options,
                               const Logger& logger) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  const ClassFolder folder = read_class_folder(options.images, options.classes_file);
  if (!folder.left_out.empty()) logger->info("{}: not used: {}", options.images.string(), folder.left_out);
  const std::vector<std::string> templates = prompt_templates(options.templates_file);
  const at::Tensor classes = encode_classes(trained, folder.classes, templates);
  ImageEncoder encoder(trained);
  std::int64_t broken = 0;
  std::string first_reason;
  for (const auto& [file, label] : folder.images) {
    at::Tensor pixels;
    try {
      pixels = inference::read_image(file, trained.config.data.image_size);
    } catch (const Error& error) {
      logger->warn("{}; left out", error.what());
      if (broken++ == 0) first_reason = error.what();
      continue;
    }
    encoder.add(pixels, file, label);
  }
  const auto count = static_cast<std::int64_t>(folder.images.size());
  const double allowed = trained.config.data.max_broken_fraction * static_cast<double>(count);
  if (broken == count || static_cast<double>(broken) > allowed) {
    fail("{}: {} of {} images can't be read, more than data.max_broken_fraction; the first: {}",
         options.images.string(), broken, count, first_reason);
  }
  nlohmann::json json;
  add_to_json(json, encoder.scores(classes), folder.classes);
  json["zero_shot_templates"] = templates;
  json["zero_shot_broken"] = broken;
  return json;
}

}  // namespace tessera::eval
