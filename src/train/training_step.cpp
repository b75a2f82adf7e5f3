#include "train/training_step.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <set>

#include "core/error.h"
#include "core/random.h"
#include "data/image_transform.h"
#include "language/next_token_loss.h"
#include "losses/itc.h"
#include "losses/itm.h"
#include "losses/maxsim_loss.h"
#include "memory/memory_losses.h"

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
  const Encoded encoded = encode(batch, step);
  const LossesConfig& losses = config_.losses;

  StepOutput output;
  output.loss = at::zeros({}, at::TensorOptions(compute_.device).dtype(at::kFloat));
  if (losses.itc.weight > 0) add_itc(encoded, output);
  if (losses.maxsim.weight > 0) add_maxsim(encoded, output);
  if (losses.itm.weight > 0) add_itm(encoded, output);
  if (losses.caption.weight > 0) add_caption(encoded, output);
  if (losses.memory.weight > 0) add_memory(encoded, output);
  add_gates(output);
  if (encoded.queue) output.metrics.emplace_back("queue_in_use", encoded.queue->share_in_use());

  last_ = {encoded.image.embedding.detach(), encoded.text.embedding.detach(), encoded.image_ids, {}, {}};
  if (queue_ && queue_->has_payload()) {
    last_.image_tokens = encoded.image.tokens.detach();
    last_.token_ids = encoded.tokens.input_ids;
  }
  return output;
}

TrainingStep::Encoded TrainingStep::encode(const data::Batch& batch, std::int64_t step) {
  const AutocastScope autocast(compute_);
  Encoded encoded{step, tokens_of(batch.captions), batch.image_ids.to(compute_.device), {}, {}, {}};
  encoded.image = model_->encode_image(batch.pixels.to(compute_.device, /*non_blocking=*/true));
  encoded.text = model_->encode_text(encoded.tokens);
  if (queue_) encoded.queue = queue_->view(step, staleness_->allowed_age());
  return encoded;
}

void TrainingStep::add_itc(const Encoded& encoded, StepOutput& output) {
  const at::Tensor temperature = model_->itc_temperature();
  const losses::ItcLossValue itc =
      losses::itc_loss(encoded.image.embedding, encoded.text.embedding, encoded.image_ids, encoded.queue,
                       temperature, config_.losses.itc.queue.same_id, collectives_);
  output.loss = output.loss + config_.losses.itc.weight * itc.mean();
  output.metrics.emplace_back("loss_itc", itc.mean());
  output.metrics.emplace_back("itc_loss_excess", itc.excess());
  output.metrics.emplace_back("itc_temperature", temperature);
}

void TrainingStep::add_maxsim(const Encoded& encoded, StepOutput& output) {
  at::Tensor patches, tokens;
  {
    const AutocastScope autocast(compute_);
    patches = model_->patch_embeddings(encoded.image);
    tokens = model_->token_embeddings(encoded.text);
  }
  const at::Tensor temperature = model_->maxsim_temperature();
  const losses::LossValue maxsim =
      losses::maxsim_loss(patches, tokens, encoded.tokens.attention_mask, encoded.image_ids,
                          encoded.image_ids, temperature, collectives_);
  output.loss = output.loss + config_.losses.maxsim.weight * maxsim.mean();
  output.metrics.emplace_back("loss_maxsim", maxsim.mean());
  output.metrics.emplace_back("maxsim_temperature", temperature);
}

