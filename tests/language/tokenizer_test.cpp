#include "language/tokenizer.h"

#include <gmock/gmock.h>
#include <sentencepiece_trainer.h>

#include <atomic>
#include <thread>

#include "core/files.h"
#include "tests/language/fixtures.h"

namespace tessera::language {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Tokenizer, PutsSpecialTokensAroundAText) {
  const auto ids = small_tokenizer().encode("a brown dog");
  ASSERT_GT(ids.size(), 2u);
  EXPECT_EQ(ids.front(), Tokenizer::kBosId);
  EXPECT_EQ(ids.back(), Tokenizer::kEosId);
  EXPECT_THAT(std::vector<std::int64_t>(ids.begin() + 1, ids.end() - 1),
              Each(::testing::Gt(Tokenizer::kMaskId)));
}

TEST(Tokenizer, EmptyCaptionIsBosEos) {
  EXPECT_THAT(small_tokenizer().encode(""), ElementsAre(Tokenizer::kBosId, Tokenizer::kEosId));
  EXPECT_EQ(small_tokenizer().decode(small_tokenizer().encode("")), "");
}

TEST(Tokenizer, CaptionOf400WordsKeepsItsEndToken) {
  std::string caption = "a dog";
  for (int i = 0; i < 398; ++i) caption += i % 2 == 0 ? " runs" : " jumps";
  const auto whole = small_tokenizer().encode(caption);
  ASSERT_GT(whole.size(), 400u);
  for (const std::int64_t limit : {2, 3, 64}) {
    const auto cut = small_tokenizer().encode(caption, limit);
    ASSERT_EQ(static_cast<std::int64_t>(cut.size()), limit);
    EXPECT_EQ(cut.back(), Tokenizer::kEosId);
    EXPECT_TRUE(std::equal(cut.begin(), cut.end() - 1, whole.begin())) << "limit " << limit;
  }
  EXPECT_EQ(small_tokenizer().encode(caption, static_cast<std::int64_t>(whole.size())), whole);
  EXPECT_THROW(small_tokenizer().encode(caption, 1), c10::Error);
}

TEST(Tokenizer, TextComesBackByteForByte) {
  const std::vector<std::string> texts = {
      "a brown dog jumps over the kitchen table.",
      "\u1112\u1161\u11ab\u1100\u1173\u11af",  // Hangul in decomposed form (NFD)
      "\u00aa\u0300",                          // a compatibility character and a combining accent
      "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and flag \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd",
      "\ufb01ne \u2460 \uff21",  // a ligature, a circled digit, a full-width letter
      " leading, double  inner and trailing spaces  ",
      "tab\tand\nline break",
      "<s> <mask> </s> <unk> <pad>",
      "\u00a0no-break",
  };
  for (const auto& text : texts) EXPECT_EQ(small_tokenizer().decode(small_tokenizer().encode(text)), text);
}

TEST(Tokenizer, SpansSayWhichBytesAnIdStandsFor) {
  for (const std::string text : {"", "a brown dog jumps over the kitchen table.", " two  spaces ",
                                 "Zebra \u4e2d\U0001f600 caf\u00e9", "<mask> </s>"}) {
    const EncodedText encoded = small_tokenizer().encode_with_spans(text);
    EXPECT_EQ(encoded.ids, small_tokenizer().encode(text)) << text;
    ASSERT_EQ(encoded.spans.size(), encoded.ids.size()) << text;
    // One after the other they are the whole text, bos and eos nothing of it.
    std::size_t end = 0;
    for (std::size_t i = 0; i < encoded.ids.size(); ++i) {
      EXPECT_EQ(encoded.spans[i].begin, end) << text << " token " << i;
      EXPECT_GE(encoded.spans[i].end, encoded.spans[i].begin) << text << " token " << i;
      end = encoded.spans[i].end;
      if (encoded.ids[i] == Tokenizer::kBosId || encoded.ids[i] == Tokenizer::kEosId) {
        EXPECT_EQ(encoded.spans[i].begin, encoded.spans[i].end);
      }
    }
    EXPECT_EQ(end, text.size()) << text;
  }
  // What a span holds is what its token says.
  const std::string text = "the goalkeeper balances on a fence";
  const EncodedText encoded = small_tokenizer().encode_with_spans(text);
  for (std::size_t i = 1; i + 1 < encoded.ids.size(); ++i) {
    const std::string part =
        text.substr(encoded.spans[i].begin, encoded.spans[i].end - encoded.spans[i].begin);
    const std::string before =
        small_tokenizer().decode({encoded.ids.begin(), encoded.ids.begin() + static_cast<std::ptrdiff_t>(i)});
    const std::string after = small_tokenizer().decode(
        {encoded.ids.begin(), encoded.ids.begin() + static_cast<std::ptrdiff_t>(i) + 1});
    EXPECT_EQ(before + part, after);
  }
}

