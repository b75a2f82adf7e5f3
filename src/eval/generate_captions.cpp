#include "eval/generate_captions.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "language/search.h"

namespace tessera::eval {

namespace {

language::SearchOptions search_options(const EvaluatedModel& evaluated, std::int64_t beams) {
  using Method = language::SearchOptions::Method;
  language::SearchOptions options;
  options.method = beams > 1 ? Method::kBeam : Method::kGreedy;
  options.beam_size = beams;
  options.max_tokens = evaluated.config.language.max_tokens - 1;  // bos is the prompt
  return options;
}

}  // namespace

std::vector<GeneratedCaption> generate_captions(const EvaluatedModel& evaluated,
                                                const at::Tensor& image_tokens, std::int64_t beams) {
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(evaluated.compute);
  const language::SearchOptions options = search_options(evaluated, beams);
  std::vector<GeneratedCaption> captions;
  for (const at::Tensor& tokens : image_tokens.split(evaluated.config.eval.batch_size)) {
    fusion::CaptionCondition condition;
    condition.image_states = evaluated.model.image_features(tokens.to(evaluated.compute.device)).states;
    const auto step = evaluated.model.decoder(condition);
    const at::Tensor prompt = at::full({tokens.size(0), 1}, evaluated.tokenizer.bos_id(), at::kLong);
    for (const language::GeneratedText& text : language::generate(*step, prompt, options)) {
      captions.push_back({evaluated.tokenizer.decode(text.ids), text.finished});
    }
  }
  return captions;
}

}  // namespace tessera::eval