TrainingStep::MatchPairs TrainingStep::match_pairs(const Encoded& encoded,
                                                   const losses::HardNegatives& negatives) {
  // Every image takes the rounding of the queue, or it would give away which ones are negatives.
  const at::Tensor images = encoded.image.tokens.to(at::kBFloat16).to(encoded.image.tokens.scalar_type());
  at::Tensor image_candidates = collectives_.all_gather(images);
  at::Tensor negative_lower, negative_mask;
  at::Tensor lower = encoded.text.lower;
  at::Tensor mask = encoded.tokens.attention_mask;
  if (!encoded.queue && collectives_.size() == 1) {
    negative_lower = lower.index_select(0, negatives.text_index);
    negative_mask = mask.index_select(0, negatives.text_index);
  } else {
    // Texts from elsewhere are encoded here, with today's weights.
    const auto padded = [&](const at::Tensor& tensor, std::int64_t width) {
      return at::constant_pad_nd(tensor, {0, width - tensor.size(1)}, 0);
    };
    const std::int64_t length = config_.language.max_tokens;
    at::Tensor ids = collectives_.all_gather(padded(encoded.tokens.input_ids, length));
    if (encoded.queue) {
      image_candidates =
          at::cat({image_candidates, encoded.queue->image_tokens.to(image_candidates.scalar_type())});
      ids = at::cat({ids, encoded.queue->token_ids});
    }
    const at::Tensor negative_ids = ids.index_select(0, negatives.text_index);
    negative_mask = negative_ids.ne(tokenizer_.pad_id());
    negative_lower = model_->lower_text({negative_ids, negative_mask});
    lower = at::constant_pad_nd(lower, {0, 0, 0, length - lower.size(1)}, 0);
    mask = padded(mask, length);
  }
  return {at::cat({images, image_candidates.index_select(0, negatives.image_index), images}),
          at::cat({lower, lower, negative_lower.to(lower.scalar_type())}),
          at::cat({mask, mask, negative_mask})};
}

void TrainingStep::add_itm(const Encoded& encoded, StepOutput& output) {
  const losses::NegativeWeights weights =
      losses::itm_weights(encoded.image.embedding.detach(), encoded.text.embedding.detach(),
                          encoded.image_ids, encoded.queue, model_->itc_temperature().detach(), collectives_);
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
    logits = model_->match_logits(pairs.image_tokens, pairs.lower_text, pairs.attention_mask);
  }
  const losses::ItmLossValue itm = losses::itm_loss(logits, negatives, encoded.size() * collectives_.size());
  output.loss = output.loss + config_.losses.itm.weight * itm.mean();
  output.metrics.emplace_back("loss_itm", itm.mean());
  output.metrics.emplace_back("itm_accuracy_positive", itm.positive.mean());
  output.metrics.emplace_back("itm_accuracy_image_from_batch", itm.image_from_batch.mean());
  output.metrics.emplace_back("itm_accuracy_text_from_batch", itm.text_from_batch.mean());
  if (encoded.queue) {
    output.metrics.emplace_back("itm_accuracy_image_from_queue", itm.image_from_queue.mean());
    output.metrics.emplace_back("itm_accuracy_text_from_queue", itm.text_from_queue.mean());
  }
  output.metrics.emplace_back("itm_negative_similarity", losses::itm_negative_similarity(weights, negatives));
}

namespace {

/// Captions as their own targets: padding doesn't count.
at::Tensor caption_labels(const language::TokenBatch& tokens) {
  return tokens.input_ids.masked_fill(tokens.attention_mask.logical_not(), language::kIgnoreIndex);
}

language::TokenBatch first_rows(const language::TokenBatch& tokens, std::int64_t rows) {
  return {tokens.input_ids.slice(0, 0, rows), tokens.attention_mask.slice(0, 0, rows)};
}

}  // namespace

std::vector<double> TrainingStep::uniform_of_pairs(std::int64_t pairs, std::int64_t step,
                                                   std::uint64_t use) const {
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const auto row = static_cast<std::uint64_t>(collectives_.rank() * pairs + i);
    numbers.push_back(CounterRandom(static_cast<std::uint64_t>(config_.run.seed), RandomPurpose::kMemoryQuery,
                                    static_cast<std::uint64_t>(step), 2 * row + use)
                          .uniform());
  }
  return numbers;
}

