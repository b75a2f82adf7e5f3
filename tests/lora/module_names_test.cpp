#include "lora/module_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vision/dinov2_names.h"

namespace tessera::lora {
namespace {

using testing::ElementsAre;

TEST(ModuleNames, AreRewrittenBothWaysBySegments) {
  const ModuleNames& names = vision::dinov2_module_names();
  const std::string legacy = "encoder.layer.10.attention.attention.query.lora_A.weight";
  const std::string current = "encoder.layer.10.attention.q_proj.lora_A.weight";
  EXPECT_EQ(names.renamed(legacy, ModuleNaming::kCurrent), current);
  EXPECT_EQ(names.renamed(current, ModuleNaming::kLegacy), legacy);
  EXPECT_EQ(names.renamed(current, ModuleNaming::kCurrent), current);
  EXPECT_EQ(names.renamed(legacy, ModuleNaming::kLegacy), legacy);
  EXPECT_EQ(names.renamed("attention.o_proj", ModuleNaming::kLegacy), "attention.output.dense");
  for (const char* other : {"model.layers.0.self_attn.q_proj.weight", "x.attention.query",
                            "my_attention.q_proj", "attention.q_projector"}) {
    EXPECT_EQ(names.renamed(other, ModuleNaming::kLegacy), other);
    EXPECT_EQ(names.renamed(other, ModuleNaming::kCurrent), other);
  }
}

TEST(ModuleNames, OfTargetsAreTheLastSegmentsOfTheOtherNaming) {
  const ModuleNames& names = vision::dinov2_module_names();
  EXPECT_THAT(names.renamed_targets("query", ModuleNaming::kCurrent), ElementsAre("q_proj"));
  EXPECT_THAT(names.renamed_targets("o_proj", ModuleNaming::kLegacy), ElementsAre("dense"));
  EXPECT_THAT(names.renamed_targets("fc1", ModuleNaming::kLegacy), ElementsAre("fc1"));
  EXPECT_THAT(names.renamed_targets("1.attention.q_proj", ModuleNaming::kLegacy),
              ElementsAre("1.attention.attention.query"));
  EXPECT_THAT(names.renamed_targets("weights_in", ModuleNaming::kCurrent),
              ElementsAre("gate_proj", "up_proj"));
  EXPECT_THAT(names.renamed_targets("2.mlp.weights_in", ModuleNaming::kCurrent),
              ElementsAre("2.mlp.gate_proj", "2.mlp.up_proj"));
  EXPECT_THAT(names.renamed_targets("up_proj", ModuleNaming::kLegacy), ElementsAre("weights_in"));
}

/// Of an architecture without a table every path is its own name.
TEST(ModuleNames, WithoutATableAreThePaths) {
  const ModuleNames names;
  const std::string path = "model.layers.0.self_attn.q_proj";
  EXPECT_EQ(names.renamed(path, ModuleNaming::kLegacy), path);
  EXPECT_EQ(names.path_here(path), path);
  EXPECT_TRUE(names.is_in_backbone(path));
  EXPECT_FALSE(names.is_legacy(path));
  for (const std::string& name : names.names_of(path, {})) EXPECT_EQ(name, path);
}

}  // namespace
}  // namespace tessera::lora
