#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "language/language_config.h"
#include "language/tokenizer.h"

namespace tessera::language {

struct TokenizerTrainingOptions {
  std::int64_t vocab_size = LanguageConfig{}.vocab_size;
  /// Share of the data's characters that get a token of their own; rarer ones are spelt in bytes.
  double character_coverage = 0.9995;
  /// true: data too small for vocab_size is an Error that says how large it may be.
  /// false: the vocabulary is then as large as the data allows.
  bool hard_vocab_limit = true;
};

/// The next sentence into its argument, or false at the end. Line breaks and tabs within one separate words.
using SentenceSource = std::function<bool(std::string&)>;

/// Trains a SentencePiece byte-pair tokenizer (Kudo and Richardson 2018) with Tessera's special ids: text is
/// taken as it is (no normalisation, runs of spaces kept), each text gets a leading space, what has no token
/// is spelt in bytes. A function of data and options alone. Nothing is left out of the data, so it has to fit
/// into memory; what has no space in 16,384 bytes is learnt from in parts. Quiet, which sets SentencePiece's
/// log level for the whole process.
///
/// @param path  where the model is written, atomically; its folder exists
/// @return the tokenizer as loading the file gives it
/// @throws Error where the data is empty, the vocabulary too large or too small for it, or the file can't be
/// written
Tokenizer train_tokenizer(const SentenceSource& next_sentence, const std::filesystem::path& path,
                          const TokenizerTrainingOptions& options = {});
Tokenizer train_tokenizer(const std::vector<std::string>& sentences, const std::filesystem::path& path,
                          const TokenizerTrainingOptions& options = {});

}  // namespace tessera::language
