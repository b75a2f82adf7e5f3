#include "data/image_transform.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::HasSubstr;

cv::Vec3b pixel(const cv::Mat& image, int x, int y) { return image.at<cv::Vec3b>(y, x); }

void expect_color(const cv::Mat& image, int x, int y, int red, int green, int blue, int tolerance) {
  const cv::Vec3b found = pixel(image, x, y);
  EXPECT_NEAR(found[0], red, tolerance) << "red at " << x << ", " << y;
  EXPECT_NEAR(found[1], green, tolerance) << "green at " << x << ", " << y;
  EXPECT_NEAR(found[2], blue, tolerance) << "blue at " << x << ", " << y;
}

/// Left half red, right half blue, top quarter white: upright and mirrored forms can all be told apart.
cv::Mat oriented_picture() {
  cv::Mat bgr(32, 64, CV_8UC3, cv::Scalar(0, 0, 255));
  bgr(cv::Rect(32, 0, 32, 32)).setTo(cv::Scalar(255, 0, 0));
  bgr(cv::Rect(0, 0, 64, 8)).setTo(cv::Scalar(255, 255, 255));
  return bgr;
}

std::string jpeg_with_orientation(char orientation) {
  using namespace std::string_literals;
  std::string jpeg = encode(".jpg", oriented_picture());
  std::string exif = "Exif\0\0"s + "MM\0\x2a\0\0\0\x08"s + "\0\x01"s + "\x01\x12\0\x03\0\0\0\x01"s;
  exif += "\0"s + orientation + "\0\0"s + "\0\0\0\0"s;
  const std::string segment = "\xff\xe1"s + '\0' + static_cast<char>(exif.size() + 2) + exif;
  return jpeg.insert(2, segment);
}

TEST(DecodeImage, GivesRgbForEveryFormat) {
  for (const char* format : {".jpg", ".png", ".webp"}) {
    const cv::Mat image = decode_image(as_bytes(encode(format, oriented_picture())), "image");
    ASSERT_EQ(image.type(), CV_8UC3) << format;
    expect_color(image, 10, 20, 255, 0, 0, 6);
    expect_color(image, 54, 20, 0, 0, 255, 6);
  }
}

TEST(DecodeImage, TurnsTheImageUpright) {
  expect_color(decode_image(as_bytes(jpeg_with_orientation(1)), "image"), 10, 20, 255, 0, 0, 6);
  const cv::Mat half_turn = decode_image(as_bytes(jpeg_with_orientation(3)), "image");
  expect_color(half_turn, 10, 12, 0, 0, 255, 6);
  expect_color(half_turn, 10, 29, 255, 255, 255, 6);
  const cv::Mat quarter_turn = decode_image(as_bytes(jpeg_with_orientation(6)), "image");  // clockwise
  ASSERT_EQ(quarter_turn.cols, 32);
  ASSERT_EQ(quarter_turn.rows, 64);
  expect_color(quarter_turn, 10, 10, 255, 0, 0, 6);
  expect_color(quarter_turn, 10, 54, 0, 0, 255, 6);
  expect_color(quarter_turn, 29, 10, 255, 255, 255, 6);
}

TEST(DecodeImage, GreyBecomesColour) {
  const cv::Mat grey(16, 16, CV_8U, cv::Scalar(77));
  for (const char* format : {".jpg", ".png"}) {
    const cv::Mat image = decode_image(as_bytes(encode(format, grey)), "image");
    ASSERT_EQ(image.type(), CV_8UC3);
    expect_color(image, 5, 5, 77, 77, 77, 2);
  }
  const cv::Mat deep(16, 16, CV_16U, cv::Scalar(77 * 257));
  expect_color(decode_image(as_bytes(encode(".png", deep)), "image"), 5, 5, 77, 77, 77, 1);
}

