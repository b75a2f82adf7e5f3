#include "inference/memory_recall.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <optional>
#include <utility>

#include "config/config.h"
#include "core/autocast.h"
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

std::string fingerprint_of(const TrainedModel& trained) {
  require_trained(trained.config.losses, losses::Ability::kMemory, "memory");
  return model::code_fingerprint(trained.model, trained.config, trained.tokenizer);
}

}  // namespace

at::Tensor memory_codes(const TrainedModel& trained, const at::Tensor& pixels,
                        const std::vector<std::string>& captions, const std::vector<std::string>& names) {
  TORCH_CHECK(!trained.model.is_training(), "memory_codes: the model must be in evaluation mode");
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  std::optional<model::ImageFeatures> image;
  std::optional<model::TextFeatures> text;
  if (pixels.defined()) image = encode_images(trained, pixels, names);
  if (!captions.empty()) text = encode_texts(trained, captions);
  const at::Tensor codes =
      trained.model.pair_codes(trained.model.pair_vectors(image ? &*image : nullptr, text ? &*text : nullptr))
          .to(at::kCPU, at::kFloat);
  check_computed(codes, "the pair's code", names);
  return codes;
}

std::vector<std::string> decode_codes(const TrainedModel& trained, const at::Tensor& codes) {
  std::vector<std::string> texts;
  for (const at::Tensor& batch : codes.split(trained.config.eval.batch_size)) {
    fusion::CaptionCondition condition;
    condition.memory = batch.to(trained.compute.device);
    for (GeneratedCaption& caption : decode_captions(trained, condition, /*beams=*/1)) {
      texts.push_back(std::move(caption.text));
    }
  }
  return texts;
}

memory::MemoryStore new_memory(const TrainedModel& trained) {
  return {trained.model.memory()->prior_mean, fingerprint_of(trained)};
}

memory::MemoryStore load_memory(const TrainedModel& trained, const std::filesystem::path& file) {
  return memory::MemoryStore::load(file, fingerprint_of(trained));
}

Recall recall(const TrainedModel& trained, const memory::MemoryStore& store, const at::Tensor& query,
              std::int64_t nearest) {
  if (store.list().empty()) fail("memory: nothing has been written yet");
  Recall result;
  result.recollection = store.recall(query, nearest);
  result.answer = decode_codes(trained, result.recollection.code.unsqueeze(0)).front();
  return result;
}

}  // namespace tessera::inference
