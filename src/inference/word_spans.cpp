#include "inference/word_spans.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/utf8.h"

namespace tessera::inference {

namespace {

constexpr std::array<std::string_view, 58> kFunctionWords = {
    "a",  "about", "also", "an",   "and",   "are",  "as",    "at",   "be",    "been", "being", "but",
    "by", "can",   "do",   "does", "for",   "from", "had",   "has",  "have",  "he",   "her",   "his",
    "i",  "if",    "in",   "into", "is",    "it",   "its",   "of",   "on",    "or",   "our",   "she",
    "so", "some",  "such", "than", "that",  "the",  "their", "them", "there", "they", "this",  "those",
    "to", "was",   "we",   "were", "which", "who",  "while", "with", "would", "you"};

bool is_word_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
         (byte >= 'A' && byte <= 'Z') || byte == '\'';
}

bool is_function_word(const std::string& word) {
  return std::find(kFunctionWords.begin(), kFunctionWords.end(), lower_case(word)) != kFunctionWords.end();
}

}  // namespace

std::vector<WordSpan> content_words(const std::string& text) {
  std::vector<WordSpan> words;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    while (end < text.size() && is_word_byte(text[end])) ++end;
    if (end > begin) {
      const std::string word = text.substr(begin, end - begin);
      if (!is_function_word(word)) words.push_back({word, begin, end});
    }
    begin = std::max(end, begin + 1);
  }
  return words;
}

std::optional<WordSpan> find_phrase(const std::string& text, const std::string& phrase) {
  if (phrase.empty()) return std::nullopt;
  const std::string where = lower_case(text), what = lower_case(phrase);
  for (std::size_t begin = where.find(what); begin != std::string::npos;
       begin = where.find(what, begin + 1)) {
    const std::size_t end = begin + what.size();
    // A boundary is no boundary where a word goes on on both sides of it.
    const bool starts = begin == 0 || !is_word_byte(where[begin - 1]) || !is_word_byte(where[begin]);
    const bool ends = end == where.size() || !is_word_byte(where[end]) || !is_word_byte(where[end - 1]);
    if (starts && ends) return WordSpan{text.substr(begin, what.size()), begin, end};
  }
  return std::nullopt;
}

std::vector<std::int64_t> token_positions(const language::EncodedText& encoded, const WordSpan& span) {
  std::vector<std::int64_t> positions;
  for (std::size_t i = 0; i < encoded.spans.size(); ++i) {
    const language::TokenSpan& token = encoded.spans[i];
    if (token.begin < span.end && token.end > span.begin && token.begin < token.end)
      positions.push_back(static_cast<std::int64_t>(i));
  }
  return positions;
}

}  // namespace tessera::inference
