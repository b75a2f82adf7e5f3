#include "train/training_step.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>

#include <nlohmann/json.hpp>

#include "core/autocast.h"
#include "core/error.h"
#include "core/random.h"
#include "data/loader.h"
#include "losses/loss_abilities.h"
#include "model/stage1_model.h"
#include "train/loss_starts.h"
#include "train/training_images.h"
#include "vision/encoder.h"

namespace tessera::train {

TrainingStep::TrainingStep(std::shared_ptr<model::Stage1Model> model, language::Tokenizer tokenizer,
                           const Config& config, const Compute& compute, Collectives& collectives,
                           const data::Source& training_data)
    : model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      config_(config),
      context_{*model_, config_, compute, collectives, tokenizer_.pad_id()},
      losses_(config.losses),
      reads_(objectives::reads_of(losses_)) {
  for (const objectives::ObjectiveEntry& entry : objectives::chosen_objectives(config_.losses)) {
    chosen_.push_back({entry, entry.make(context_)});
  }
  if (objectives::has_queue(config_.losses)) make_queue(training_data);
}

void TrainingStep::make_queue(const data::Source& training_data) {
  const losses::QueueConfig& queue = config_.losses.itc.queue;
  losses::QueuePayloadShape payload;
  if (reads_.queue_payload) {
    const std::int64_t side = config_.data.image_size;
    payload = {1 + model_->vision().grid(side, side).patches(), config_.compressor.output_size,
               config_.language.max_tokens};
  }
  queue_ = std::make_unique<losses::ItcQueue>(queue.size, config_.fusion.embedding_size,
                                              context_.compute.device, payload);
  read_probe(training_data);
  const losses::StalenessOptions options{
      .queue = queue,
      .global_batch = config_.data.batch_size * context_.collectives.size(),
      .device = context_.compute.device};
  staleness_ = std::make_unique<losses::StalenessProbe>(options, [this] { return encode_probe(); });
}

void TrainingStep::read_probe(const data::Source& training_data) {
  const TrainingImages images = read_training_images(training_data, config_, RandomPurpose::kProbe,
                                                     config_.losses.itc.queue.probe_pairs);
  probe_ = {images.pixels.to(context_.compute.device), tokens_of(images.captions)};
}

language::TokenBatch TrainingStep::tokens_of(const std::vector<std::string>& captions) const {
  return tokenizer_.encode_batch(captions, config_.language.max_tokens).to(context_.compute.device);
}

std::pair<at::Tensor, at::Tensor> TrainingStep::encode_probe() {
  const at::NoGradGuard no_grad;
  const AutocastScope autocast(context_.compute);
  model_->set_training(false);
  auto embeddings = std::make_pair(model_->encode_image(probe_.pixels).embedding,
                                   model_->encode_text(probe_.tokens).embedding);
  model_->set_training(true);
  return embeddings;
}

void TrainingStep::begin_epoch(std::int64_t epoch) {
  losses_ = losses_in_epoch(config_.losses, epoch);
  reads_ = objectives::reads_of(losses_);
}

template <typename Visit>
void TrainingStep::for_each_active(const Visit& visit) {
  for (const Chosen& chosen : chosen_) {
    const double weight = loss_weight(losses_, chosen.entry.name);
    if (weight > 0) visit(chosen, weight);
  }
}

StepOutput TrainingStep::compute(const data::Batch& batch, std::int64_t step) {
  if (uses_queue()) staleness_->update(step, model_->itc_temperature().detach());
  const objectives::Encoded encoded = encode(batch, step);
  StepOutput output;
  output.loss = at::zeros({}, at::TensorOptions(context_.compute.device).dtype(at::kFloat));
  for_each_active([&](const Chosen& chosen, double weight) {
    RECORD_USER_SCOPE(chosen.entry.name);
    const at::Tensor loss = chosen.objective->compute(encoded, losses_, output.metrics);
    if (loss.defined()) output.loss = output.loss + weight * loss;
  });
  add_gates(output.metrics);
  if (!uses_queue()) return output;
  output.metrics.emplace_back("queue_in_use", encoded.queue->share_in_use());
  last_ = {encoded.image.embedding.detach(), encoded.text.embedding.detach(), encoded.image_ids, {}, {}};
  if (queue_->has_payload()) {
    last_.image_tokens = encoded.image.tokens.detach();
    last_.token_ids = encoded.tokens.input_ids;
  }
  return output;
}

bool TrainingStep::uses_queue() const { return queue_ && reads_.queue; }

objectives::Encoded TrainingStep::encode(const data::Batch& batch, std::int64_t step) {
  objectives::Encoded encoded;
  {
    const AutocastScope autocast(context_.compute);
    const language::TokenBatch tokens = tokenizer_.encode_batch(batch.captions, config_.language.max_tokens);
    if (tokens.is_cut.defined()) captions_cut_ += tokens.is_cut.sum().item<std::int64_t>();
    encoded.step = step;
    encoded.tokens = tokens.to(context_.compute.device);
    encoded.image_ids = batch.image_ids.to(context_.compute.device);
    {
      RECORD_USER_SCOPE("image");
      encoded.image = model_->encode_image(batch.pixels.to(context_.compute.device, /*non_blocking=*/true));
    }
    if (reads_.bidirectional_text) {
      RECORD_USER_SCOPE("text");
      encoded.text = model_->encode_text(encoded.tokens);
    }
    if (reads_.causal_text) {
      const char* first_reader = nullptr;
      for_each_active([&](const Chosen& chosen, double) {
        if (first_reader == nullptr && chosen.entry.reads.causal_text) first_reader = chosen.entry.name;
      });
      RECORD_USER_SCOPE(first_reader);
      encoded.causal_text = model_->unconditioned_text(encoded.tokens.input_ids);
    }
    if (uses_queue()) encoded.queue = queue_->view(step, staleness_->allowed_age());
  }
  if (reads_.pair_vectors) {
    // Outside autocast: codes tell small differences of these apart.
    encoded.pair_vectors = model_->pair_vectors(&encoded.image, &encoded.text);
  }
  return encoded;
}

void TrainingStep::add_gates(objectives::Metrics& metrics) const {
  const model::Stage1Model::Gates gates = model_->gates();
  for (std::int64_t level = 0; level < gates.text_reads_image.size(0); ++level) {
    metrics.emplace_back(fmt::format("gate_text_reads_image_{}", level), gates.text_reads_image[level]);
    metrics.emplace_back(fmt::format("gate_image_reads_text_{}", level), gates.image_reads_text[level]);
  }
}

void TrainingStep::after_update(std::int64_t step) {
  if (uses_queue()) queue_->enqueue(last_, step, context_.collectives);
  last_ = {};
  for (const Chosen& chosen : chosen_) chosen.objective->after_update();
}

nlohmann::json TrainingStep::host_metrics() const {
  nlohmann::json json = {{"captions_cut", captions_cut_}};
  if (!queue_) {
    json["queue_filled"] = 0.0;
    return json;
  }
  json["queue_filled"] = static_cast<double>(queue_->filled()) / static_cast<double>(queue_->size());
  json.update(staleness_->metrics());
  return json;
}

std::string TrainingStep::queue_note(std::int64_t training_images) const {
  if (!queue_ || queue_->size() * 10 <= training_images) return {};
  return fmt::format(
      "losses.itc.queue.size: {} entries are more than a tenth of the {} training images; a queue this large "
      "is stale while features move fast",
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