TEST(DecodeImage, TransparencyIsLaidOnWhite) {
  cv::Mat image(16, 16, CV_8UC4, cv::Scalar(0, 0, 0, 0));  // black beneath, as most programs leave it
  image(cv::Rect(8, 0, 8, 8)).setTo(cv::Scalar(0, 0, 200, 255));
  image(cv::Rect(8, 8, 8, 8)).setTo(cv::Scalar(0, 0, 200, 128));
  for (const char* format : {".png", ".webp"}) {
    const cv::Mat rgb = decode_image(as_bytes(encode(format, image)), "image");
    expect_color(rgb, 3, 3, 255, 255, 255, 0);
    expect_color(rgb, 12, 3, 200, 0, 0, 12);
    expect_color(rgb, 12, 12, 227, 127, 127, 12);
  }
}

TEST(DecodeImage, ReadsCmykJpegs) {
  // 8 × 8, C 0, M 200, Y 180, K 20 of 255, written by Pillow, which converts it to RGB (235, 51, 69).
  const std::string hex =
      "ffd8ffee000e41646f626500640000000000ffdb004300030202030202030303030403030405080505040405"
      "0a070706080c0a0c0c0b0a0b0b0d0e12100d0e110e0b0b1016101113141515150c0f171816141812141514ff"
      "c000140800080008044311004d11005911004b1100ffc40015000101000000000000000000000000000008"
      "09ffc40014100100000000000000000000000000000000ffda000e0443004d0059004b00003f00aa61e0e4"
      "a3afffd9";
  std::string jpeg;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    jpeg += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  expect_color(decode_image(as_bytes(jpeg), "image"), 3, 3, 235, 51, 69, 6);
}

TEST(DecodeImage, ABrokenImageIsAnErrorThatNamesIt) {
  std::vector<std::string> broken = {"", "\xff", "text, no image at all", "GIF89a" + std::string(40, '\1')};
  for (const char* format : {".jpg", ".png", ".webp"}) {
    const std::string whole = encoded_image(format, 3, 120, 90);
    // All but the last byte, too: decoders fill what is missing of a JPEG with grey.
    for (const std::size_t length : {std::size_t{3}, std::size_t{20}, whole.size() / 2, whole.size() - 1}) {
      broken.push_back(whole.substr(0, length));
    }
    broken.push_back(whole.substr(0, whole.size() / 3) + std::string(whole.size() - whole.size() / 3, '\0'));
  }
  std::string huge = encoded_image(".png", 3);
  for (std::size_t i = 16; i < 24; ++i) huge[i] = '\x7f';
  broken.push_back(huge);
  for (const auto& bytes : broken) {
    EXPECT_THAT(error_of([&] { decode_image(as_bytes(bytes), "a.tar: key"); }), HasSubstr("a.tar: key"))
        << bytes.size() << " bytes, " << bytes.substr(0, 4);
  }
}

TEST(DecodeImage, BytesAfterTheEndOfAJpegDoNoHarm) {
  const std::string bytes = encoded_image(".jpg", 3) + std::string(100, '\xff');
  EXPECT_FALSE(decode_image(as_bytes(bytes), "image").empty());
}

/// The cubic convolution kernel with a = -0.5, widened by `scale` where the image shrinks (antialiasing).
double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

std::vector<double> reference_resize(const std::vector<double>& values, int size) {
  const double scale = static_cast<double>(values.size()) / size;
  const double widening = std::max(1.0, scale);
  std::vector<double> result;
  for (int i = 0; i < size; ++i) {
    const double centre = (i + 0.5) * scale;
    double sum = 0;
    double weights = 0;
    for (std::size_t j = 0; j < values.size(); ++j) {
      const double weight = cubic((static_cast<double>(j) + 0.5 - centre) / widening);
      sum += weight * values[j];
      weights += weight;
    }
    result.push_back(std::clamp(sum / weights, 0.0, 255.0));
  }
  return result;
}

