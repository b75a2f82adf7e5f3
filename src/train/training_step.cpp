#include "train/training_step.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/archive.h"
#include "core/error.h"
#include "core/random.h"
#include "data/loader.h"
#include "data/webdataset.h"
#include "language/next_token_loss.h"
#include "losses/itc.h"
#include "losses/itm.h"
#include "losses/maxsim_loss.h"
#include "memory/episodic_memory.h"
#include "memory/memory_losses.h"
#include "model/stage1_model.h"
#include "train/loss_starts.h"
#include "train/memory_queries.h"
#include "train/training_images.h"
#include "vision/encoder.h"

namespace tessera::train {

TrainingStep::TrainingStep(std::shared_ptr<model::Stage1Model> model, language::Tokenizer tokenizer,
                           const Config& config, const Compute& compute, Collectives& collectives,
                           const data::Source& training_data)
    : model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      config_(config),
      losses_(config.losses),
      compute_(compute),
      collectives_(collectives) {
  const QueueConfig& queue = config_.losses.itc.queue;
  if (queue.size == 0 || (config_.losses.itc.weight == 0 && config_.losses.itm.weight == 0)) return;
  losses::QueuePayloadShape payload;
  if (config_.losses.itm.weight > 0) {
    const std::int64_t side = config_.data.image_size / model_->vision().patch_size();
    payload = {1 + side * side, config_.compressor.output_size, config_.language.max_tokens};
  }
  queue_ =
      std::make_unique<losses::ItcQueue>(queue.size, config_.fusion.embedding_size, compute_.device, payload);
  read_probe(training_data);
  const losses::StalenessOptions options{.max_shift = queue.max_shift,
                                         .probe_every = queue.probe_every,
                                         .queue_size = queue.size,
                                         .global_batch = config_.data.batch_size * collectives_.size(),
                                         .device = compute_.device};
  staleness_ = std::make_unique<losses::StalenessProbe>(options, [this] { return encode_probe(); });
}

void TrainingStep::read_probe(const data::Source& training_data) {
  const TrainingImages images = read_training_images(training_data, config_, RandomPurpose::kProbe,
                                                     config_.losses.itc.queue.probe_pairs);
  probe_ = {images.pixels.to(compute_.device), tokens_of(images.captions)};
}

language::TokenBatch TrainingStep::tokens_of(const std::vector<std::string>& captions) const {
  return tokenizer_.encode_batch(captions, config_.language.max_tokens).to(compute_.device);
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

void TrainingStep::begin_epoch(std::int64_t epoch) { losses_ = losses_in_epoch(config_.losses, epoch); }

StepOutput TrainingStep::compute(const data::Batch& batch, std::int64_t step) {
  if (uses_queue()) staleness_->update(step, model_->itc_temperature().detach());
  Encoded encoded = encode(batch, step);
  if (losses_.memory.weight > 0) {
    RECORD_USER_SCOPE("memory");
    // Outside autocast: codes tell small differences of these apart.
    encoded.pair_vectors = model_->pair_vectors(&encoded.image, &encoded.text);
  }

  StepOutput output;
  output.loss = at::zeros({}, at::TensorOptions(compute_.device).dtype(at::kFloat));
  if (losses_.itc.weight > 0) add_itc(encoded, output);
  if (losses_.maxsim.weight > 0) add_maxsim(encoded, output);
  if (losses_.itm.weight > 0) add_itm(encoded, output);
  if (losses_.caption.weight > 0) add_caption(encoded, output);
  if (losses_.memory.weight > 0) add_memory(encoded, output);
  add_gates(output);
  if (encoded.queue) output.metrics.emplace_back("queue_in_use", encoded.queue->share_in_use());

  if (uses_queue()) {
    last_ = {encoded.image.embedding.detach(), encoded.text.embedding.detach(), encoded.image_ids, {}, {}};
    if (queue_->has_payload()) {
      last_.image_tokens = encoded.image.tokens.detach();
      last_.token_ids = encoded.tokens.input_ids;
    }
  }
  return output;
}

bool TrainingStep::reads_bidirectional_text() const {
  return losses_.itc.weight > 0 || losses_.maxsim.weight > 0 || losses_.itm.weight > 0 ||
         losses_.memory.weight > 0;
}

bool TrainingStep::uses_queue() const { return queue_ && (losses_.itc.weight > 0 || losses_.itm.weight > 0); }

at::Tensor TrainingStep::mean_over_ranks(const at::Tensor& sum, const at::Tensor& count) const {
  const at::Tensor counted = count.detach().to(sum.scalar_type());
  if (collectives_.size() == 1) return sum / counted.clamp_min(1);
  return sum * (static_cast<double>(collectives_.size()) / collectives_.all_reduce_sum(counted).clamp_min(1));
}

at::Tensor TrainingStep::padded(const at::Tensor& text, std::int64_t length) const {
  const std::int64_t missing = length - text.size(1);
  if (missing == 0) return text;
  if (text.dim() == 3) return at::constant_pad_nd(text, {0, 0, 0, missing}, 0);
  return at::constant_pad_nd(text, {0, missing}, tokenizer_.pad_id());
}

TrainingStep::Encoded TrainingStep::encode(const data::Batch& batch, std::int64_t step) {
  const AutocastScope autocast(compute_);
  const language::TokenBatch tokens = tokenizer_.encode_batch(batch.captions, config_.language.max_tokens);
  if (tokens.is_cut.defined()) captions_cut_ += tokens.is_cut.sum().item<std::int64_t>();
  Encoded encoded{step, tokens.to(compute_.device), batch.image_ids.to(compute_.device), {}, {}, {}, {}, {}};
  {
    RECORD_USER_SCOPE("image");
    encoded.image = model_->encode_image(batch.pixels.to(compute_.device, /*non_blocking=*/true));
  }
  if (reads_bidirectional_text()) {
    RECORD_USER_SCOPE("text");
    encoded.text = model_->encode_text(encoded.tokens);
  }
  if (losses_.caption.weight > 0 || losses_.memory.weight > 0) {
    RECORD_USER_SCOPE(losses_.caption.weight > 0 ? "caption" : "memory");
    encoded.causal_text = model_->unconditioned_text(encoded.tokens.input_ids);
  }
  if (uses_queue()) encoded.queue = queue_->view(step, staleness_->allowed_age());
  return encoded;
}

void TrainingStep::add_itc(const Encoded& encoded, StepOutput& output) {
  RECORD_USER_SCOPE("itc");
  const at::Tensor temperature = model_->itc_temperature();
  const losses::ItcLossValue itc =
      losses::itc_loss(encoded.image.embedding, encoded.text.embedding, encoded.image_ids, encoded.queue,
                       temperature, config_.losses.itc.queue.same_id, collectives_);
  output.loss = output.loss + losses_.itc.weight * itc.mean();
  output.metrics.emplace_back("loss_itc", itc.mean());
  output.metrics.emplace_back("itc_loss_excess", itc.excess());
  output.metrics.emplace_back("itc_temperature", temperature);
}

void TrainingStep::add_maxsim(const Encoded& encoded, StepOutput& output) {
  RECORD_USER_SCOPE("maxsim");
  at::Tensor patches, tokens;
  {
    const AutocastScope autocast(compute_);
    patches = model_->patch_embeddings(encoded.image);
    tokens = model_->token_embeddings(encoded.text);
  }
  at::Tensor mask = encoded.tokens.attention_mask;
  if (collectives_.size() > 1) {
    tokens = padded(tokens);
    mask = padded(mask);
  }
  const at::Tensor temperature = model_->maxsim_temperature();
  const losses::LossValue maxsim = losses::maxsim_loss(patches, tokens, mask, encoded.image_ids,
                                                       encoded.image_ids, temperature, collectives_);
  output.loss = output.loss + losses_.maxsim.weight * maxsim.mean();
  output.metrics.emplace_back("loss_maxsim", maxsim.mean());
  output.metrics.emplace_back("maxsim_temperature", temperature);
}

std::int64_t TrainingStep::longest_text(const at::Tensor& attention_mask) const {
  // To ask a GPU the host would have to wait for all that it has queued.
  if (!attention_mask.is_cpu()) return attention_mask.size(1);
  return attention_mask.sum(1).max().item<std::int64_t>();
}

TrainingStep::MatchPairs TrainingStep::match_pairs(const Encoded& encoded,
                                                   const losses::HardNegatives& negatives) {
  const at::Tensor own = at::arange(encoded.size(), encoded.image_ids.options());
  if (!encoded.queue && collectives_.size() == 1) {
    return {encoded.image.tokens,
            encoded.text.lower,
            encoded.tokens.attention_mask,
            {at::cat({own, negatives.image_index, own}), at::cat({own, own, negatives.text_index})},
            {encoded.image.attended, encoded.text.attended}};
  }
  losses::QueueView queue;
  if (encoded.queue) queue = *encoded.queue;
  at::Tensor images = encoded.image.tokens;
  // Every image takes the rounding of the queue, or it would give away which ones are negatives.
  if (encoded.queue) images = images.to(at::kBFloat16).to(images.scalar_type());
  const at::Tensor negative_images =
      losses::candidate_rows(collectives_.all_gather(images), queue.image_tokens, negatives.image_index);
  at::Tensor negative_ids = losses::candidate_rows(collectives_.all_gather(padded(encoded.tokens.input_ids)),
                                                   queue.token_ids, negatives.text_index);
  at::Tensor negative_mask = negative_ids.ne(tokenizer_.pad_id());
  // From here on nothing is gathered: each rank's texts are as long as the longest of its own and its
  // negatives.
  const std::int64_t length = std::max(encoded.tokens.input_ids.size(1), longest_text(negative_mask));
  negative_ids = negative_ids.slice(1, 0, length);
  negative_mask = negative_mask.slice(1, 0, length);
  // Texts from elsewhere are encoded here, with today's weights.
  const at::Tensor lower = padded(encoded.text.lower, length);
  const at::Tensor negative_lower = model_->lower_text({negative_ids, negative_mask}).to(lower.scalar_type());
  const at::Tensor others = own + encoded.size();
  return {at::cat({images, negative_images}),
          at::cat({lower, negative_lower}),
          at::cat({padded(encoded.tokens.attention_mask, length), negative_mask}),
          {at::cat({own, others, own}), at::cat({own, own, others})},
          {}};
}

void TrainingStep::add_itm(const Encoded& encoded, StepOutput& output) {
  RECORD_USER_SCOPE("itm");
  const losses::NegativeWeights weights = losses::itm_weights(
      encoded.image.embedding.detach(), encoded.text.embedding.detach(), encoded.image_ids, encoded.queue,
      model_->itc_temperature().detach(), collectives_, losses_.itm.uniform_share);
  const losses::NoiseShape shape{collectives_.rank() * encoded.size(), encoded.size(),
                                 weights.text_weights.size(1)};
  const auto noise = [&](losses::NegativeDirection direction) {
    return losses::gumbel_noise(static_cast<std::uint64_t>(config_.run.seed), direction, encoded.step, shape,
                                compute_.device);
  };
  const losses::HardNegatives negatives = losses::draw_hard_negatives(
      weights, noise(losses::NegativeDirection::kText), noise(losses::NegativeDirection::kImage));
  at::Tensor logits;
  {
    const AutocastScope autocast(compute_);
    const MatchPairs pairs = match_pairs(encoded, negatives);
    logits = model_->match_logits(pairs.image_tokens, pairs.lower_text, pairs.attention_mask, pairs.rows,
                                  pairs.attended);
  }
  const losses::ItmLossValue itm = losses::itm_loss(logits, negatives, encoded.size() * collectives_.size());
  const at::Tensor loss = mean_over_ranks(itm.sum, itm.count);
  output.loss = output.loss + losses_.itm.weight * loss;
  output.metrics.emplace_back("loss_itm", loss);
  add_itm_accuracies(itm, encoded.queue.has_value(), output);
  output.metrics.emplace_back("itm_negative_similarity", losses::itm_negative_similarity(weights, negatives));
}

void TrainingStep::add_itm_accuracies(const losses::ItmLossValue& itm, bool with_queue,
                                      StepOutput& output) const {
  const auto add = [&](const char* name, const losses::Accuracy& accuracy) {
    // Where none was drawn from a source there is no accuracy: NaN here, null in metrics.jsonl.
    const at::Tensor share = mean_over_ranks(accuracy.correct, accuracy.count)
                                 .masked_fill(collectives_.all_reduce_sum(accuracy.count) == 0, std::nan(""));
    output.metrics.emplace_back(name, share);
  };
  add("itm_accuracy_positive", itm.positive);
  add("itm_accuracy_image_from_batch", itm.image_from_batch);
  add("itm_accuracy_text_from_batch", itm.text_from_batch);
  if (!with_queue) return;
  add("itm_accuracy_image_from_queue", itm.image_from_queue);
  add("itm_accuracy_text_from_queue", itm.text_from_queue);
}

StepRows TrainingStep::rows_of(const Encoded& encoded) const {
  return {.seed = static_cast<std::uint64_t>(config_.run.seed),
          .step = encoded.step,
          .first_global_row = collectives_.rank() * encoded.size(),
          .rows = encoded.size()};
}

void TrainingStep::condition_on_memory(const Encoded& encoded, fusion::CaptionCondition& condition) {
  const MemoryConfig& memory = config_.memory;
  if (losses_.memory.weight == 0 || memory.caption_share == 0 || encoded.size() < memory.episode) return;
  const at::Tensor read_outs = recall_from_others(memory, *model_, encoded.pair_vectors, encoded.image_ids);
  at::Tensor sees = draw_captions_with_memory(memory, rows_of(encoded));
  // Pairs of an epoch's last, incomplete episode have none.
  sees.slice(0, read_outs.size(0)).fill_(false);
  condition.memory = at::constant_pad_nd(read_outs, {0, 0, 0, encoded.size() - read_outs.size(0)}, 0);
  condition.has_memory = sees.to(compute_.device);
}

void TrainingStep::add_caption(const Encoded& encoded, StepOutput& output) {
  RECORD_USER_SCOPE("caption");
  fusion::CaptionCondition condition{encoded.image.states, {}, {}};
  condition_on_memory(encoded, condition);
  at::Tensor logits;
  {
    const AutocastScope autocast(compute_);
    logits = model_->caption_logits(encoded.causal_text, condition);
  }
  const language::NextTokenLoss caption =
      language::next_token_loss(logits, language::next_token_labels(encoded.tokens));
  const at::Tensor loss = mean_over_ranks(caption.value * caption.count, caption.count);
  output.loss = output.loss + losses_.caption.weight * loss;
  output.metrics.emplace_back("loss_caption", loss);
}

void TrainingStep::add_memory(const Encoded& encoded, StepOutput& output) {
  RECORD_USER_SCOPE("memory");
  const MemoryConfig& memory = config_.memory;
  // Only whole episodes; an epoch's last batch may be shorter.
  const std::int64_t pairs = encoded.size() / memory.episode * memory.episode;
  if (pairs == 0) return;
  pair_vectors_ = encoded.pair_vectors;
  const QuerySides keeps = draw_query_sides(memory, rows_of(encoded));
  const auto episodes = [&](const at::Tensor& codes) {
    return codes.slice(0, 0, pairs).reshape({pairs / memory.episode, memory.episode, memory.code_size});
  };
  const at::Tensor codes = episodes(model_->pair_codes(encoded.pair_vectors));
  const at::Tensor queries = episodes(model_->pair_codes(
      encoded.pair_vectors, keeps.keeps_image.to(compute_.device), keeps.keeps_text.to(compute_.device)));
  const memory::EpisodeReading reading = model_->memory()->read_episode(codes, queries);
  const memory::MemoryLosses parts = memory::memory_losses(reading, codes);

  // Decoded without the image: what the caption says must have come through the memory.
  at::Tensor logits;
  {
    const AutocastScope autocast(compute_);
    logits =
        model_->caption_logits(encoded.causal_text.slice(0, 0, pairs), {{}, reading.codes.flatten(0, 1), {}});
  }
  const language::NextTokenLoss decoded =
      language::next_token_loss(logits, language::next_token_labels(encoded.tokens).slice(0, 0, pairs));
  const at::Tensor reconstruction = mean_over_ranks(decoded.value * decoded.count, decoded.count);
  const at::Tensor alignment = mean_over_ranks(parts.alignment_sum, parts.count);
  const at::Tensor kl = mean_over_ranks(parts.kl_sum, parts.count);
  const MemoryLossConfig& weights = losses_.memory;
  output.loss =
      output.loss + weights.weight * (reconstruction + weights.alignment * alignment + weights.kl * kl);
  output.metrics.emplace_back("loss_memory", reconstruction);
  output.metrics.emplace_back("memory_read_error", alignment);
  output.metrics.emplace_back("memory_address_kl", kl);
}

void TrainingStep::add_gates(StepOutput& output) const {
  const model::Stage1Model::Gates gates = model_->gates();
  for (std::int64_t level = 0; level < gates.text_reads_image.size(0); ++level) {
    output.metrics.emplace_back(fmt::format("gate_text_reads_image_{}", level),
                                gates.text_reads_image[level]);
    output.metrics.emplace_back(fmt::format("gate_image_reads_text_{}", level),
                                gates.image_reads_text[level]);
  }
}

void TrainingStep::after_update(std::int64_t step) {
  if (uses_queue()) queue_->enqueue(last_, step, collectives_);
  last_ = {};
  if (pair_vectors_.image.defined()) {
    model_->observe_pairs(
        {collectives_.all_gather(pair_vectors_.image), collectives_.all_gather(pair_vectors_.text)});
  }
  pair_vectors_ = {};
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
