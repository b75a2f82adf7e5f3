#include "inference/word_spans.h"

#include <gmock/gmock.h>

namespace tessera::inference {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> found;
  for (const WordSpan& span : content_words(text)) {
    EXPECT_EQ(text.substr(span.begin, span.end - span.begin), span.word);
    found.push_back(span.word);
  }
  return found;
}

TEST(ContentWords, LeaveOutWhatNamesNothing) {
  EXPECT_THAT(words("A small red circle is left of a large blue square."),
              ElementsAre("small", "red", "circle", "left", "large", "blue", "square"));
  EXPECT_THAT(words("the dog's caf\u00e9, 2 trees"), ElementsAre("dog's", "caf\u00e9", "2", "trees"));
  EXPECT_THAT(words("red, red"), ElementsAre("red", "red"));
  EXPECT_THAT(words(" .,; THE and "), IsEmpty());
  EXPECT_THAT(words(""), IsEmpty());
}

TEST(FindPhrase, TakesWholeWordsInAnyCase) {
  const std::string text = "A bored Red circle";
  const auto found = find_phrase(text, "red");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->begin, 8u);  // not that of "bored"
  EXPECT_EQ(found->word, "Red");
  EXPECT_EQ(find_phrase(text, "red circle")->end, text.size());
  EXPECT_EQ(find_phrase(text, "red cir"), std::nullopt);
  EXPECT_EQ(find_phrase(text, "circle red"), std::nullopt);
  EXPECT_EQ(find_phrase(text, ""), std::nullopt);
  EXPECT_EQ(find_phrase("", "red"), std::nullopt);
  EXPECT_EQ(find_phrase("over there.", ".")->begin, 10u);
}

TEST(TokenPositions, AreThoseThatShareAByte) {
  // "a red circle": bos, "a", " red", " cir", "cle", eos
  const language::EncodedText encoded{{2, 10, 11, 12, 13, 3},
                                      {{0, 0}, {0, 1}, {1, 5}, {5, 9}, {9, 12}, {12, 12}}};
  EXPECT_THAT(token_positions(encoded, {"red", 2, 5}), ElementsAre(2));
  EXPECT_THAT(token_positions(encoded, {"circle", 6, 12}), ElementsAre(3, 4));
  EXPECT_THAT(token_positions(encoded, {"red circle", 2, 12}), ElementsAre(2, 3, 4));
  EXPECT_THAT(token_positions(encoded, {"a", 0, 1}), ElementsAre(1));
  EXPECT_THAT(token_positions(encoded, {"cut off", 20, 27}), IsEmpty());
}

}  // namespace
}  // namespace tessera::inference