TEST(Tokenizer, SpansOfACutTextKeepTheEndToken) {
  const EncodedText cut = small_tokenizer().encode_with_spans("the goalkeeper jumps over a parked lorry", 5);
  EXPECT_EQ(cut.ids, small_tokenizer().encode("the goalkeeper jumps over a parked lorry", 5));
  EXPECT_EQ(cut.spans.size(), 5u);
  EXPECT_EQ(cut.spans.back().begin, cut.spans.back().end);
}

TEST(Tokenizer, NamesOfSpecialTokensInATextAreText) {
  const auto ids = small_tokenizer().encode("<mask><s></s><pad><unk>");
  for (std::size_t i = 1; i + 1 < ids.size(); ++i) EXPECT_GT(ids[i], Tokenizer::kMaskId);
}

TEST(Tokenizer, NothingIsUnknown) {
  for (const std::string text : {"\u4e2d\u6587", "\U0001f600", "Zebra Qux"}) {
    EXPECT_THAT(small_tokenizer().encode(text), Each(::testing::Ne(Tokenizer::kUnkId))) << text;
  }
}

TEST(Tokenizer, DecodingLeavesSpecialTokensOutAndRefusesForeignIds) {
  auto ids = small_tokenizer().encode("a brown dog");
  ids.insert(ids.begin() + 2, Tokenizer::kMaskId);
  ids.insert(ids.end(), 3, Tokenizer::kPadId);
  EXPECT_EQ(small_tokenizer().decode(ids), "a brown dog");
  EXPECT_THROW(small_tokenizer().decode({400}), c10::Error);
  EXPECT_THROW(small_tokenizer().decode({-1}), c10::Error);
}

TEST(Tokenizer, BatchIsPaddedOnTheRightToItsLongest) {
  const std::vector<std::string> texts = {"a brown dog", "", "two children is waiting beside a parked lorry"};
  const TokenBatch batch = small_tokenizer().encode_batch(texts, 9);
  ASSERT_EQ(batch.input_ids.sizes(), (std::vector<std::int64_t>{3, 9}));
  ASSERT_EQ(batch.attention_mask.sizes(), batch.input_ids.sizes());
  EXPECT_EQ(batch.attention_mask.scalar_type(), at::kBool);
  for (std::int64_t row = 0; row < 3; ++row) {
    const auto expected = small_tokenizer().encode(texts[row], 9);
    const auto length = static_cast<std::int64_t>(expected.size());
    EXPECT_TRUE(at::equal(batch.input_ids[row].slice(0, 0, length), at::tensor(expected, at::kLong)));
    EXPECT_TRUE(batch.input_ids[row].slice(0, length).eq(Tokenizer::kPadId).all().item<bool>());
    EXPECT_TRUE(batch.attention_mask[row].slice(0, 0, length).all().item<bool>());
    EXPECT_FALSE(batch.attention_mask[row].slice(0, length).any().item<bool>());
  }
}

