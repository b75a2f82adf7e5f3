#include "train/training_step.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <set>

#include "core/error.h"
#include "core/random.h"
#include "data/image_transform.h"
#include "losses/itc.h"

namespace tessera::train {

TrainingStep::TrainingStep(std::shared_ptr<model::Stage1Model> model, language::Tokenizer tokenizer,
                           const Config& config, const Compute& compute, Collectives& collectives,
                           const data::WebDataset& training_data)
    : model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      config_(config),
      compute_(compute),
      collectives_(collectives) {
  const QueueConfig& queue = config_.losses.itc.queue;
  if (queue.size == 0) return;
  queue_ = std::make_unique<losses::ItcQueue>(queue.size, config_.fusion.embedding_size, compute_.device);
  read_probe(training_data);
  const losses::StalenessOptions options{.max_shift = queue.max_shift,
                                         .probe_every = queue.probe_every,
                                         .queue_size = queue.size,
                                         .global_batch = config_.data.batch_size * collectives_.size(),
                                         .device = compute_.device};
  staleness_ = std::make_unique<losses::StalenessProbe>(options, [this] { return encode_probe(); });
}

void TrainingStep::read_probe(const data::WebDataset& training_data) {
  const auto wanted = static_cast<std::size_t>(config_.losses.itc.queue.probe_pairs);
  std::vector<at::Tensor> pixels;
  std::vector<std::string> captions;
  std::set<std::string> image_ids;
  for (const std::int64_t index : random_permutation(
           training_data.size(), static_cast<std::uint64_t>(config_.run.seed), RandomPurpose::kProbe, 0)) {
    if (pixels.size() == wanted) break;
    try {
      const data::Sample sample = training_data.read(index);
      if (!image_ids.insert(sample.image_id).second) continue;
      const at::Tensor image = at::empty({3, config_.data.image_size, config_.data.image_size}, at::kByte);
      data::resize_and_centre_crop(data::decode_image(sample.image, sample.key), image, sample.key);
      pixels.push_back(image);
      captions.push_back(sample.captions.front());
    } catch (const Error&) {
      // A broken sample serves no probe; the loader counts and names it when its turn comes.
    }
  }
  if (pixels.size() < 2)
    fail("data.train: the staleness probe needs two sound images, {} found", pixels.size());
  probe_ = {at::stack(pixels).to(compute_.device), tokens_of(captions)};
}

language::TokenBatch TrainingStep::tokens_of(const std::vector<std::string>& captions) const {
  const language::TokenBatch tokens = tokenizer_.encode_batch(captions, config_.language.max_tokens);
  return {tokens.input_ids.to(compute_.device), tokens.attention_mask.to(compute_.device)};
}

std::pair<at::Tensor, at::Tensor> TrainingStep::encode_probe() {
  const torch::NoGradGuard no_grad;
  const AutocastScope autocast(compute_);
  model_->set_training(false);
  auto embeddings = std::make_pair(model_->encode_image(probe_.pixels).embedding,
                                   model_->encode_text(probe_.tokens).embedding);
  model_->set_training(true);
  return embeddings;
}

StepOutput TrainingStep::compute(const data::Batch& batch, std::int64_t step) {
  if (staleness_) staleness_->update(step, model_->itc_temperature().detach());

  model::ImageFeatures image;
  model::TextFeatures text;
  {
    const AutocastScope autocast(compute_);
    image = model_->encode_image(batch.pixels.to(compute_.device, /*non_blocking=*/true));
    text = model_->encode_text(tokens_of(batch.captions));
  }
  const at::Tensor image_ids = batch.image_ids.to(compute_.device);
  const at::Tensor temperature = model_->itc_temperature();
  std::optional<losses::QueueView> queue;
  if (queue_) queue = queue_->view(step, staleness_->allowed_age());
  const losses::ItcLossValue itc =
      losses::itc_loss(image.embedding, text.embedding, image_ids, queue, temperature,
                       config_.losses.itc.queue.same_id, collectives_);
  last_ = {image.embedding.detach(), text.embedding.detach(), image_ids};

  StepOutput output;
  output.loss = config_.losses.itc.weight * itc.mean();
  output.metrics = {
      {"loss_itc", itc.mean()}, {"itc_loss_excess", itc.excess()}, {"itc_temperature", temperature}};
  if (queue) output.metrics.emplace_back("queue_in_use", queue->share_in_use());
  return output;
}

void TrainingStep::after_update(std::int64_t step) {
  if (queue_) queue_->enqueue(last_.image, last_.text, last_.image_ids, step, collectives_);
  last_ = {};
}

nlohmann::json TrainingStep::host_metrics() const {
  if (!queue_) return {{"queue_filled", 0.0}};
  nlohmann::json json;
  json["queue_filled"] = static_cast<double>(queue_->filled()) / static_cast<double>(queue_->size());
  json.update(staleness_->metrics());
  return json;
}

std::string TrainingStep::queue_note(std::int64_t training_images) const {
  if (!queue_ || queue_->size() * 10 <= training_images) return {};
  return fmt::format(
      "losses.itc.queue.size: {} entries are more than a tenth of the {} training images; a queue this large "
      "is stale "
      "while features move fast",
      queue_->size(), training_images);
}

void TrainingStep::save(Archive& archive) const {
  if (!queue_) return;
  queue_->save(archive);
  staleness_->save(archive);
}

void TrainingStep::load(const Archive& archive) {
  if (!queue_) return;
  queue_->load(archive);
  staleness_->load(archive);
}

}  // namespace tessera::train
