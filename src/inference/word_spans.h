#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "language/tokenizer.h"

namespace tessera::inference {

/// A part of a text, in bytes.
struct WordSpan {
  std::string word;
  std::size_t begin = 0;
  std::size_t end = 0;  ///< past the last byte
};

/// The words of an English text that may name something to be seen: all but articles, conjunctions, pronouns,
/// auxiliary verbs and the prepositions that say little about a place. A word is a run of letters, digits,
/// apostrophes and bytes outside ASCII.
std::vector<WordSpan> content_words(const std::string& text);

/// The first place where a phrase stands in a text as whole words; the case of ASCII letters does not matter.
/// Nothing where it stands nowhere, or is empty.
std::optional<WordSpan> find_phrase(const std::string& text, const std::string& phrase);

/// The tokens that share a byte with a part of the text, as positions in the sequence. None where the
/// sequence was cut before it.
std::vector<std::int64_t> token_positions(const language::EncodedText& encoded, const WordSpan& span);

}  // namespace tessera::inference
