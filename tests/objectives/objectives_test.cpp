#include "objectives/objectives.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "losses/losses_config.h"

namespace tessera::objectives {
namespace {

/// A loss that the configuration knows and no objective computes would be ignored without a word.
TEST(Objectives, AreTheLossesOfTheConfiguration) {
  std::vector<std::string> losses, objectives;
  const losses::LossesConfig config;
  for_each_loss(config, [&](const char* name, const auto&, losses::Ability) { losses.emplace_back(name); });
  for (const ObjectiveEntry& entry : all_objectives()) objectives.emplace_back(entry.name);
  EXPECT_THAT(objectives, ::testing::UnorderedElementsAreArray(losses));
}

TEST(Objectives, ReadWhatThoseOfWeightAboveZeroRead) {
  losses::LossesConfig losses;
  losses.itc.weight = losses.itm.weight = losses.maxsim.weight = losses.memory.weight = 0;
  ASSERT_GT(losses.caption.weight, 0);
  EXPECT_FALSE(reads_of(losses).bidirectional_text);
  EXPECT_TRUE(reads_of(losses).causal_text);
  EXPECT_FALSE(has_queue(losses));
  losses.siglip.weight = 1;
  EXPECT_TRUE(reads_of(losses).bidirectional_text);
  EXPECT_FALSE(has_queue(losses));
  losses.itc.weight = 1;
  EXPECT_TRUE(has_queue(losses));
  EXPECT_FALSE(reads_of(losses).queue_payload);
  losses.itc.queue.size = 0;
  EXPECT_FALSE(has_queue(losses));
  losses.itc.queue.size = 8;
  losses.itc.weight = 0;
  losses.itm.weight = 1;
  EXPECT_TRUE(has_queue(losses));
  EXPECT_TRUE(reads_of(losses).queue_payload);
}

}  // namespace
}  // namespace tessera::objectives
