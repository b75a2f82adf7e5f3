#include "data/image_processor.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>

#include "data/image_transform.h"
#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// What the golden cases of image_processor hold against transformers is not repeated here.

json dinov2() {
  return {{"image_processor_type", "BitImageProcessor"},
          {"size", {{"shortest_edge", 256}}},
          {"image_mean", {0.485, 0.456, 0.406}},
          {"image_std", {0.229, 0.224, 0.225}}};
}

json with(json config, const char* field, const json& value) {
  config[field] = value;
  return config;
}

TEST(ImageProcessorOptions, HaveTheDefaultsOfTheirClass) {
  const auto bit = ImageProcessorOptions::from_json(dinov2(), "file");
  EXPECT_EQ(bit.shortest_edge, 256);
  EXPECT_TRUE(bit.do_center_crop);
  EXPECT_EQ(bit.crop_size.width, 224);
  EXPECT_EQ(bit.resample, ResizeFilter::kBicubic);
  EXPECT_EQ(bit.image_mean[2], 0.406);
  for (const char* name : {"ViTImageProcessor", "ViTImageProcessorFast"}) {
    const auto vit = ImageProcessorOptions::from_json({{"image_processor_type", name}}, "file");
    EXPECT_EQ(vit.shortest_edge, 0);
    EXPECT_EQ(vit.size.height, 224);
    EXPECT_FALSE(vit.do_center_crop);
    EXPECT_EQ(vit.resample, ResizeFilter::kBilinear);
    EXPECT_EQ(vit.image_std[0], 0.5);
  }
  EXPECT_EQ(ImageProcessorOptions::from_json(json::object(), "file").image_mean[0], 0.48145466);
}

TEST(ImageProcessorOptions, ReadEverySpellingOfASize) {
  const auto read = [](const json& config) { return ImageProcessorOptions::from_json(config, "file"); };
  EXPECT_EQ(read(with(dinov2(), "size", 96)).shortest_edge, 96);
  EXPECT_EQ(read({{"image_processor_type", "ViTImageProcessor"}, {"size", 96}}).size.width, 96);
  EXPECT_EQ(read(with(with(dinov2(), "size", 96), "default_to_square", true)).size.height, 96);
  EXPECT_EQ(read(with(dinov2(), "size", {{"height", 32}, {"width", 48}})).size.width, 48);
  EXPECT_EQ(read(with(dinov2(), "crop_size", 98)).crop_size.height, 98);
  EXPECT_EQ(read(with(dinov2(), "image_mean", 0.5)).image_mean[1], 0.5);
  EXPECT_EQ(read(with(dinov2(), "crop_size", nullptr)).crop_size.height, 224);
}

TEST(ImageProcessorOptions, RefuseWhatWouldChangeTheResult) {
  const std::vector<std::pair<const char*, json>> wrong = {
      {"image_processor_type", "SiglipImageProcessor"},
      {"image_processor_type", 3},
      {"size", {{"longest_edge", 224}}},
      {"size", {{"shortest_edge", 224}, {"longest_edge", 500}}},
      {"size", {{"shortest_edge", 0}}},
      {"size", {{"height", 224}, {"width", 224.5}}},
      {"size", json::array({224, 224})},
      {"resample", 1},
      {"resample", "bicubic"},
      {"crop_size", {{"shortest_edge", 224}}},
      {"crop_size", -3},
      {"rescale_factor", "1/255"},
      {"rescale_factor", std::nan("")},
      {"image_mean", json::array({0.5, -HUGE_VAL, 0.5})},
      {"crop_pct", HUGE_VAL},
      {"image_mean", json::array({0.5, 0.5})},
      {"image_std", json::array({0.5, 0, 0.5})},
      {"do_resize", "yes"},
      {"do_pad", true},
      {"crop_pct", 0.875},
      {"auto_map", {{"AutoImageProcessor", "a.B"}}},
      {"data_format", "channels_last"},
  };
  for (const auto& [field, value] : wrong) {
    const json config = with(dinov2(), field, value);
    const std::string error = error_of([&] { ImageProcessorOptions::from_json(config, "the file"); });
    EXPECT_THAT(error, HasSubstr(std::string("the file: ") + field)) << value;
  }
  EXPECT_THAT(error_of([] { ImageProcessorOptions::from_json(json::array(), "the file"); }),
              HasSubstr("object"));
}