TEST(ResizedCrop, IsAntialiasedBicubicInBothDirections) {
  const std::vector<double> values = {0, 255, 10, 200, 90, 30, 250, 5, 130, 60, 220, 100};
  for (const int size : {4, 5, 12, 20}) {
    cv::Mat image(static_cast<int>(values.size()), static_cast<int>(values.size()), CV_8UC3);
    for (int y = 0; y < image.rows; ++y) {
      for (int x = 0; x < image.cols; ++x) {
        const auto along_x = static_cast<uchar>(values[static_cast<std::size_t>(x)]);
        const auto along_y = static_cast<uchar>(values[static_cast<std::size_t>(y)]);
        image.at<cv::Vec3b>(y, x) = cv::Vec3b(along_x, along_y, 128);
      }
    }
    const at::Tensor out = at::empty({3, size, size}, at::kByte);
    resized_crop(image, {0, 0, image.rows, image.cols}, out);
    const std::vector<double> expected = reference_resize(values, size);
    for (int i = 0; i < size; ++i) {
      const double reference = expected[static_cast<std::size_t>(i)];
      EXPECT_NEAR(out[0][1][i].item<int>(), reference, 1.01) << "size " << size;
      EXPECT_NEAR(out[1][i][2].item<int>(), reference, 1.01) << "size " << size;
      EXPECT_EQ(out[2][i][0].item<int>(), 128);
    }
  }
}

TEST(ResizedCrop, CutsTheBoxThatItIsGiven) {
  const cv::Mat image = decode_image(as_bytes(encoded_image(".png", 2, 30, 20)), "image");
  const at::Tensor out = at::empty({3, 8, 8}, at::kByte);
  resized_crop(image, {5, 11, 8, 8}, out);
  for (int y = 0; y < 8; ++y) {
    for (int x = 0; x < 8; ++x) {
      for (int c = 0; c < 3; ++c) EXPECT_EQ(out[c][y][x].item<int>(), pixel(image, 11 + x, 5 + y)[c]);
    }
  }
}

TEST(ResizeAndCentreCrop, TakesTheMiddleOfTheLongerEdge) {
  cv::Mat wide(10, 40, CV_8UC3, cv::Scalar(0, 0, 0));
  wide(cv::Rect(15, 0, 10, 10)).setTo(cv::Scalar(200, 100, 50));
  for (const bool upright : {false, true}) {
    const cv::Mat image = upright ? cv::Mat(wide.t()) : wide;
    const at::Tensor out = at::empty({3, 10, 10}, at::kByte);
    resize_and_centre_crop(image, out, "image");
    EXPECT_TRUE(out[0].eq(200).all().item<bool>());
    EXPECT_TRUE(out[2].eq(50).all().item<bool>());
  }
  const cv::Mat sliver(1, 65, CV_8UC3, cv::Scalar(1, 2, 3));
  EXPECT_THAT(error_of([&] {
                resize_and_centre_crop(sliver, at::empty({3, 4, 4}, at::kByte), "thin");
              }),
              HasSubstr("thin"));
}

TEST(RandomCropBox, StaysInsideTheImageAndWithinItsRanges) {
  const AugmentationConfig augmentation;
  for (const auto& [height, width] : {std::pair{100, 160}, {3, 500}, {500, 3}, {1, 1}, {224, 224}}) {
    double smallest = 2;
    double largest = 0;
    for (std::uint64_t index = 0; index < 500; ++index) {
      CounterRandom random(1, RandomPurpose::kAugmentation, 0, index);
      const CropBox box = random_crop_box(height, width, augmentation, random);
      ASSERT_GE(box.top, 0);
      ASSERT_GE(box.left, 0);
      ASSERT_GE(std::min(box.height, box.width), 1);
      ASSERT_LE(box.top + box.height, height);
      ASSERT_LE(box.left + box.width, width);
      const double scale = static_cast<double>(box.height * box.width) / (height * width);
      smallest = std::min(smallest, scale);
      largest = std::max(largest, scale);
    }
    if (height == 100) {
      EXPECT_NEAR(smallest, augmentation.scale_min, 0.03);
      EXPECT_GT(largest, 0.8);
    }
  }
}

}  // namespace
}  // namespace tessera::data
