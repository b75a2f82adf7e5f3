#include "bench/step_export.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "losses/hard_negatives.h"
#include "model/stage1_model.h"
#include "objectives/memory_queries.h"

namespace tessera::bench {

namespace {

namespace fs = std::filesystem;

void check(const StepUnderTest& step) {
  const Config& config = step.config();
  if (config.compressor.dropout != 0 || config.memory.noise != 0 ||
      (config.vision.trainable == lora::TrainableChoice::kLora && config.lora.lora_dropout != 0)) {
    fail("step export: the step draws dropout or noise, which no other program can repeat");
  }
  const losses::QueueConfig& queue = config.losses.itc.queue;
  if (queue.size != 0 && (queue.max_shift != 0 || queue.same_id != losses::SameId::kIgnore)) {
    fail(
        "losses.itc.queue: the peer has no staleness rule and no positives in the queue; expected max_shift "
        "0 "
        "and same_id ignore, found max_shift {} and same_id {}",
        queue.max_shift, queue.same_id == losses::SameId::kIgnore ? "ignore" : "positive");
  }
  if (step.compute().dtype != at::kFloat || !step.compute().device.is_cpu()) {
    fail("step export: expected fp32 on the CPU, found {}", step.compute().describe());
  }
}

TensorMap all_weights(model::Stage1Model& model) {
  TensorMap weights;
  for (const auto& item : model.module().named_parameters()) weights[item.key()] = item.value().detach();
  for (const auto& item : model.module().named_buffers()) weights[item.key()] = item.value().detach();
  return weights;
}

/// The queue as every batch finds it: nothing enters while the step is only differentiated.
std::optional<losses::QueueView> queue_view(const StepUnderTest& step) {
  const std::optional<losses::ItcQueue> queue = step.queue();
  if (!queue) return std::nullopt;
  const at::Tensor any_age = at::scalar_tensor(std::numeric_limits<std::int64_t>::max(), at::kLong);
  return queue->view(step.step(), any_age);
}

TensorMap queue_tensors(const losses::QueueView& queue) {
  TensorMap tensors = {{"image", queue.image},
                       {"text", queue.text},
                       {"image_ids", queue.image_ids},
                       {"filled", queue.filled_slots()}};
  if (queue.has_payload()) {
    tensors["image_tokens"] = queue.image_tokens;
    tensors["token_ids"] = queue.token_ids;
  }
  return tensors;
}

TensorMap batch_tensors(StepUnderTest& step, const data::Batch& batch,
                        const std::optional<losses::QueueView>& queue) {
  const Config& config = step.config();
  const auto seed = static_cast<std::uint64_t>(config.run.seed);
  const std::int64_t pairs = batch.image_ids.size(0);
  const language::TokenBatch tokens =
      step.tokenizer().encode_batch(batch.captions, config.language.max_tokens);
  TensorMap tensors = {{"pixels", batch.pixels},
                       {"image_ids", batch.image_ids},
                       {"input_ids", tokens.input_ids},
                       {"attention_mask", tokens.attention_mask},
                       {"is_cut", tokens.is_cut}};

  const c10::NoGradGuard no_grad;
  const losses::NoiseShape shape{0, pairs, pairs + (queue ? queue->image.size(0) : 0)};
  const auto noise = [&](losses::NegativeDirection direction) {
    return losses::gumbel_noise(seed, direction, step.step(), shape, step.compute().device);
  };
  tensors["text_noise"] = noise(losses::NegativeDirection::kText);
  tensors["image_noise"] = noise(losses::NegativeDirection::kImage);
  const losses::NegativeWeights weights = losses::itm_weights(
      step.model().encode_image(batch.pixels).embedding, step.model().encode_text(tokens).embedding,
      batch.image_ids, queue, step.model().itc_temperature(), step.collectives(),
      config.losses.itm.uniform_share);
  const losses::HardNegatives negatives =
      losses::draw_hard_negatives(weights, tensors["text_noise"], tensors["image_noise"]);
  tensors["negative_text"] = negatives.text_index;
  tensors["negative_image"] = negatives.image_index;

  const objectives::StepRows rows{seed, step.step(), 0, pairs};
  const objectives::QuerySides sides = objectives::draw_query_sides(config.memory, rows);
  tensors["query_keeps_image"] = sides.keeps_image;
  tensors["query_keeps_text"] = sides.keeps_text;
  tensors["caption_sees_memory"] = objectives::draw_captions_with_memory(config.memory, rows);
  return tensors;
}

nlohmann::json result_of(StepUnderTest& step, const data::Batch& batch) {
  const train::StepOutput output = step.differentiate(batch);
  nlohmann::json losses = {{"loss", output.loss.item<double>()}};
  for (const auto& [name, value] : output.metrics) {
    if (name.starts_with("loss_") || name == "memory_read_error" || name == "memory_address_kl") {
      losses[name] = value.item<double>();
    }
  }
  nlohmann::json norms = nlohmann::json::object();
  double total = 0;
  for (const train::ParameterGroup& group : step.optimizer().groups()) {
    double squares = 0;
    for (const at::Tensor& parameter : group.parameters) {
      if (parameter.grad().defined())
        squares += parameter.grad().to(at::kDouble).square().sum().item<double>();
    }
    norms[group.name] = norms.value(group.name, 0.0) + squares;
    total += squares;
  }
  for (auto& squares : norms) squares = std::sqrt(squares.get<double>());
  norms["total"] = std::sqrt(total);
  return {{"losses", losses}, {"gradient_norms", norms}};
}

nlohmann::json optimizer_groups(StepUnderTest& step) {
  nlohmann::json groups = nlohmann::json::array();
  for (std::size_t g = 0; g < step.optimizer().groups().size(); ++g) {
    const train::ParameterGroup& group = step.optimizer().groups()[g];
    groups.push_back({{"name", group.name},
                      {"learning_rate", step.learning_rates()[g]},
                      {"weight_decay", group.weight_decay},
                      {"parameters", group.names}});
  }
  return groups;
}

}  // namespace

void export_step(StepUnderTest& step, const Config& original, const fs::path& folder) {
  check(step);
  fs::create_directories(folder);
  nlohmann::json expected = {{"groups", optimizer_groups(step)}, {"batches", nlohmann::json::array()}};
  const std::optional<losses::QueueView> queue = queue_view(step);
  if (queue) write_safetensors(folder / "queue.safetensors", queue_tensors(*queue));
  for (std::size_t i = 0; i < step.batches().size(); ++i) {
    const data::Batch& batch = step.batches()[i];
    write_safetensors(folder / fmt::format("batch-{:02}.safetensors", i), batch_tensors(step, batch, queue));
    expected["batches"].push_back(result_of(step, batch));
  }
  write_safetensors(folder / "weights.safetensors", all_weights(step.model()));
  write_file_atomically(folder / "config.yaml", to_yaml(original));
  write_file_atomically(folder / "expected.json", expected.dump(1));
}

}  // namespace tessera::bench
