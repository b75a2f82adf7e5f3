#include "eval/scene_truth.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/random.h"
#include "eval/swapped_images.h"
#include "shapes/scene_judge.h"

namespace tessera::eval {
namespace {

std::vector<shapes::SceneDescription> some_scenes(std::size_t count, std::uint64_t seed) {
  const auto all = shapes::canonical_descriptions();
  CounterRandom random(seed, RandomPurpose::kShapes, 3, 0);
  std::vector<shapes::SceneDescription> scenes;
  for (std::size_t i = 0; i < count; ++i) scenes.push_back(all[random.below(all.size())]);
  return scenes;
}

std::vector<std::string> captions_of(const std::vector<shapes::SceneDescription>& scenes) {
  std::vector<std::string> captions;
  for (std::size_t i = 0; i < scenes.size(); ++i) {
    const auto wordings = shapes::scene_captions(scenes[i]);
    captions.push_back(wordings[i % wordings.size()]);
  }
  return captions;
}

TEST(SwappedImage, IsAlwaysAnotherAndEachOnce) {
  for (const std::int64_t images : {2, 3, 7, 320}) {
    std::vector<int> seen(static_cast<std::size_t>(images), 0);
    for (std::int64_t image = 0; image < images; ++image) {
      EXPECT_NE(swapped_image(image, images), image);
      ++seen[static_cast<std::size_t>(swapped_image(image, images))];
    }
    EXPECT_EQ(seen, std::vector<int>(static_cast<std::size_t>(images), 1));
  }
}

TEST(SceneTruth, TrueCaptionsAreAllTrueAndFallToChanceWhenSwapped) {
  const auto scenes = some_scenes(600, 1);
  const SceneTruth truth = scene_truth(captions_of(scenes), scenes);
  EXPECT_EQ(truth.caption_truth, 1);
  EXPECT_EQ(truth.caption_facts, 1);
  EXPECT_EQ(truth.relation_facts, 1);
  const SceneTruth swapped = swapped_scene_truth(captions_of(scenes), scenes);
  const SceneTruth chance = chance_scene_truth(scenes);
  EXPECT_LT(swapped.caption_truth, 0.01);
  EXPECT_NEAR(swapped.caption_facts, chance.caption_facts, 0.03);
  EXPECT_NEAR(swapped.color_facts, chance.color_facts, 0.05);
  EXPECT_NEAR(swapped.relation_facts, chance.relation_facts, 0.08);
}

/// The exact chance level against a sample of what it stands for.
TEST(SceneTruth, ChanceIsWhatBlindCaptionsScore) {
  const auto scenes = some_scenes(40, 2);
  const SceneTruth chance = chance_scene_truth(scenes);
  double facts = 0, truth = 0;
  constexpr int kDraws = 50;
  for (int draw = 0; draw < kDraws; ++draw) {
    const SceneTruth blind =
        scene_truth(captions_of(some_scenes(40, static_cast<std::uint64_t>(100 + draw))), scenes);
    facts += blind.caption_facts / kDraws;
    truth += blind.caption_truth / kDraws;
  }
  EXPECT_NEAR(chance.caption_facts, facts, 0.015);
  EXPECT_NEAR(chance.caption_truth, truth, 0.003);
  // One description of all, which each scene is once, is drawn.
  EXPECT_NEAR(chance.caption_truth, 1.0 / static_cast<double>(shapes::canonical_descriptions().size()),
              1e-12);
}

TEST(SceneTruth, ACaptionWithoutContentScoresNothing) {
  const auto scenes = some_scenes(5, 3);
  const SceneTruth truth = scene_truth(std::vector<std::string>(5, "a picture of"), scenes);
  EXPECT_EQ(truth.caption_facts, 0);
  EXPECT_EQ(truth.caption_truth, 0);
  EXPECT_LT(truth.caption_facts, chance_scene_truth(scenes).caption_facts);
}

TEST(SceneTruth, IsWrittenUnderFlatNames) {
  nlohmann::json json;
  add_to_json(json, {0.5, 0.75, 0.25, 0.125, 1, 0}, "_swapped");
  EXPECT_EQ(json, nlohmann::json::parse(R"({"caption_truth_swapped": 0.5, "caption_facts_swapped": 0.75,
    "caption_facts_size_swapped": 0.25, "caption_facts_color_swapped": 0.125, "caption_facts_shape_swapped": 1.0,
    "caption_facts_relation_swapped": 0.0})"));
}

}  // namespace
}  // namespace tessera::eval
