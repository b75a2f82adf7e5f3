#include "eval/caption_scores.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"

namespace tessera::eval {

namespace {

constexpr std::size_t kMaxOrder = 4;

using Words = std::vector<std::string>;
/// Number of occurrences by n-gram, its words joined by spaces.
using NgramCounts = std::unordered_map<std::string, double>;

/// A sentence as the scores see it.
struct Sentence {
  Words words;
  std::array<NgramCounts, kMaxOrder> ngrams;  ///< of order 1 … 4

  std::int64_t length() const { return static_cast<std::int64_t>(words.size()); }
};

/// A caption with the references of its image.
struct Pair {
  Sentence candidate;
  std::vector<Sentence> references;
};

Sentence sentence_of(const std::string& text) {
  Sentence sentence;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) sentence.words.push_back(word);
  for (std::size_t begin = 0; begin < sentence.words.size(); ++begin) {
    std::string ngram;
    for (std::size_t order = 0; order < kMaxOrder && begin + order < sentence.words.size(); ++order) {
      if (order > 0) ngram += ' ';
      ngram += sentence.words[begin + order];
      ++sentence.ngrams[order][ngram];
    }
  }
  return sentence;
}

std::vector<Pair> pairs_of(const std::vector<std::string>& candidates,
                           const std::vector<std::vector<std::string>>& references) {
  TORCH_CHECK(!candidates.empty() && candidates.size() == references.size(),
              "caption scores: as many captions as images expected, got ", candidates.size(), " and ",
              references.size());
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    Pair pair{sentence_of(candidates[i]), {}};
    for (const std::string& reference : references[i]) pair.references.push_back(sentence_of(reference));
    if (pair.references.empty()) fail("caption scores: caption {} has no reference", i);
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

double count_in(const NgramCounts& counts, const std::string& ngram) {
  const auto found = counts.find(ngram);
  return found == counts.end() ? 0 : found->second;
}

/// The reference length closest to the candidate's; of two equally close ones the shorter.
std::int64_t closest_length(const Pair& pair) {
  const std::int64_t length = pair.candidate.length();
  std::int64_t closest = pair.references.front().length();
  for (const Sentence& reference : pair.references) {
    const std::int64_t difference = std::abs(reference.length() - length);
    const std::int64_t best = std::abs(closest - length);
    if (difference < best || (difference == best && reference.length() < closest))
      closest = reference.length();
  }
  return closest;
}

/// N-grams of one order that the candidate shares with its references, each at most as often as in the
/// reference that has it most often.
double clipped_matches(const Pair& pair, std::size_t order) {
  double matches = 0;
  for (const auto& [ngram, count] : pair.candidate.ngrams[order]) {
    double allowed = 0;
    for (const Sentence& reference : pair.references)
      allowed = std::max(allowed, count_in(reference.ngrams[order], ngram));
    matches += std::min(count, allowed);
  }
  return matches;
}

std::array<double, kMaxOrder> corpus_bleu(const std::vector<Pair>& pairs) {
  // pycocoevalcap's way around divisions by zero; without n-grams of an order the score is tiny, not 0.
  constexpr double kSmall = 1e-9, kTiny = 1e-15;
  std::array<double, kMaxOrder> bleu{};
  double candidate_length = 0, reference_length = 0;
  for (const Pair& pair : pairs) {
    candidate_length += static_cast<double>(pair.candidate.length());
    reference_length += static_cast<double>(closest_length(pair));
  }
  const double ratio = (candidate_length + kTiny) / (reference_length + kSmall);
  const double brevity_penalty = ratio < 1 ? std::exp(1 - 1 / ratio) : 1;
  double product = 1;
  for (std::size_t order = 0; order < kMaxOrder; ++order) {
    double matches = 0, ngrams = 0;
    for (const Pair& pair : pairs) {
      matches += clipped_matches(pair, order);
      ngrams += static_cast<double>(
          std::max<std::int64_t>(0, pair.candidate.length() - static_cast<std::int64_t>(order)));
    }
    product *= (matches + kTiny) / (ngrams + kSmall);
    bleu[order] = std::pow(product, 1.0 / static_cast<double>(order + 1)) * brevity_penalty;
  }
  return bleu;
}

std::size_t longest_common_subsequence(const Words& a, const Words& b) {
  std::vector<std::size_t> row(b.size() + 1, 0);
  for (const std::string& word : a) {
    std::size_t diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

/// Precision and recall are each the best over the references, as in pycocoevalcap.
double rouge_l(const Pair& pair) {
  constexpr double kBetaSquared = 1.2 * 1.2;
  double precision = 0, recall = 0;
  for (const Sentence& reference : pair.references) {
    const auto common =
        static_cast<double>(longest_common_subsequence(pair.candidate.words, reference.words));
    if (common == 0) continue;
    precision = std::max(precision, common / static_cast<double>(pair.candidate.length()));
    recall = std::max(recall, common / static_cast<double>(reference.length()));
  }
  if (precision == 0) return 0;
  return (1 + kBetaSquared) * precision * recall / (recall + kBetaSquared * precision);
}

/// CIDEr-D over a corpus of references.
class CiderD {
 public:
  explicit CiderD(const std::vector<Pair>& pairs) : log_images_(std::log(static_cast<double>(pairs.size()))) {
    for (const Pair& pair : pairs) {
      for (std::size_t order = 0; order < kMaxOrder; ++order) {
        std::unordered_set<std::string> of_image;
        for (const Sentence& reference : pair.references) {
          for (const auto& [ngram, count] : reference.ngrams[order]) of_image.insert(ngram);
        }
        for (const std::string& ngram : of_image) ++document_frequency_[order][ngram];
      }
    }
  }

  double score(const Pair& pair) const {
    double sum = 0;
    for (std::size_t order = 0; order < kMaxOrder; ++order) {
      const Weights candidate = weights(pair.candidate, order);
      for (const Sentence& reference : pair.references) {
        sum += similarity(candidate, weights(reference, order)) * length_penalty(pair.candidate, reference);
      }
    }
    return 10 * sum / (kMaxOrder * static_cast<double>(pair.references.size()));
  }

 private:
  /// tf-idf by n-gram, and its Euclidean norm.
  struct Weights {
    NgramCounts values;
    double norm = 0;
  };

  Weights weights(const Sentence& sentence, std::size_t order) const {
    Weights result;
    double squares = 0;
    for (const auto& [ngram, count] : sentence.ngrams[order]) {
      const double frequency = std::max(1.0, count_in(document_frequency_[order], ngram));
      const double weight = count * (log_images_ - std::log(frequency));
      result.values[ngram] = weight;
      squares += weight * weight;
    }
    result.norm = std::sqrt(squares);
    return result;
  }

  /// Cosine, an n-gram of the candidate counting at most as much as in the reference.
  static double similarity(const Weights& candidate, const Weights& reference) {
    if (candidate.norm == 0 || reference.norm == 0) return 0;
    double product = 0;
    for (const auto& [ngram, weight] : candidate.values) {
      const double other = count_in(reference.values, ngram);
      product += std::min(weight, other) * other;
    }
    return product / (candidate.norm * reference.norm);
  }

  /// Gaussian in the difference of lengths, σ = 6. Lengths are numbers of bigrams, as in pycocoevalcap.
  static double length_penalty(const Sentence& candidate, const Sentence& reference) {
    constexpr double kSigma = 6;
    const auto bigrams = [](const Sentence& sentence) {
      return std::max<std::int64_t>(0, sentence.length() - 1);
    };
    const auto difference = static_cast<double>(bigrams(candidate) - bigrams(reference));
    return std::exp(-difference * difference / (2 * kSigma * kSigma));
  }

  double log_images_;
  std::array<NgramCounts, kMaxOrder> document_frequency_;
};

}  // namespace

CaptionScores caption_scores(const std::vector<std::string>& candidates,
                             const std::vector<std::vector<std::string>>& references) {
  const std::vector<Pair> pairs = pairs_of(candidates, references);
  const CiderD cider(pairs);
  CaptionScores scores;
  scores.bleu = corpus_bleu(pairs);
  for (const Pair& pair : pairs) {
    scores.rouge_l += rouge_l(pair);
    scores.cider_d += cider.score(pair);
  }
  scores.rouge_l /= static_cast<double>(pairs.size());
  scores.cider_d /= static_cast<double>(pairs.size());
  return scores;
}

std::string tokenize_caption(std::string_view caption) {
  std::string tokens;
  const auto part_of_word = [&](std::size_t at) {
    if (at >= caption.size()) return false;
    const auto byte = static_cast<unsigned char>(caption[at]);
    return std::isalnum(byte) != 0 || byte >= 0x80;
  };
  bool word_ended = false;
  for (std::size_t i = 0; i < caption.size(); ++i) {
    const bool joins =
        (caption[i] == '\'' || caption[i] == '-') && i > 0 && part_of_word(i - 1) && part_of_word(i + 1);
    if (!joins && !part_of_word(i)) {
      word_ended = true;
      continue;
    }
    if (word_ended && !tokens.empty()) tokens += ' ';
    word_ended = false;
    tokens += static_cast<char>(std::tolower(static_cast<unsigned char>(caption[i])));
  }
  return tokens;
}

void add_to_json(nlohmann::json& json, const CaptionScores& scores) {
  for (std::size_t order = 0; order < kMaxOrder; ++order)
    json[fmt::format("bleu_{}", order + 1)] = scores.bleu[order];
  json["rouge_l"] = scores.rouge_l;
  json["cider_d"] = scores.cider_d;
}

}  // namespace tessera::eval
