#include "language/search.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "language/beam_search.h"
#include "language/token_scores.h"

namespace tessera::language {
namespace {

/// Chooses a token for each of several rows.
class TokenChoice {
 public:
  explicit TokenChoice(const SearchOptions& options) : options_(options) {}

  /// @param scores [R, V] float32 on the CPU, −inf where a token is no choice
  /// @param rows   each row's number in the prompt; position: how many tokens were drawn before
  /// @return [R] int64
  at::Tensor choose(const at::Tensor& scores, const std::vector<std::int64_t>& rows,
                    std::uint64_t position) const {
    if (options_.method != SearchOptions::Method::kSample) return scores.argmax(1);
    return draw(scores, rows, position);
  }

 private:
  /// By the inverse of the distribution function over the kept tokens, the most probable first.
  at::Tensor draw(const at::Tensor& scores, const std::vector<std::int64_t>& rows,
                  std::uint64_t position) const {
    const std::int64_t vocabulary = scores.size(1);
    const std::int64_t candidates = options_.top_k > 0 ? std::min(options_.top_k, vocabulary) : vocabulary;
    const auto [sorted, tokens] = scores.to(at::kDouble)
                                      .div(options_.temperature)
                                      .sort(/*stable=*/true, /*dim=*/1, /*descending=*/true);
    const at::Tensor probabilities = sorted.slice(1, 0, candidates).softmax(1);
    const at::Tensor cumulative = probabilities.cumsum(1);
    // A token is in while those before it don't hold the share yet; the first is always in.
    at::Tensor kept = (cumulative - probabilities).lt(options_.top_p).logical_and(probabilities.gt(0));
    const at::Tensor last = kept.sum(1, /*keepdim=*/true).clamp_min(1).sub(1);
    const at::Tensor target = uniform(rows, position).unsqueeze(1) * cumulative.gather(1, last);
    const at::Tensor place = at::minimum(cumulative.le(target).sum(1, /*keepdim=*/true), last);
    return tokens.gather(1, place).squeeze(1);
  }

  /// [R] float64 in [0, 1), each from its row's own stream.
  at::Tensor uniform(const std::vector<std::int64_t>& rows, std::uint64_t position) const {
    at::Tensor values = at::empty({static_cast<std::int64_t>(rows.size())}, at::kDouble);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::uint64_t stream = options_.first_stream + static_cast<std::uint64_t>(rows[i]);
      values[static_cast<std::int64_t>(i)] =
          CounterRandom(options_.seed, RandomPurpose::kGeneration, position, stream).uniform();
    }
    return values;
  }

  const SearchOptions& options_;
};

/// Greedy search and sampling: every row goes its own way.
std::vector<GeneratedText> row_by_row(DecodeStep& step, const at::Tensor& prompt,
                                      const SearchOptions& options, const SpecialTokens& special,
                                      std::int64_t limit) {
  const TokenScores token_scores(options, special);
  const TokenChoice choice(options);
  std::vector<GeneratedText> texts(static_cast<std::size_t>(prompt.size(0)));
  std::vector<std::int64_t> open;  // rows of the prompt that go on
  for (std::int64_t row = 0; row < prompt.size(0); ++row) open.push_back(row);
  at::Tensor input = prompt;
  for (std::int64_t position = 0; position < limit; ++position) {
    const at::Tensor logits = step.next_logits(input).to(at::kCPU, at::kFloat);
    std::vector<const std::vector<std::int64_t>*> generated;
    for (const std::int64_t row : open) generated.push_back(&texts[static_cast<std::size_t>(row)].ids);
    const at::Tensor scores = token_scores.constrained(logits, prompt, open, generated);
    const at::Tensor tokens = choice.choose(scores, open, static_cast<std::uint64_t>(position));
    const at::Tensor log_probabilities = at::log_softmax(logits, 1).gather(1, tokens.unsqueeze(1));

    std::vector<std::int64_t> still_open;
    std::vector<std::int64_t> kept;
    for (std::size_t i = 0; i < open.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      GeneratedText& text = texts[static_cast<std::size_t>(open[i])];
      text.log_probability += log_probabilities[at][0].item<double>();
      const auto token = tokens[at].item<std::int64_t>();
      text.finished = token == special.eos;
      if (text.finished) continue;
      text.ids.push_back(token);
      still_open.push_back(open[i]);
      kept.push_back(at);
    }
    if (still_open.empty() || position + 1 == limit) break;
    const at::Tensor rows = at::tensor(kept, at::kLong);
    if (kept.size() < open.size()) step.reorder(rows);
    input = tokens.index_select(0, rows).unsqueeze(1);
    open = std::move(still_open);
  }
  for (GeneratedText& text : texts) text.score = text.log_probability;
  return texts;
}

}  // namespace

void SearchOptions::check(const std::string& source) const {
  const auto require = [&](bool holds, const char* name, auto value, const char* accepted) {
    if (!holds) fail("{}: {} is {}, it must be {}", source, name, value, accepted);
  };
  require(max_tokens >= 0, "max_tokens", max_tokens, "at least 0");
  require(min_tokens >= 0, "min_tokens", min_tokens, "at least 0");
  require(min_tokens <= max_tokens, "min_tokens", min_tokens, "at most max_tokens");
  require(beam_size >= 1 && beam_size <= 4096, "beam_size", beam_size, "from 1 to 4096");
  require(std::isfinite(length_penalty), "length_penalty", length_penalty, "finite");
  require(std::isfinite(temperature) && temperature > 0.0, "temperature", temperature, "above 0");
  require(top_p >= 0.0 && top_p <= 1.0, "top_p", top_p, "from 0 to 1");
  require(top_k >= 0, "top_k", top_k, "at least 0 (0: all tokens)");
  require(std::isfinite(repetition_penalty) && repetition_penalty > 0.0, "repetition_penalty",
          repetition_penalty, "above 0");
}

std::vector<GeneratedText> generate(DecodeStep& step, const at::Tensor& prompt, const SearchOptions& options,
                                    const SpecialTokens& special) {
  options.check("generation");
  TORCH_CHECK(prompt.dim() == 2 && prompt.size(1) >= 1 && prompt.scalar_type() == at::kLong,
              "the prompt is [N, t] int64 with t at least 1, got ", prompt.sizes(), " ",
              prompt.scalar_type());
  if (prompt.size(1) > step.max_length()) {
    fail("generation: the prompt has {} tokens, the model can hold {}", prompt.size(1), step.max_length());
  }
  // The last token that is generated isn't given to the model any more.
  const std::int64_t limit = std::min(options.max_tokens, step.max_length() - prompt.size(1) + 1);
  if (limit == 0 || prompt.size(0) == 0) {
    return std::vector<GeneratedText>(static_cast<std::size_t>(prompt.size(0)));
  }
  const c10::NoGradGuard no_grad;
  const at::Tensor on_cpu = prompt.cpu();
  // As in Hugging Face, one beam is greedy search: the beam's rule for stopping would go on after an eos.
  if (options.method == SearchOptions::Method::kBeam && options.beam_size > 1) {
    return beam_search(step, on_cpu, options, special, limit);
  }
  return row_by_row(step, on_cpu, options, special, limit);
}

}  // namespace tessera::language
