// The formulas are held against pycocoevalcap by golden cases (op caption_scores); these are the edges.

#include "eval/caption_scores.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace tessera::eval {
namespace {

TEST(CaptionScores, AreBestWhereEveryCaptionIsAReference) {
  const std::vector<std::string> captions = {"a red circle left of a square", "two dogs run over green grass",
                                             "somebody reads a book at night"};
  std::vector<std::vector<std::string>> references;
  for (const auto& caption : captions) references.push_back({caption});
  const CaptionScores scores = caption_scores(captions, references);
  for (const double bleu : scores.bleu) EXPECT_NEAR(bleu, 1, 1e-8);
  EXPECT_NEAR(scores.rouge_l, 1, 1e-12);
  EXPECT_NEAR(scores.cider_d, 10, 1e-9);
  // The same captions of other images share nearly nothing.
  std::rotate(references.begin(), references.begin() + 1, references.end());
  const CaptionScores rotated = caption_scores(captions, references);
  EXPECT_LT(rotated.bleu[1], 0.01);
  EXPECT_LT(rotated.cider_d, 0.1);
}

TEST(CaptionScores, AnEmptyCaptionScoresNothingAndCounts) {
  const std::vector<std::vector<std::string>> references = {{"a red dog"}, {"one blue cat sleeps here"}};
  const CaptionScores both = caption_scores({"", "one blue cat sleeps here"}, references);
  EXPECT_NEAR(both.rouge_l, 0.5, 1e-12);
  EXPECT_NEAR(both.cider_d, 5, 1e-9);
  EXPECT_LT(both.bleu[0], 1) << "by the penalty for brevity";
  const CaptionScores none = caption_scores({"", ""}, references);
  EXPECT_EQ(none.rouge_l, 0);
  EXPECT_EQ(none.cider_d, 0);
  EXPECT_LT(none.bleu[0], 1e-6);
}

TEST(CaptionScores, MoreReferencesNeverHurtRouge) {
  const CaptionScores one = caption_scores({"a dog on a mat"}, {{"the mat has a dog"}});
  const CaptionScores two =
      caption_scores({"a dog on a mat"}, {{"the mat has a dog", "a dog lies on a mat"}});
  EXPECT_GT(two.rouge_l, one.rouge_l);
  EXPECT_EQ(one.cider_d, 0) << "a corpus of one image has no rare words";
}

TEST(CaptionScores, AReferenceWithoutWordsIsMatchedByNothing) {
  const CaptionScores scores = caption_scores({"a dog", ""}, {{""}, {""}});
  EXPECT_EQ(scores.rouge_l, 0);
  EXPECT_EQ(scores.cider_d, 0);
  EXPECT_LT(scores.bleu[0], 1e-9);
}

TEST(CaptionScores, RefusesImagesWithoutReferences) {
  try {
    caption_scores({"a", "b"}, {{"a"}, {}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "caption scores: caption 1 has no reference");
  }
}

TEST(CaptionTokens, AreLowerCaseWordsWithoutPunctuation) {
  EXPECT_EQ(tokenize_caption("A dog's ball, RED."), "a dog's ball red");
  EXPECT_EQ(tokenize_caption("  well-lit \t'room' - empty!?"), "well-lit room empty");
  EXPECT_EQ(tokenize_caption("Caf\xc3\xa9 (open)"), "caf\xc3\xa9 open");
  EXPECT_EQ(tokenize_caption("..."), "");
}

TEST(CaptionScores, AreWrittenUnderFlatNames) {
  nlohmann::json json;
  add_to_json(json, CaptionScores{{0.5, 0.25, 0.125, 0}, 0.75, 1.5});
  EXPECT_EQ(json, nlohmann::json::parse(R"({"bleu_1": 0.5, "bleu_2": 0.25, "bleu_3": 0.125, "bleu_4": 0.0,
    "rouge_l": 0.75, "cider_d": 1.5})"));
}

}  // namespace
}  // namespace tessera::eval