TEST(Tokenizer, BatchSaysWhichTextsWereCut) {
  const std::string text = "a brown dog jumps over the kitchen table.";
  const auto length = static_cast<std::int64_t>(small_tokenizer().encode(text).size());
  std::string four_hundred_words;
  for (int i = 0; i < 400; ++i) four_hundred_words += "dog ";
  const auto is_cut = [&](std::int64_t max_tokens) {
    const TokenBatch batch = small_tokenizer().encode_batch({text, "", four_hundred_words}, max_tokens);
    // Whoever reads a whole text finds its end where it always is.
    const at::Tensor last = batch.attention_mask.sum(1, /*keepdim=*/true) - 1;
    EXPECT_TRUE(batch.input_ids.gather(1, last).eq(Tokenizer::kEosId).all().item<bool>());
    const at::Tensor cut = batch.is_cut.to(at::kLong);
    return std::vector<std::int64_t>(cut.data_ptr<std::int64_t>(), cut.data_ptr<std::int64_t>() + 3);
  };
  EXPECT_EQ(is_cut(length - 1), (std::vector<std::int64_t>{1, 0, 1}));
  EXPECT_EQ(is_cut(length), (std::vector<std::int64_t>{0, 0, 1})) << "a text that just fits is whole";
  EXPECT_EQ(is_cut(Tokenizer::kNoLimit), (std::vector<std::int64_t>{0, 0, 0}));
}

TEST(Tokenizer, EncodesInSeveralThreads) {
  const Tokenizer shared = small_tokenizer();
  const auto captions = caption_corpus();
  std::vector<std::vector<std::int64_t>> expected;
  for (const auto& caption : captions) expected.push_back(shared.encode(caption));
  std::atomic<int> differing = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, copy = shared] {
      for (std::size_t c = 0; c < captions.size(); ++c) differing += copy.encode(captions[c]) != expected[c];
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(differing, 0);
}

TEST(Tokenizer, ModelBytesLoadAsTheSameTokenizer) {
  const TemporaryFolder folder;
  const auto path = folder.path / "copy.model";
  write_file_atomically(path, small_tokenizer().model_bytes());
  const Tokenizer loaded = Tokenizer::load(path);
  EXPECT_EQ(loaded.vocab_size(), small_tokenizer().vocab_size());
  EXPECT_EQ(loaded.encode("the goalkeeper"), small_tokenizer().encode("the goalkeeper"));
}

TEST(Tokenizer, RefusesOtherSpecialIdsNamingThem) {
  // SentencePiece's own defaults: unk 0, bos 1, eos 2, no pad, no mask.
  class Captions : public sentencepiece::SentenceIterator {
   public:
    bool done() const override { return next_ == captions_.size(); }
    void Next() override { ++next_; }
    const std::string& value() const override { return captions_[next_]; }
    sentencepiece::util::Status status() const override { return {}; }

   private:
    std::vector<std::string> captions_ = caption_corpus();
    std::size_t next_ = 0;
  } captions;
  std::string bytes;
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "bpe"}, {"vocab_size", "100"}, {"minloglevel", "3"}};
  ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train(arguments, &captions, &bytes).ok());

  const std::string message = error_of([&] { Tokenizer::from_bytes(bytes, "foreign.model"); });
  EXPECT_THAT(message,
              AllOf(HasSubstr("foreign.model"), HasSubstr("pad is absent, expected 0"),
                    HasSubstr("unk is 0, expected 1"), HasSubstr("bos is 1, expected 2"),
                    HasSubstr("eos is 2, expected 3"), HasSubstr("mask (the piece <mask>) is absent")));
}

TEST(Tokenizer, RefusesWhatIsNoModel) {
  const TemporaryFolder folder;
  const auto path = folder.path / "broken.model";
  EXPECT_THAT(error_of([&] { Tokenizer::load(path); }), HasSubstr(path.string()));
  const std::string& sound = small_tokenizer().model_bytes();
  const std::vector<std::string> contents = {"", "not a model", sound.substr(0, sound.size() / 2)};
  for (const auto& content : contents) {
    write_file_atomically(path, content);
    EXPECT_THAT(error_of([&] { Tokenizer::load(path); }), HasSubstr(path.string()))
        << content.size() << " bytes";
  }
  write_file_atomically(path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n");
  EXPECT_THAT(error_of([&] { Tokenizer::load(path); }),
              AllOf(HasSubstr(path.string()), HasSubstr("git lfs pull")));
  write_file_atomically(path, "<!DOCTYPE html>\n<html></html>");
  EXPECT_THAT(error_of([&] { Tokenizer::load(path); }),
              AllOf(HasSubstr(path.string()), HasSubstr("web page")));
}

}  // namespace
}  // namespace tessera::language
