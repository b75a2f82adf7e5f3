#include "vision/facebook_weights.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/pytorch_file.h"
#include "tests/vision/vision_test_support.h"
#include "vision/encoder_files.h"

namespace tessera::vision {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// Files of scripts/golden/make_checkpoints.py: weights as facebook's code saves them, and what transformers
/// computes with the same.
fs::path fixture(const std::string& name) {
  return fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints" / name;
}

TensorMap plain() { return read_pytorch_file(fixture("facebook_plain.pth")); }

std::string complaint(const TensorMap& tensors) {
  return error_of([&] { from_facebook(tensors, "some.pth"); });
}

void replace_in_names(TensorMap& tensors, const std::string& from, const std::string& to) {
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t at = name.find(from);
    renamed[at == std::string::npos ? name : std::string(name).replace(at, from.size(), to)] = tensor;
  }
  tensors = renamed;
}

class FacebookFeatures : public testing::TestWithParam<const char*> {};

TEST_P(FacebookFeatures, AreThoseOfTransformers) {
  const std::string name = std::string("facebook_") + GetParam();
  const auto model = load_dinov2(fixture(name + ".pth"));
  model->eval();
  const TensorMap expected = SafetensorsFile(fixture(name + ".safetensors")).tensors();
  const at::NoGradGuard no_grad;
  const at::Tensor found = model->forward(expected.at("pixel_values"));
  ASSERT_EQ(found.sizes(), expected.at("last_hidden_state").sizes());
  const double error = (found - expected.at("last_hidden_state")).abs().max().item<double>();
  EXPECT_LT(error, 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Files, FacebookFeatures,
                         testing::Values("plain", "registers_chunked", "swiglu_teacher"));

TEST(FacebookWeights, TheConfigurationFollowsFromTheShapes) {
  const Dinov2Config plain = load_dinov2(fixture("facebook_plain.pth"))->config();
  EXPECT_EQ(plain.hidden_size, 64);
  EXPECT_EQ(plain.num_attention_heads, 1);
  EXPECT_EQ(plain.num_hidden_layers, 2);
  EXPECT_EQ(plain.patch_size, 2);
  EXPECT_EQ(plain.image_size, 8);
  EXPECT_EQ(plain.intermediate_size(), 64);
  EXPECT_FALSE(plain.with_registers);
  EXPECT_FALSE(plain.use_swiglu_ffn);
  EXPECT_EQ(plain.position_interpolation, PositionInterpolation::kScaleFactor);
  const Dinov2Config registers = load_dinov2(fixture("facebook_registers_chunked.pth"))->config();
  EXPECT_EQ(registers.num_register_tokens, 4);
  EXPECT_TRUE(registers.with_registers);
  EXPECT_EQ(registers.num_hidden_layers, 2);
  EXPECT_EQ(registers.position_interpolation, PositionInterpolation::kSizeAntialias);
  const Dinov2Config swiglu = load_dinov2(fixture("facebook_swiglu_teacher.pth"))->config();
  EXPECT_TRUE(swiglu.use_swiglu_ffn);
  EXPECT_EQ(swiglu.intermediate_size(), 48);
}

TEST(FacebookWeights, PublishedSizesAreFound) {
  struct Size {
    std::int64_t hidden, layers, width;
    bool swiglu;
    double ratio;
  };
  for (const Size& size :
       {Size{384, 12, 1536, false, 4}, Size{1024, 24, 4096, false, 4}, Size{1536, 40, 4096, true, 4}}) {
    TensorMap tensors;
    const auto add = [&](const std::string& name, at::IntArrayRef sizes) {
      tensors[name] = at::zeros({1}, at::kHalf).expand(sizes);  // no memory: only shapes are looked at
    };
    add("cls_token", {1, 1, size.hidden});
    add("pos_embed", {1, 1370, size.hidden});
    add("patch_embed.proj.weight", {size.hidden, 3, 14, 14});
    for (std::int64_t i = 0; i < size.layers; ++i) {
      const std::string block = fmt::format("blocks.{}.", i);
      add(block + "attn.qkv.weight", {3 * size.hidden, size.hidden});
      add(block + "attn.qkv.bias", {3 * size.hidden});
      add(block + "attn.proj.weight", {size.hidden, size.hidden});
      if (size.swiglu) {
        add(block + "mlp.w12.weight", {2 * size.width, size.hidden});
        add(block + "mlp.w3.weight", {size.hidden, size.width});
      } else {
        add(block + "mlp.fc1.weight", {size.width, size.hidden});
      }
    }
    const Dinov2Config config = from_facebook(tensors, "file").config;
    EXPECT_EQ(config.hidden_size, size.hidden);
    EXPECT_EQ(config.num_hidden_layers, size.layers);
    EXPECT_EQ(config.num_attention_heads, size.hidden / 64);
    EXPECT_EQ(config.image_size, 518);
    EXPECT_EQ(config.mlp_ratio, size.ratio);
    EXPECT_EQ(config.intermediate_size(), size.width);
  }
}

TEST(FacebookWeights, ModelsThatWereWrappedForTrainingLoad) {
  const TemporaryFolder temporary;
  const auto expected = load_dinov2(fixture("facebook_plain.pth"));
  for (const char* before : {"module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.backbone.",
                             "backbone._fsdp_wrapped_module."}) {
    TensorMap wrapped;
    for (const auto& [name, tensor] : plain()) wrapped[before + name] = tensor;
    write_safetensors(temporary.path() / "facebook.safetensors", wrapped);
    const auto found = load_dinov2(temporary.path() / "facebook.safetensors");
    EXPECT_EQ(found->config().to_json(), expected->config().to_json());
    for (const auto& item : expected->named_parameters())
      EXPECT_TRUE(at::equal(item.value(), found->named_parameters()[item.key()])) << before << item.key();
  }
}

TEST(FacebookWeights, ChunksWrappersAndHeadsChangeNothing) {
  const FacebookWeights expected = from_facebook(plain(), "file");
  TensorMap chunked = plain();
  replace_in_names(chunked, "blocks.0.", "blocks.0.0.");
  replace_in_names(chunked, "blocks.1.", "blocks.1.1.");
  TensorMap wrapped = plain();
  replace_in_names(wrapped, "", "backbone.");
  wrapped["ibot_head.last_layer.weight"] = at::zeros({2, 2});
  for (const TensorMap& tensors : {chunked, wrapped}) {
    EXPECT_TRUE(has_facebook_names(tensors));
    const FacebookWeights found = from_facebook(tensors, "file");
    EXPECT_EQ(found.config.to_json(), expected.config.to_json());
    ASSERT_EQ(found.tensors.size(), expected.tensors.size());
    for (const auto& [name, tensor] : expected.tensors) {
      EXPECT_TRUE(at::equal(found.tensors.at(name), tensor)) << name;
    }
  }
  chunked["blocks.1.norm1.weight"] = at::zeros({64});
  EXPECT_THAT(complaint(chunked), HasSubstr("'encoder.layer.1.norm1.weight' is there under two names"));
}

TEST(FacebookWeights, QueryKeyAndValueAreViews) {
  const TensorMap tensors = plain();
  const TensorMap converted = from_facebook(tensors, "file").tensors;
  const at::Tensor& joined = tensors.at("blocks.1.attn.qkv.weight");
  const at::Tensor& value = converted.at("encoder.layer.1.attention.attention.value.weight");
  EXPECT_TRUE(value.is_alias_of(joined));
  EXPECT_TRUE(at::equal(value, joined.slice(0, 128, 192)));
}

TEST(FacebookWeights, WhatIsMissingUnexpectedOrOfAnotherShapeIsListed) {
  TensorMap tensors = plain();
  tensors.erase("blocks.1.ls2.gamma");
  tensors.erase("norm.bias");
  tensors["head.weight"] = at::zeros({1});
  tensors["blocks.0.norm1.bias"] = at::zeros({63});
  const FacebookWeights converted = from_facebook(tensors, "file");
  Dinov2Model model(converted.config);
  EXPECT_THAT(
      error_of([&] { model.load_file_tensors(converted.tensors, "some.pth"); }),
      AllOf(HasSubstr("some.pth"), HasSubstr("missing: encoder.layer.1.layer_scale2.lambda1, layernorm.bias"),
            HasSubstr("unexpected: head.weight"),
            HasSubstr("encoder.layer.0.norm1.bias (expected [64], found [63])")));
}

TEST(FacebookWeights, ShapesOfNoModelAreRefused) {
  const auto complaint_with = [](const std::string& name, const at::Tensor& tensor) {
    TensorMap tensors = plain();
    tensors[name] = tensor;
    return complaint(tensors);
  };
  TensorMap tensors = plain();
  tensors.erase("cls_token");
  EXPECT_THAT(complaint(tensors), AllOf(HasSubstr("some.pth"), HasSubstr("missing: cls_token")));
  EXPECT_THAT(complaint_with("cls_token", at::zeros({64})), HasSubstr("cls_token: expected 3 dimensions"));
  EXPECT_THAT(complaint_with("cls_token", at::zeros({1, 1, 63})), HasSubstr("multiple of 64"));
  EXPECT_THAT(complaint_with("cls_token", at::zeros({1, 1, 0})), HasSubstr("multiple of 64"));
  EXPECT_THAT(complaint_with("pos_embed", at::zeros({1, 18, 64})), HasSubstr("square grid, found 18"));
  EXPECT_THAT(complaint_with("pos_embed", at::zeros({1, 0, 64})), HasSubstr("square grid"));
  EXPECT_THAT(complaint_with("blocks.0.attn.qkv.weight", at::zeros({64, 64})),
              HasSubstr("multiple of 3 rows"));
  EXPECT_THAT(complaint_with("blocks.0.attn.qkv.bias", at::zeros({})), HasSubstr("multiple of 3 rows"));
  EXPECT_THAT(complaint_with("blocks.0.mlp.fc1.weight", at::zeros({1'000'000, 0})), HasSubstr("mlp_ratio"));
  EXPECT_THAT(complaint_with("blocks.999999999999.norm1.bias", at::zeros({1})),
              HasSubstr("expected blocks 0, 1"));
  EXPECT_THAT(complaint_with("blocks.30.norm1.bias", at::zeros({1})), HasSubstr("names 31 blocks"));
}

TEST(FacebookWeights, TheInterpolationGoesWithTheExportedFolder) {
  const TemporaryFolder temporary;
  const auto model = load_dinov2(fixture("facebook_plain.pth"));
  save_encoder(temporary.path() / "model", *model);
  const auto again = load_dinov2(temporary.path() / "model");
  EXPECT_EQ(again->interpolation(), PositionInterpolation::kScaleFactor);
  const at::NoGradGuard no_grad;
  const at::Tensor pixels = random_pixels(10, 6);
  EXPECT_TRUE(at::equal(model->forward(pixels), again->forward(pixels)));
  EXPECT_EQ(load_dinov2(temporary.path() / "model", PositionInterpolation::kSize)->interpolation(),
            PositionInterpolation::kSize);
}

}  // namespace
}  // namespace tessera::vision
