#include "inference/generate_captions.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <utility>

#include "config/config.h"
#include "core/autocast.h"
#include "core/error.h"
#include "language/decode_step.h"
#include "language/tokenizer.h"
#include "model/stage1_model.h"

namespace tessera::inference {

namespace {

/// bos and the prompt's tokens. [1, t]
at::Tensor prompt_ids(const TrainedModel& trained, const std::string& prompt) {
  std::vector<std::int64_t> ids = trained.tokenizer.encode(prompt);
  ids.pop_back();  // eos
  const std::int64_t longest = trained.config.language.max_tokens;
  if (static_cast<std::int64_t>(ids.size()) >= longest) {
    fail("the prompt {} has {} tokens: it leaves no room in captions of language.max_tokens = {}",
         quoted(prompt), ids.size(), longest);
  }
  return at::tensor(ids, at::kLong).unsqueeze(0);
}

}  // namespace

CaptionOptions CaptionOptions::beam_search(std::int64_t beams) {
  using Method = language::SearchOptions::Method;
  CaptionOptions options;
  options.search.method = beams > 1 ? Method::kBeam : Method::kGreedy;
  options.search.beam_size = beams;
  return options;
}

std::vector<GeneratedCaption> decode_captions(const TrainedModel& trained,
                                              const fusion::CaptionCondition& condition,
                                              const CaptionOptions& options) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  const at::Tensor prompt = prompt_ids(trained, options.prompt);
  language::SearchOptions search = options.search;
  search.max_tokens = options.max_tokens.value_or(trained.config.language.max_tokens - prompt.size(1));
  const auto step = trained.model.decoder(condition);
  std::vector<GeneratedCaption> captions;
  for (const language::GeneratedText& text :
       language::generate(*step, prompt.repeat({condition.batch_size(), 1}), search)) {
    const auto* begin = prompt.const_data_ptr<std::int64_t>();
    std::vector<std::int64_t> ids(begin, begin + prompt.numel());
    ids.insert(ids.end(), text.ids.begin(), text.ids.end());
    captions.push_back({trained.tokenizer.decode(ids), text.finished, text.log_probability,
                        static_cast<std::int64_t>(text.ids.size())});
  }
  return captions;
}

std::vector<GeneratedCaption> generate_captions(const TrainedModel& trained, const at::Tensor& image_tokens,
                                                std::int64_t beams) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  std::vector<GeneratedCaption> captions;
  for (const at::Tensor& tokens : image_tokens.split(trained.config.eval.batch_size)) {
    fusion::CaptionCondition condition;
    condition.image_states = trained.model.image_features(tokens.to(trained.compute.device)).states;
    for (GeneratedCaption& caption : decode_captions(trained, condition, beams))
      captions.push_back(std::move(caption));
  }
  return captions;
}

}  // namespace tessera::inference
