#include "language/beam_search.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "language/token_scores.h"

namespace tessera::language {
namespace {

/// A text that may go on.
struct Beam {
  std::vector<std::int64_t> ids;
  double log_probability = 0.0;
  double score = 0.0;        ///< sum after the repetition penalty
  std::int64_t parent = -1;  ///< its row in the last step
};

struct Candidate {
  double score;
  std::int64_t row;  ///< the beam's row in this step
  std::int64_t token;
  double log_probability;  ///< of the token
};

/// One row of the prompt.
struct Input {
  std::vector<Beam> running;
  std::vector<GeneratedText> finished;  ///< the best first, beam_size at most
  bool done = false;
};

/// The best tokens of each beam.
struct BestTokens {
  at::Tensor scores;             ///< [R, k] float32
  at::Tensor tokens;             ///< [R, k] int64
  at::Tensor log_probabilities;  ///< [R, k] float32
};

class BeamSearch {
 public:
  BeamSearch(const SearchOptions& options, const SpecialTokens& special, const at::Tensor& prompt,
             std::int64_t limit)
      : options_(options),
        eos_(special.eos),
        limit_(limit),
        prompt_(prompt),
        token_scores_(options, special),
        inputs_(static_cast<std::size_t>(prompt.size(0))) {
    std::int64_t row = 0;
    for (Input& input : inputs_) input.running.push_back(Beam{.ids = {}, .parent = row++});
  }

  std::vector<GeneratedText> run(DecodeStep& step) {
    at::Tensor logits = step.next_logits(prompt_);
    while (true) {
      advance(best_tokens(logits));
      const std::vector<const Beam*> beams = running();
      if (beams.empty()) break;
      std::vector<std::int64_t> rows;
      std::vector<std::int64_t> tokens;
      for (const Beam* beam : beams) {
        rows.push_back(beam->parent);
        tokens.push_back(beam->ids.back());
      }
      const std::int64_t before = logits.size(0);
      const at::Tensor order = at::tensor(rows, at::kLong);
      if (order.size(0) != before || !at::equal(order, at::arange(before))) step.reorder(order);
      logits = step.next_logits(at::tensor(tokens, at::kLong).unsqueeze(1));
    }
    std::vector<GeneratedText> best;
    for (Input& input : inputs_) {
      best.push_back(input.finished.empty() ? GeneratedText{} : std::move(input.finished.front()));
    }
    return best;
  }

 private:
  /// All beams that go on, in the order of this step's rows.
  std::vector<const Beam*> running() const {
    std::vector<const Beam*> beams;
    for (const Input& input : inputs_) {
      if (input.done) continue;
      for (const Beam& beam : input.running) beams.push_back(&beam);
    }
    return beams;
  }