TEST(ImageProcessorOptions, LetPassWhatChangesNothing) {
  json config = dinov2();
  config.update({{"do_pad", false},
                 {"pad_size", {{"height", 5}, {"width", 5}}},
                 {"data_format", "channels_first"},
                 {"disable_grouping", true},
                 {"device", "cuda"},
                 {"crop_pct", nullptr},
                 {"similarity", std::nan("")},
                 {"processor_class", "AProcessor"},
                 {"do_convert_rgb", true}});
  EXPECT_EQ(error_of([&] { ImageProcessorOptions::from_json(config, "file"); }), "");
  // A field whose step is off says nothing either.
  config.update({{"do_resize", false}, {"resample", 1}, {"do_center_crop", false}, {"crop_size", "?"}});
  EXPECT_EQ(error_of([&] { ImageProcessorOptions::from_json(config, "file"); }), "");
}

TEST(ImageProcessorOptions, AreReadFromAFolderAndWrittenBack) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { ImageProcessorOptions::load(folder.path()); }),
              HasSubstr("preprocessor_config.json"));
  write_bytes(folder.file("preprocessor_config.json"), "{\"size\": ");
  EXPECT_THAT(error_of([&] { ImageProcessorOptions::load(folder.path()); }), HasSubstr("not valid JSON"));
  write_bytes(folder.file("preprocessor_config.json"), "{\"image_std\": [0.5, NaN, 0.5]}");
  EXPECT_THAT(error_of([&] { ImageProcessorOptions::load(folder.path()); }),
              HasSubstr("image_std: expected three numbers above 0, found [0.5,NaN,0.5]"));
  write_bytes(folder.file("preprocessor_config.json"), "{\"threshold\": NaN, \"size\": 30}");
  EXPECT_EQ(ImageProcessorOptions::load(folder.path()).shortest_edge, 30);
  const json config =
      ImageProcessorOptions::from_json(with(dinov2(), "size", {{"height", 20}, {"width", 30}}), "file")
          .to_json();
  write_bytes(folder.file("preprocessor_config.json"), config.dump());
  EXPECT_EQ(ImageProcessorOptions::load(folder.path()).to_json(), config);
  EXPECT_EQ(config["size"]["width"], 30);
}

TEST(ImageProcessorOptions, ChangeTheirSizeInProportion) {
  const auto dino = ImageProcessorOptions::from_json(dinov2(), "file").with_image_size(518);
  EXPECT_EQ(dino.shortest_edge, 592);
  EXPECT_EQ(dino.crop_size.height, 518);
  const auto vit = ImageProcessorOptions::from_json({{"image_processor_type", "ViTImageProcessor"}}, "file")
                       .with_image_size(98);
  EXPECT_EQ(vit.size.height, 98);
  EXPECT_EQ(vit.shortest_edge, 0);
}

TEST(ImageProcessor, GivesTheEvaluationTransformWhereTheEdgeIsTheCrop) {
  const cv::Mat image = decode_image(as_bytes(encoded_image(".png", 4, 90, 61)), "image");
  ImageProcessorOptions options;
  options.shortest_edge = 32;
  options.crop_size = {32, 32};
  const at::Tensor expected = at::empty({3, 32, 32}, at::kByte);
  resize_and_centre_crop(image, expected, "image");
  const ImageProcessor processor(options);
  EXPECT_TRUE(at::equal(processor.pixels(image, "image"), expected));
  const at::Tensor normalised =
      (expected.to(at::kDouble) / 255 -
       at::tensor(std::vector<double>(options.image_mean.begin(), options.image_mean.end()))
           .view({3, 1, 1})) /
      at::tensor(std::vector<double>(options.image_std.begin(), options.image_std.end())).view({3, 1, 1});
  EXPECT_TRUE(at::allclose(processor.process(image, "image").to(at::kDouble), normalised, 0, 1e-6));
}

TEST(ImageProcessor, RefusesASliverThatWouldFillTheMemory) {
  ImageProcessorOptions options;
  options.do_center_crop = false;
  const cv::Mat sliver(1, 5000, CV_8UC3, cv::Scalar(1, 2, 3));
  EXPECT_THAT(error_of([&] { ImageProcessor(options).pixels(sliver, "thin.png"); }), HasSubstr("thin.png"));
  options.do_center_crop = true;
  EXPECT_EQ(ImageProcessor(options).pixels(sliver, "thin.png").size(2), 224);
}

}  // namespace
}  // namespace tessera::data