void TrainingStep::condition_on_memory(const Encoded& encoded, fusion::CaptionCondition& condition) {
  const MemoryConfig& memory = config_.memory;
  const std::int64_t pairs = encoded.size();
  // Only whole episodes; an epoch's last batch may be shorter.
  if (config_.losses.memory.weight == 0 || memory.caption_share == 0 || pairs % memory.episode != 0) return;
  const torch::NoGradGuard no_grad;
  const std::vector<std::int64_t> episodes = {pairs / memory.episode, memory.episode, memory.code_size};
  const at::Tensor written = model_->pair_codes(&encoded.image, &encoded.text).view(episodes);
  // The code of a caption would carry it through the read-out.
  const at::Tensor queries = model_->pair_codes(&encoded.image, nullptr).view(episodes);
  condition.memory = model_->memory()->read_without_own(written, queries).codes.flatten(0, 1);
  at::Tensor sees = at::empty({pairs}, at::kBool);
  const std::vector<double> draws = uniform_of_pairs(pairs, encoded.step, 1);
  for (std::int64_t i = 0; i < pairs; ++i) {
    sees.data_ptr<bool>()[i] = draws[static_cast<std::size_t>(i)] < memory.caption_share;
  }
  condition.has_memory = sees.to(compute_.device);
}

void TrainingStep::add_caption(const Encoded& encoded, StepOutput& output) {
  fusion::CaptionCondition condition{encoded.image.states, {}, {}};
  condition_on_memory(encoded, condition);
  at::Tensor logits;
  {
    const AutocastScope autocast(compute_);
    logits = model_->caption_logits(encoded.tokens, condition);
  }
  const language::NextTokenLoss caption = language::next_token_loss(logits, caption_labels(encoded.tokens));
  output.loss = output.loss + config_.losses.caption.weight * caption.value;
  output.metrics.emplace_back("loss_caption", caption.value);
}

void TrainingStep::add_memory(const Encoded& encoded, StepOutput& output) {
  const MemoryConfig& memory = config_.memory;
  // Only whole episodes; an epoch's last batch may be shorter.
  const std::int64_t pairs = encoded.size() / memory.episode * memory.episode;
  if (pairs == 0) return;
  at::Tensor keeps_image = at::empty({encoded.size()}, at::kBool);
  at::Tensor keeps_text = at::empty({encoded.size()}, at::kBool);
  const std::vector<double> draws = uniform_of_pairs(encoded.size(), encoded.step, 0);
  for (std::int64_t i = 0; i < encoded.size(); ++i) {
    const double draw = draws[static_cast<std::size_t>(i)];
    keeps_text.data_ptr<bool>()[i] = draw >= memory.drop_text;
    keeps_image.data_ptr<bool>()[i] = draw < memory.drop_text || draw >= memory.drop_text + memory.drop_image;
  }
  const auto episodes = [&](const at::Tensor& codes) {
    return codes.slice(0, 0, pairs).reshape({pairs / memory.episode, memory.episode, memory.code_size});
  };
  const at::Tensor codes = episodes(model_->pair_codes(&encoded.image, &encoded.text));
  const at::Tensor queries = episodes(model_->pair_codes(
      &encoded.image, &encoded.text, keeps_image.to(compute_.device), keeps_text.to(compute_.device)));
  const memory::EpisodeReading reading = model_->memory()->read_episode(codes, queries);
  const memory::MemoryLosses parts = memory::memory_losses(reading, codes);

  // Decoded without the image: what the caption says must have come through the memory.
  const language::TokenBatch tokens = first_rows(encoded.tokens, pairs);
  at::Tensor logits;
  {
    const AutocastScope autocast(compute_);
    logits = model_->caption_logits(tokens, {{}, reading.codes.flatten(0, 1), {}});
  }
  const language::NextTokenLoss reconstruction = language::next_token_loss(logits, caption_labels(tokens));
  const at::Tensor alignment = parts.alignment_sum / parts.count.clamp_min(1);
  const at::Tensor kl = parts.kl_sum / parts.count.clamp_min(1);
  const MemoryLossConfig& weights = config_.losses.memory;
  output.loss =
      output.loss + weights.weight * (reconstruction.value + weights.alignment * alignment + weights.kl * kl);
  output.metrics.emplace_back("loss_memory", reconstruction.value);
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
  if (queue_) queue_->enqueue(last_, step, collectives_);
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