  BestTokens best_tokens(const at::Tensor& logits) const {
    const at::Tensor log_probabilities = at::log_softmax(logits.to(at::kCPU, at::kFloat), 1);
    std::vector<std::int64_t> inputs;
    std::vector<const std::vector<std::int64_t>*> generated;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].done) continue;
      for (const Beam& beam : inputs_[i].running) {
        inputs.push_back(static_cast<std::int64_t>(i));
        generated.push_back(&beam.ids);
      }
    }
    const at::Tensor scores = token_scores_.constrained(log_probabilities, prompt_, inputs, generated);
    // More of one beam than an input keeps in all can't be among its best.
    const std::int64_t kept = std::min<std::int64_t>(2 * options_.beam_size, scores.size(1));
    auto [best, tokens] = scores.topk(kept, 1);
    return {.scores = best, .tokens = tokens, .log_probabilities = log_probabilities.gather(1, tokens)};
  }

  void advance(const BestTokens& best) {
    std::int64_t row = 0;
    for (Input& input : inputs_) {
      if (input.done) continue;
      const std::vector<Candidate> candidates = best_candidates(input, best, row);
      const std::int64_t first_row = row;
      row += static_cast<std::int64_t>(input.running.size());
      continue_with(input, candidates, first_row);
      input.done = is_done(input);
    }
  }

  /// The 2·beam_size best continuations of an input whose beams are the rows from first_row on.
  std::vector<Candidate> best_candidates(const Input& input, const BestTokens& best,
                                         std::int64_t first_row) const {
    const auto scores = best.scores.accessor<float, 2>();
    const auto tokens = best.tokens.accessor<std::int64_t, 2>();
    const auto log_probabilities = best.log_probabilities.accessor<float, 2>();
    std::vector<Candidate> candidates;
    for (std::size_t beam = 0; beam < input.running.size(); ++beam) {
      const std::int64_t row = first_row + static_cast<std::int64_t>(beam);
      for (std::int64_t i = 0; i < best.scores.size(1); ++i) {
        if (std::isinf(scores[row][i])) continue;
        candidates.push_back({.score = input.running[beam].score + scores[row][i],
                              .row = row,
                              .token = tokens[row][i],
                              .log_probability = log_probabilities[row][i]});
      }
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    const auto kept = static_cast<std::size_t>(2 * options_.beam_size);
    if (candidates.size() > kept) candidates.resize(kept);
    return candidates;
  }

  void continue_with(Input& input, const std::vector<Candidate>& candidates, std::int64_t first_row) const {
    const auto beam_size = static_cast<std::size_t>(options_.beam_size);
    std::vector<Beam> next;
    for (std::size_t rank = 0; rank < candidates.size(); ++rank) {
      const Candidate& candidate = candidates[rank];
      const Beam& from = input.running[static_cast<std::size_t>(candidate.row - first_row)];
      const bool at_eos = candidate.token == eos_;
      const bool at_limit = static_cast<std::int64_t>(from.ids.size()) + 1 == limit_;
      const bool ends = at_eos || at_limit;
      if (ends ? rank >= beam_size : next.size() >= beam_size) continue;
      Beam beam{.ids = from.ids,
                .log_probability = from.log_probability + candidate.log_probability,
                .score = candidate.score,
                .parent = candidate.row};
      beam.ids.push_back(candidate.token);
      if (ends) {
        finish(input, std::move(beam), at_eos);
      } else {
        next.push_back(std::move(beam));
      }
    }
    input.running = std::move(next);
  }

  /// Adds a beam to the finished ones, whose number is limited.
  void finish(Input& input, Beam beam, bool at_eos) const {
    GeneratedText text{.ids = {},
                       .log_probability = beam.log_probability,
                       .score = normalised(beam.score, beam.ids.size()),
                       .finished = at_eos};
    if (at_eos) beam.ids.pop_back();
    text.ids = std::move(beam.ids);
    const auto place = std::find_if(input.finished.begin(), input.finished.end(),
                                    [&](const GeneratedText& other) { return other.score < text.score; });
    input.finished.insert(place, std::move(text));
    if (is_full(input, 1)) input.finished.pop_back();
  }

  bool is_done(const Input& input) const {
    if (input.running.empty()) return true;
    if (!is_full(input, 0)) return false;
    if (options_.early_stopping) return true;
    const Beam& best = input.running.front();
    return normalised(best.score, best.ids.size()) <= input.finished.back().score;
  }

  /// Whether there are at least beam_size + more finished beams.
  bool is_full(const Input& input, std::int64_t more) const {
    return static_cast<std::int64_t>(input.finished.size()) >= options_.beam_size + more;
  }

  double normalised(double score, std::size_t length) const {
    return score / std::pow(static_cast<double>(length), options_.length_penalty);
  }

  const SearchOptions& options_;
  std::int64_t eos_;
  std::int64_t limit_;
  const at::Tensor& prompt_;
  TokenScores token_scores_;
  std::vector<Input> inputs_;
};

}  // namespace

std::vector<GeneratedText> beam_search(DecodeStep& step, const at::Tensor& prompt,
                                       const SearchOptions& options, const SpecialTokens& special,
                                       std::int64_t limit) {
  return BeamSearch(options, special, prompt, limit).run(step);
}

}  // namespace tessera::language
