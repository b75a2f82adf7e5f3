#include "language/tokenizer_training.h"

#include <gmock/gmock.h>

#include "core/files.h"
#include "tests/language/fixtures.h"

namespace tessera::language {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(TrainTokenizer, IsAFunctionOfDataAndOptions) {
  const TemporaryFolder folder;
  const auto train = [&](const char* name, std::int64_t size) {
    return train_tokenizer(caption_corpus(), folder.path / name, {.vocab_size = size}).model_bytes();
  };
  const std::string first = train("first.model", 350);
  EXPECT_EQ(first, train("second.model", 350));
  EXPECT_NE(first, train("larger.model", 360));
  EXPECT_EQ(read_file(folder.path / "first.model"), first);
}

TEST(TrainTokenizer, GivesTheVocabularyAskedForAndLearnsWords) {
  EXPECT_EQ(small_tokenizer().vocab_size(), 400);
  // bos, the word, eos: a frequent word is a piece of its own, a strange one is spelt.
  EXPECT_EQ(small_tokenizer().encode("the").size(), 3u);
  EXPECT_GT(small_tokenizer().encode("eht").size(), 3u);
}

TEST(TrainTokenizer, SaysHowLargeTheVocabularyMayBe) {
  const TemporaryFolder folder;
  const auto path = folder.path / "large.model";
  const std::string message =
      error_of([&] { train_tokenizer(caption_corpus(), path, {.vocab_size = 5000}); });
  EXPECT_THAT(message,
              AllOf(HasSubstr(path.string()), HasSubstr("5000"), HasSubstr("Vocabulary size too high")));
  EXPECT_THAT(std::vector<std::filesystem::path>(std::filesystem::directory_iterator(folder.path), {}),
              IsEmpty());

  const Tokenizer soft =
      train_tokenizer(caption_corpus(), path, {.vocab_size = 5000, .hard_vocab_limit = false});
  EXPECT_GT(soft.vocab_size(), 400);
  EXPECT_LT(soft.vocab_size(), 5000);
}

TEST(TrainTokenizer, RefusesDataAndSizesItCanDoNothingWith) {
  const TemporaryFolder folder;
  const auto path = folder.path / "none.model";
  const auto message = [&](const std::vector<std::string>& sentences,
                           const TokenizerTrainingOptions& options) {
    return error_of([&] { train_tokenizer(sentences, path, options); });
  };
  EXPECT_THAT(message({}, {.vocab_size = 300}), HasSubstr("no text"));
  EXPECT_THAT(message({"", "  \t\n"}, {.vocab_size = 300}), HasSubstr("no text"));
  EXPECT_THAT(message({"a"}, {.vocab_size = 261}), HasSubstr("261"));
  EXPECT_THAT(message({"a"}, {.vocab_size = 300, .character_coverage = 1.5}),
              HasSubstr("character_coverage"));
  // Fewer pieces than the special tokens, the bytes and the characters of the data need.
  EXPECT_THAT(message(caption_corpus(), {.vocab_size = 270, .character_coverage = 1.0}), HasSubstr("270"));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_THAT(error_of([&] {
                train_tokenizer(caption_corpus(), folder.path / "absent" / "x.model", {.vocab_size = 300});
              }),
              HasSubstr("absent"));
}

TEST(TrainTokenizer, ReadsSentencesWithTabsAndLongOnes) {
  const TemporaryFolder folder;
  // SentencePiece by itself drops both kinds, and would then have no text at all.
  std::string longer;
  while (longer.size() < 10000) longer += "wordsworth ";
  for (const std::string& sentence : {std::string("wordsworth\twordsworth wordsworth"), longer}) {
    const Tokenizer tokenizer =
        train_tokenizer({sentence}, folder.path / "t.model", {.vocab_size = 300, .hard_vocab_limit = false});
    EXPECT_EQ(tokenizer.encode("wordsworth").size(), 3u);
  }
}

TEST(TrainTokenizer, LearnsFromWordsThatTheLibraryCantHold) {
  const TemporaryFolder folder;
  const auto train = [&](const std::vector<std::string>& sentences, double coverage) {
    return train_tokenizer(sentences, folder.path / "t.model",
                           {.vocab_size = 800, .character_coverage = coverage, .hard_vocab_limit = false});
  };
  // What is above 32,767 characters between two spaces, the library reads outside of its memory; above 65,535
  // it ends the program.
  for (const std::size_t length : {std::size_t{40'000}, std::size_t{70'000}, std::size_t{200'000}}) {
    std::string ideographs;  // twenty different ones, three bytes each, without a space
    for (std::size_t i = 0; i < length; ++i) {
      ideographs += "\xe4\xb8";
      ideographs += static_cast<char>(0x80 + i * 7 % 20);
    }
    for (const std::string& word : {std::string(length, 'a'), ideographs, std::string(length, '\x80')}) {
      const Tokenizer tokenizer = train({"a brown dog", word, "wordsworth wordsworth wordsworth"}, 1.0);
      EXPECT_EQ(tokenizer.encode("wordsworth").size(), 3u) << length;
      // Spaces are so rare here that they are left out, and part nothing.
      train({word + " " + word}, 0.99);
    }
    // Of a text in one word, too, more than single characters is learnt, and it comes back as it was.
    const Tokenizer tokenizer = train({ideographs}, 1.0);
    EXPECT_LT(tokenizer.encode(ideographs).size(), length);
    EXPECT_TRUE(tokenizer.decode(tokenizer.encode(ideographs)) == ideographs);
  }
}

TEST(TrainTokenizer, ALongSentenceIsLearntFromAsItsWordsAre) {
  const TemporaryFolder folder;
  std::string longer;
  std::vector<std::string> sentences;
  for (int i = 0; i < 100; ++i) {
    for (const std::string& caption : caption_corpus()) {
      longer += (longer.empty() ? "" : i % 2 == 0 ? " " : "  ") + caption;
      sentences.push_back((longer.size() == caption.size() || i % 2 == 0 ? "" : " ") + caption);
    }
  }
  ASSERT_GT(longer.size(), 100'000u);
  const auto model = [&](const std::vector<std::string>& data) {
    return train_tokenizer(data, folder.path / "t.model", {.vocab_size = 350}).model_bytes();
  };
  EXPECT_TRUE(model({longer}) == model(sentences));
}

TEST(TrainTokenizer, LearnsFromSentencesWithTheLibrarysOwnMark) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer =
      train_tokenizer({"wordsworth \u2585 wordsworth wordsworth"}, folder.path / "t.model",
                      {.vocab_size = 300, .hard_vocab_limit = false});
  EXPECT_EQ(tokenizer.encode("wordsworth").size(), 3u);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a \u2585 b")), "a \u2585 b");
}

}  // namespace
}  // namespace tessera::language
