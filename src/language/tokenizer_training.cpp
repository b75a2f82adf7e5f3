#include "language/tokenizer_training.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "core/error.h"
#include "core/files.h"

namespace tessera::language {
namespace {

/// Five special tokens and one for each byte stand in every vocabulary.
constexpr std::int64_t kFixedPieces = 5 + 256;

/// Without what SentencePiece drops a sentence for: a tab, its own separator, and U+2585, its own mark of the
/// unknown.
void replace_reserved(std::string& sentence) {
  constexpr std::string_view kUnknown = "\u2585";
  std::replace_if(
      sentence.begin(), sentence.end(), [](char c) { return c == '\t' || c == '\n' || c == '\r'; }, ' ');
  for (std::size_t at = sentence.find(kUnknown); at != std::string::npos; at = sentence.find(kUnknown, at)) {
    sentence.replace(at, kUnknown.size(), " ");
  }
}

/// Where to part a text that is longer than `most` bytes: at a space, or else between two characters.
std::size_t end_of_part(std::string_view text, std::size_t most) {
  if (text.size() <= most) return text.size();
  const std::size_t space = text.rfind(' ', most);
  if (space != std::string_view::npos && space > 0) return space;
  constexpr std::size_t kLongestCharacter = 4;
  std::size_t end = most;
  const auto is_inside = [&] { return (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u; };
  while (end > most - kLongestCharacter && is_inside()) --end;
  return end;
}

/// Feeds a SentenceSource to SentencePiece, leaving out empty sentences, and long ones in parts. The library
/// keeps places within a word in 16 bits, one of them a sign: a longer word ends the program, or is looked
/// for outside of its memory. A word there is what stands between two spaces, in some scripts all of a text;
/// and all of it also where spaces are so rare that character_coverage leaves them out. So no sentence may be
/// as long. Parted at a space, it is learnt from as before: each sentence gets a leading space.
class SourceIterator : public sentencepiece::SentenceIterator {
 public:
  explicit SourceIterator(const SentenceSource& source) : source_(source) { Next(); }

  bool done() const override { return done_; }
  const std::string& value() const override { return part_; }
  sentencepiece::util::Status status() const override { return {}; }
  bool seen_any() const { return seen_any_; }

  void Next() override {
    while (!done_) {
      if (at_ >= sentence_.size() && !next_sentence()) return;
      constexpr std::size_t kLongestPart = 16'384;
      const std::string_view rest = std::string_view(sentence_).substr(at_);
      const std::size_t end = end_of_part(rest, kLongestPart);
      part_ = rest.substr(0, end);
      at_ += end + (end < rest.size() && rest[end] == ' ' ? 1 : 0);
      if (part_.find_first_not_of(' ') != std::string::npos) {
        seen_any_ = true;
        return;
      }
    }
  }

 private:
  bool next_sentence() {
    at_ = 0;
    sentence_.clear();
    done_ = !source_(sentence_);
    replace_reserved(sentence_);
    return !done_;
  }

  const SentenceSource& source_;
  std::string sentence_;
  std::size_t at_ = 0;  ///< where the next part begins
  std::string part_;
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
    fail("{}: SentencePiece can't make a vocabulary of {} from this data{}: {}", what, options.vocab_size,
         options.hard_vocab_limit ? " (--shrink takes the largest that it can)" : "", status.ToString());
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
