#include "language/tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/files.h"

namespace tessera::language {
namespace {

/// Five special tokens and one for each byte stand in every vocabulary.
constexpr std::int64_t kFixedPieces = 5 + 256;

/// Feeds a SentenceSource to SentencePiece, leaving out empty sentences.
class SourceIterator : public sentencepiece::SentenceIterator {
 public:
  explicit SourceIterator(const SentenceSource& source) : source_(source) { Next(); }

  bool done() const override { return done_; }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }
  bool seen_any() const { return seen_any_; }

  void Next() override {
    while (!done_) {
      if (!source_(sentence_)) {
        done_ = true;
        return;
      }
      // SentencePiece drops a training sentence that holds a tab, its own separator.
      std::replace_if(
          sentence_.begin(), sentence_.end(), [](char c) { return c == '\t' || c == '\n' || c == '\r'; },
          ' ');
      if (sentence_.find_first_not_of(' ') != std::string::npos) {
        seen_any_ = true;
        return;
      }
    }
  }

 private:
  const SentenceSource& source_;
  std::string sentence_;
  bool done_ = false;
  bool seen_any_ = false;
};

std::unordered_map<std::string, std::string> trainer_arguments(const TokenizerTrainingOptions& options) {
  return {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"character_coverage", fmt::format("{}", options.character_coverage)},
      {"hard_vocab_limit", options.hard_vocab_limit ? "true" : "false"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "true"},
      {"remove_extra_whitespaces", "false"},
      {"byte_fallback", "true"},
      {"pad_id", std::to_string(Tokenizer::kPadId)},
      {"unk_id", std::to_string(Tokenizer::kUnkId)},
      {"bos_id", std::to_string(Tokenizer::kBosId)},
      {"eos_id", std::to_string(Tokenizer::kEosId)},
      // A control symbol takes the first free id, 4, and is never matched in text.
      {"control_symbols", Tokenizer::kMaskPiece},
      // Longer sentences would be dropped without a word.
      {"max_sentence_length", "1073741824"},
      {"input_sentence_size", "0"},
      {"minloglevel", "3"},
  };
}

}  // namespace

Tokenizer train_tokenizer(const SentenceSource& next_sentence, const std::filesystem::path& path,
                          const TokenizerTrainingOptions& options) {
  const std::string what = fmt::format("training the tokenizer {}", path.string());
  if (options.vocab_size <= kFixedPieces || options.vocab_size > (std::int64_t{1} << 24)) {
    fail("{}: vocab_size is {}, it must be above {} (the special tokens and 256 bytes) and at most {}", what,
         options.vocab_size, kFixedPieces, std::int64_t{1} << 24);
  }
  if (!(options.character_coverage > 0.0 && options.character_coverage <= 1.0)) {
    fail("{}: character_coverage is {}, it must be above 0 and at most 1", what, options.character_coverage);
  }
  SourceIterator sentences(next_sentence);
  if (!sentences.seen_any()) fail("{}: the data holds no text", what);
  std::string model_bytes;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(trainer_arguments(options), &sentences, &model_bytes);
  if (!status.ok()) {
    fail("{}: SentencePiece can't make a vocabulary of {} from this data: {}", what, options.vocab_size,
         status.ToString());
  }
  Tokenizer tokenizer = Tokenizer::from_bytes(model_bytes, path.string());
  write_file_atomically(path, model_bytes);
  return tokenizer;
}

Tokenizer train_tokenizer(const std::vector<std::string>& sentences, const std::filesystem::path& path,
                          const TokenizerTrainingOptions& options) {
  std::size_t next = 0;
  return train_tokenizer(
      [&](std::string& sentence) {
        if (next == sentences.size()) return false;
        sentence = sentences[next++];
        return true;
      },
      path, options);
}

}  // namespace tessera::language
