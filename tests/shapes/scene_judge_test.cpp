#include "shapes/scene_judge.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "shapes/scene.h"
#include "tests/data/fixtures.h"

namespace tessera::shapes {
namespace {

using data::error_of;
using ::testing::HasSubstr;

/// An object in the tables' words, whatever these are.
std::string object_words(int size, int color, int shape) {
  return "a " + scene_sizes().at(static_cast<std::size_t>(size)) + " " +
         scene_colors().at(static_cast<std::size_t>(color)) + " " +
         scene_shapes().at(static_cast<std::size_t>(shape));
}

/// Small first-coloured circle-like thing left of a large second-coloured other thing.
const SceneDescription kScene{{0, 0, 0}, {1, 1, 1}, Relation::kLeftOf};
const std::string kFirst = object_words(0, 0, 0);
const std::string kSecond = object_words(1, 1, 1);
const std::string kWhole = "left " + kFirst + ", right " + kSecond;

TEST(SceneJudge, EveryCaptionIsTrueOfItsSceneAndOfNoOther) {
  const auto descriptions = canonical_descriptions();
  CounterRandom random(1, RandomPurpose::kShapes, 7, 0);
  std::int64_t others = 0;
  for (std::size_t i = 0; i < descriptions.size(); i += 1 + descriptions.size() / 400) {
    const SceneDescription& scene = descriptions[i];
    const SceneDescription& other = descriptions[random.below(descriptions.size())];
    for (const SceneDescription& told : {scene, told_from_second(scene)}) {
      for (const std::string& caption : scene_captions(told)) {
        const CaptionJudgement right = judge_caption(caption, scene);
        ASSERT_TRUE(right.wholly_true) << caption;
        ASSERT_EQ(right.facts_said, kSceneFacts);
        ASSERT_EQ(right.facts_true, kSceneFacts);
        if (other == scene) continue;
        ++others;
        const CaptionJudgement wrong = judge_caption(caption, other);
        ASSERT_FALSE(wrong.wholly_true) << caption << " / " << scene_captions(other).front();
        ASSERT_LT(wrong.facts_true, kSceneFacts);
        ASSERT_EQ(wrong.facts_said, kSceneFacts);
      }
    }
  }
  EXPECT_GT(others, 1000);
}

/// The nearest scenes: one fact changed, which is what a judge could miss.
TEST(SceneJudge, OneWrongWordCostsOneFactOfItsKind) {
  for (const std::string& caption : scene_captions(kScene)) {
    SceneDescription wrong = kScene;
    wrong.second.color = 2;
    CaptionJudgement result = judge_caption(caption, wrong);
    EXPECT_EQ(result.facts_true, kSceneFacts - 1);
    EXPECT_EQ(result.color.correct, 1);
    wrong = kScene;
    wrong.first.size = 1;
    EXPECT_EQ(judge_caption(caption, wrong).size.correct, 1);
    wrong = kScene;
    wrong.first.shape = 2;
    EXPECT_EQ(judge_caption(caption, wrong).shape.correct, 1);
    wrong = kScene;
    wrong.relation = Relation::kAbove;
    result = judge_caption(caption, wrong);
    EXPECT_EQ(result.facts_true, kSceneFacts - 1);
    EXPECT_EQ(result.relation.correct, 0);
    EXPECT_FALSE(result.wholly_true);
  }
}

TEST(SceneJudge, FactsAreBoundToTheirObject) {
  // Both colours are in the picture, on the other object; the same for sizes.
  const auto swapped_colors =
      judge_caption("left " + object_words(0, 1, 0) + ", right " + object_words(1, 0, 1), kScene);
  EXPECT_EQ(swapped_colors.color.correct, 0);
  EXPECT_EQ(swapped_colors.facts_true, kSceneFacts - 2);
  const auto reversed = judge_caption("left " + kSecond + ", right " + kFirst, kScene);
  EXPECT_EQ(reversed.relation.correct, 0);
  EXPECT_EQ(reversed.facts_true, kSceneFacts - 1) << "the objects themselves are right, told from the second";
}

TEST(SceneJudge, NeitherTheCaptionsTellingNorTheScenesMatters) {
  const auto descriptions = canonical_descriptions();
  CounterRandom random(2, RandomPurpose::kShapes, 7, 1);
  for (int i = 0; i < 500; ++i) {
    const SceneDescription& scene = descriptions[random.below(descriptions.size())];
    const auto captions = scene_captions(descriptions[random.below(descriptions.size())]);
    const CaptionJudgement expected = judge_caption(captions.front(), scene);
    for (const std::string& caption : captions) {
      for (const SceneDescription& told : {scene, told_from_second(scene)}) {
        const CaptionJudgement result = judge_caption(caption, told);
        ASSERT_EQ(result.facts_true, expected.facts_true) << caption;
        ASSERT_EQ(result.relation.correct, expected.relation.correct) << caption;
        ASSERT_EQ(result.color.correct, expected.color.correct) << caption;
        ASSERT_EQ(result.size.correct, expected.size.correct) << caption;
      }
    }
  }
}

TEST(SceneJudge, WhatIsNotSaidIsNotTrue) {
  EXPECT_EQ(judge_caption("", kScene).facts_true, 0);
  EXPECT_EQ(judge_caption("a picture of a", kScene).facts_said, 0);
  const auto one_object = judge_caption("there is " + kSecond, kScene);
  EXPECT_EQ(one_object.facts_said, 3);
  EXPECT_EQ(one_object.facts_true, 3) << "compared with the object that fits";
  EXPECT_FALSE(one_object.wholly_true);
  const auto no_size =
      judge_caption("left a " + scene_colors()[0] + " " + scene_shapes()[0] + ", right " + kSecond, kScene);
  EXPECT_EQ(no_size.facts_said, kSceneFacts - 1);
  EXPECT_EQ(no_size.facts_true, kSceneFacts - 1);
  EXPECT_FALSE(no_size.wholly_true);
  const auto no_place = judge_caption(kFirst + " " + kSecond, kScene);
  EXPECT_EQ(no_place.facts_true, kSceneFacts - 1);
  EXPECT_EQ(no_place.relation.said, 0);
}

TEST(SceneJudge, BothObjectsMustBeSaidToBeWhereTheyAre) {
  for (const std::string& caption :
       {"left " + kFirst, "left " + kFirst + ", " + kSecond, kFirst + ", right " + kSecond,
        "left " + kFirst + ", left " + kSecond, "left " + kFirst + ", bottom " + kSecond,
        "top " + kFirst + ", bottom " + kSecond, kFirst + " left, " + kSecond + " right",
        "left right " + kFirst + ", right " + kSecond}) {
    const auto result = judge_caption(caption, kScene);
    EXPECT_EQ(result.relation.said, 1) << caption;
    EXPECT_EQ(result.relation.correct, 0) << caption;
    EXPECT_FALSE(result.wholly_true) << caption;
  }
}

TEST(SceneJudge, SayingMoreEarnsNothing) {
  for (const std::string& more : {kWhole + " top " + kFirst, kWhole + " " + object_words(1, 2, 2),
                                  kWhole + " top", kWhole + " dog", "not " + kWhole}) {
    const auto result = judge_caption(more, kScene);
    EXPECT_EQ(result.facts_true, kSceneFacts) << more;
    EXPECT_FALSE(result.wholly_true) << more;
  }
  // Two guesses at once are a wrong one, and a list of objects is read no further than its second.
  EXPECT_EQ(
      judge_caption("left a " + scene_sizes()[1] + " " + kFirst.substr(2) + ", right " + kSecond, kScene)
          .size.correct,
      1);
  const auto list = judge_caption(
      object_words(0, 2, 2) + " " + object_words(1, 3, 2) + " " + kFirst + " " + kSecond, kScene);
  EXPECT_EQ(list.color.correct, 0);
  EXPECT_EQ(list.shape.correct, 0);
}

TEST(SceneJudge, RepetitionCaseAndPunctuationChangeNothing) {
  const SaidScene plain = parse_scene_caption(kWhole);
  EXPECT_EQ(parse_scene_caption("LEFT  left a " + kFirst + " right right a a " + kSecond.substr(2) + "."),
            plain);
  EXPECT_EQ(parse_scene_caption("left " + kFirst + " " + scene_shapes()[0] + ", right " + kSecond), plain);
  EXPECT_TRUE(judge(plain, kScene).wholly_true);
  EXPECT_FALSE(plain == parse_scene_caption("right " + kFirst + ", left " + kSecond));
}

TEST(SceneJudge, ReadsBackWhatSceneJsonWrites) {
  for (const SceneDescription& scene : {kScene, told_from_second(kScene), canonical_descriptions().back()}) {
    EXPECT_EQ(scene_from_json(scene_json(scene), "x"), scene);
  }
}

TEST(SceneJudge, RefusesWhatIsNoScene) {
  const nlohmann::json sound = scene_json(kScene);
  const auto complaint = [&](const std::function<void(nlohmann::json&)>& spoil) {
    nlohmann::json scene = sound;
    spoil(scene);
    return error_of([&] { scene_from_json(scene, "val-0.tar: s7.json: scene"); });
  };
  EXPECT_THAT(complaint([](auto& s) { s["objects"][1]["color"] = "beige"; }),
              HasSubstr("val-0.tar: s7.json: scene: second object: 'color': expected one of ["));
  EXPECT_THAT(complaint([](auto& s) { s["objects"][1]["color"] = "beige"; }), HasSubstr("found \"beige\""));
  EXPECT_THAT(complaint([](auto& s) { s["objects"][0].erase("size"); }),
              HasSubstr("first object: 'size' is missing"));
  EXPECT_THAT(complaint([](auto& s) { s["objects"].erase(0); }), HasSubstr("expected a list of two"));
  EXPECT_THAT(complaint([](auto& s) { s["relation"] = 3; }), HasSubstr("'relation': expected one of"));
  EXPECT_THAT(complaint([](auto& s) { s = "a scene"; }), HasSubstr("expected a JSON object, found string"));
  EXPECT_THAT(complaint([](auto& s) { s["objects"][0] = 1; }),
              HasSubstr("first object: expected a JSON object"));
}

}  // namespace
}  // namespace tessera::shapes
