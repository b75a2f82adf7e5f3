#include "inference/memory_recall.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <optional>
#include <utility>

#include "config/config.h"
#include "core/error.h"
#include "core/finite.h"
#include "inference/encode_inputs.h"
#include "inference/generate_captions.h"
#include "language/tokenizer.h"
#include "losses/loss_abilities.h"
#include "memory/episodic_memory.h"
#include "model/code_fingerprint.h"
#include "model/stage1_model.h"

namespace tessera::inference {

namespace {

std::string fingerprint_of(const TrainedModel& evaluated) {
  require_trained(evaluated.config.losses, losses::Ability::kMemory, "memory");
  return model::code_fingerprint(evaluated.model, evaluated.config, evaluated.tokenizer);
}

}  // namespace

at::Tensor memory_codes(const TrainedModel& evaluated, const at::Tensor& pixels,
                        const std::vector<std::string>& captions, const std::vector<std::string>& names) {
  TORCH_CHECK(!evaluated.model.is_training(), "memory_codes: the model must be in evaluation mode");
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(evaluated.compute);
  std::optional<model::ImageFeatures> image;
  std::optional<model::TextFeatures> text;
  if (pixels.defined()) image = encode_images(evaluated, pixels, names);
  if (!captions.empty()) text = encode_texts(evaluated, captions);
  const at::Tensor codes =
      evaluated.model
          .pair_codes(evaluated.model.pair_vectors(image ? &*image : nullptr, text ? &*text : nullptr))
          .to(at::kCPU, at::kFloat);
  check_computed(codes, "the pair's code", names);
  return codes;
}

std::vector<std::string> decode_codes(const TrainedModel& evaluated, const at::Tensor& codes) {
  std::vector<std::string> texts;
  for (const at::Tensor& batch : codes.split(evaluated.config.eval.batch_size)) {
    fusion::CaptionCondition condition;
    condition.memory = batch.to(evaluated.compute.device);
    for (GeneratedCaption& caption : decode_captions(evaluated, condition, /*beams=*/1)) {
      texts.push_back(std::move(caption.text));
    }
  }
  return texts;
}

memory::MemoryStore new_memory(const TrainedModel& evaluated) {
  return {evaluated.model.memory()->prior_mean, fingerprint_of(evaluated)};
}

memory::MemoryStore load_memory(const TrainedModel& evaluated, const std::filesystem::path& file) {
  return memory::MemoryStore::load(file, fingerprint_of(evaluated));
}

Recall recall(const TrainedModel& evaluated, const memory::MemoryStore& store, const at::Tensor& query,
              std::int64_t nearest) {
  if (store.list().empty()) fail("memory: nothing has been written yet");
  Recall result;
  result.recollection = store.recall(query, nearest);
  result.answer = decode_codes(evaluated, result.recollection.code.unsqueeze(0)).front();
  return result;
}

}  // namespace tessera::inference
