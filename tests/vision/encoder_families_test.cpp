#include "vision/encoder_families.h"

#include <array>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "tests/vision/strip_encoder.h"
#include "tests/vision/vision_test_support.h"
#include "vision/encoder_files.h"

namespace tessera::vision {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

constexpr auto kAuto = PositionInterpolation::kAuto;

/// Those that there are, and one more.
std::vector<EncoderFamily> with_strips() {
  std::vector<EncoderFamily> families(encoder_families().begin(), encoder_families().end());
  families.push_back(strip_family());
  return families;
}

void expect_same_tensors(const VisionEncoder& left, const VisionEncoder& right) {
  const TensorMap expected = left.file_tensors(), found = right.file_tensors();
  ASSERT_EQ(expected.size(), found.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(tensor, found.at(name))) << name;
}

/// A folder's config.json without its model_type.
void forget_model_type(const fs::path& folder) {
  json config = json::parse(read_file(folder / "config.json"));
  ASSERT_EQ(config.erase("model_type"), 1u);
  write_file_atomically(folder / "config.json", config.dump());
}

TEST(EncoderFamilies, EachMakesItsOwnEncoderFromItsOwnConfiguration) {
  Dinov2Config registers = small_config();
  registers.with_registers = true;
  registers.num_register_tokens = 2;
  const std::vector<std::shared_ptr<VisionEncoder>> encoders = {random_model(), random_model(registers),
                                                                StripEncoder::random({}),
                                                                StripEncoder::random({.leading_tokens = 3})};
  const std::vector<EncoderFamily> families = with_strips();
  for (const auto& encoder : encoders) {
    const json config = encoder->config_json();
    const auto again = encoder_from_config(config, "file", kAuto, families);
    EXPECT_EQ(again->config_json(), config);
    EXPECT_EQ(again->hugging_face_class().name, encoder->hugging_face_class().name);
    again->load_file_tensors(encoder->file_tensors(), "file");
    const at::NoGradGuard no_grad;
    const at::Tensor pixels = random_pixels(28, 28);
    EXPECT_TRUE(at::equal(again->forward(pixels), encoder->forward(pixels)));
    EXPECT_EQ(encoder->forward(pixels).size(1), encoder->first_patch() + encoder->grid(28, 28).patches());
    EXPECT_EQ(encoder->pooled(encoder->forward(pixels)).sizes(),
              (std::vector<std::int64_t>{2, 1, encoder->hidden_size()}));
  }
}

TEST(EncoderFamilies, ModelTypeOrElseTheKeysDecideAboutAFolder) {
  const TemporaryFolder temporary;
  const std::vector<EncoderFamily> families = with_strips();
  const std::map<std::string, std::shared_ptr<VisionEncoder>> encoders = {
      {"dinov2", random_model()}, {"strips", StripEncoder::random({})}};
  for (const auto& [name, encoder] : encoders) {
    const fs::path folder = temporary.path() / name;
    save_encoder(folder, *encoder);
    for (const bool by_keys : {false, true}) {
      if (by_keys) forget_model_type(folder);
      for (const fs::path& path : {folder, folder / "model.safetensors"}) {
        const auto loaded = load_encoder(path, kAuto, families);
        EXPECT_EQ(loaded->config_json(), encoder->config_json()) << path << by_keys;
        expect_same_tensors(*encoder, *loaded);
      }
    }
    const json processor = json::parse(read_file(folder / "preprocessor_config.json"));
    EXPECT_EQ(processor["crop_size"]["height"], encoder->preprocessing().crop_size);
    EXPECT_EQ(processor["image_mean"], encoder->preprocessing().image_mean);
  }
}

TEST(EncoderFamilies, AFileOfFacebookNeedsNoConfigurationWhateverElseThereIs) {
  std::vector<EncoderFamily> families = with_strips();
  std::swap(families.front(), families.back());
  const fs::path file = fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints/facebook_plain.pth";
  const auto loaded = load_encoder(file, kAuto, families);
  EXPECT_EQ(loaded->config_json()["model_type"], "dinov2");
  EXPECT_EQ(loaded->config_json(), load_encoder(file)->config_json());
}

TEST(EncoderFamilies, WhatNoFamilyHasIsRefusedWithWhatIsAccepted) {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "model";
  const auto strips = StripEncoder::random({});
  save_encoder(folder, *strips);
  const std::string place = (folder / "config.json").string();
  EXPECT_THAT(error_of([&] { load_encoder(folder); }),
              testing::StrEq(place + ": model_type: expected \"dinov2\" or \"dinov2_with_registers\", found "
                                     "\"strips\""));
  forget_model_type(folder);
  EXPECT_THAT(error_of([&] { load_encoder(folder); }), AllOf(HasSubstr(place), HasSubstr("found none")));
  EXPECT_THAT(error_of([&] {
                encoder_from_config({{"model_type", 5}}, "the metadata", kAuto, with_strips());
              }),
              AllOf(HasSubstr("the metadata: model_type"),
                    HasSubstr("\"dinov2\", \"dinov2_with_registers\" or \"strips\""), HasSubstr("found 5")));
  EXPECT_THAT(error_of([&] { encoder_from_config(json::object(), "the metadata", kAuto); }),
              HasSubstr("found none"));
  EXPECT_THAT(error_of([&] { encoder_from_config(json::array(), "the metadata", kAuto); }),
              AllOf(HasSubstr("the metadata"), HasSubstr("array")));
  fs::remove(folder / "config.json");
  EXPECT_THAT(error_of([&] { load_encoder(folder, kAuto, with_strips()); }), HasSubstr("no config.json"));
}

TEST(EncoderFamilies, ARandomEncoderIsTheArchitecturesAndTheSeeds) {
  ArchitectureConfig architecture;
  architecture.hidden_size = 16;
  architecture.num_hidden_layers = 2;
  architecture.num_attention_heads = 2;
  architecture.image_size = 28;
  architecture.num_register_tokens = 1;
  const auto drawn = random_encoder(architecture, PositionInterpolation::kSize, 7);
  Dinov2Model expected(Dinov2Config::from_architecture(architecture), PositionInterpolation::kSize);
  initialise_random(expected, 7);
  EXPECT_EQ(drawn->config_json(), expected.config_json());
  expect_same_tensors(expected, *drawn);
}

TEST(VisionEncoder, WithoutAPooledTokenThePatchesMeanStandsForTheImage) {
  const at::NoGradGuard no_grad;
  const at::Tensor pixels = random_pixels(28, 28);
  const auto patches_alone = StripEncoder::random({});
  const at::Tensor tokens = patches_alone->forward(pixels);
  EXPECT_TRUE(at::equal(patches_alone->pooled(tokens), tokens.mean(1, /*keepdim=*/true)));
  const auto with_leading = StripEncoder::random({.leading_tokens = 3});
  const at::Tensor more = with_leading->forward(pixels);
  EXPECT_TRUE(at::equal(with_leading->pooled(more).squeeze(1), more.select(1, 0)));
}

}  // namespace
}  // namespace tessera::vision
