#include "data/resize.h"

#include <gmock/gmock.h>

#include <opencv2/core.hpp>
#include <vector>

namespace tessera::data {
namespace {

cv::Mat pattern(int height, int width) {
  cv::Mat image(height, width, CV_8UC3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        image.at<cv::Vec3b>(y, x)[c] =
            static_cast<uchar>((x * 37 + y * 91 + c * 53 + (x * y) % 17 * 11) % 256);
      }
    }
  }
  return image;
}

cv::Mat whole(const cv::Mat& image, std::int64_t height, std::int64_t width, ResizeFilter filter) {
  return resize_region(image, {height, width}, filter, {0, 0, height, width});
}

std::vector<int> reds(const cv::Mat& image) {
  std::vector<int> values;
  for (int y = 0; y < image.rows; ++y) {
    for (int x = 0; x < image.cols; ++x) values.push_back(image.at<cv::Vec3b>(y, x)[0]);
  }
  return values;
}

bool same(const cv::Mat& one, const cv::Mat& other) {
  return one.size() == other.size() && cv::norm(one, other, cv::NORM_INF) == 0;
}

// What Pillow 13.0.0 makes of the pattern.
TEST(Resize, IsPillowsBitForBit) {
  EXPECT_EQ(reds(whole(pattern(7, 9), 3, 4, ResizeFilter::kBicubic)),
            (std::vector<int>{102, 135, 131, 117, 122, 128, 136, 128, 116, 145, 108, 138}));
  EXPECT_EQ(reds(whole(pattern(3, 4), 5, 7, ResizeFilter::kBicubic)),
            (std::vector<int>{0,   3,   26,  48,  68,  92,  105, 26,  38,  65,  94,  124,
                              150, 164, 87,  104, 135, 163, 191, 222, 239, 149, 175, 210,
                              155, 99,  134, 160, 184, 215, 252, 141, 30,  67,  98}));
  EXPECT_EQ(reds(whole(pattern(7, 9), 3, 4, ResizeFilter::kBilinear)),
            (std::vector<int>{106, 133, 130, 118, 117, 132, 132, 127, 118, 140, 115, 135}));
  // So tall that the columns come first.
  EXPECT_EQ(reds(whole(pattern(40, 5), 4, 3, ResizeFilter::kBicubic)),
            (std::vector<int>{122, 137, 117, 132, 136, 132, 137, 138, 129, 116, 127, 141}));
}

/// FNV-1a.
std::uint64_t fingerprint(const cv::Mat& image) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (int y = 0; y < image.rows; ++y) {
    for (const uchar* byte = image.ptr(y); byte != image.ptr(y) + 3 * image.cols; ++byte)
      hash = (hash ^ *byte) * 0x100000001b3;
  }
  return hash;
}

// A size at which libraries have been seen to differ (pillow-resize issue 11, MNN issue 4595).
TEST(Resize, IsPillowsAtTheSizesOfPhotographs) {
  const cv::Mat image = pattern(391, 736);
  EXPECT_EQ(fingerprint(whole(image, 224, 224, ResizeFilter::kBicubic)), 0x7f33b44751b07eb5);
  EXPECT_EQ(fingerprint(whole(image, 224, 421, ResizeFilter::kBicubic)), 0x48a9ec5bd38629f4);
  EXPECT_EQ(fingerprint(whole(image, 224, 224, ResizeFilter::kBilinear)), 0xa4ed876537f0fc0e);
  EXPECT_EQ(fingerprint(whole(image, 224, 421, ResizeFilter::kBilinear)), 0x37663ef2955d0724);
}

TEST(Resize, ARegionIsCutFromTheWhole) {
  for (const auto& [height, width] : {std::pair{37, 51}, {64, 9}, {5, 80}, {200, 20}}) {
    const cv::Mat image = pattern(height, width);
    for (const auto& [to_height, to_width] : {std::pair{20, 30}, {90, 70}, {37, 30}, {64, 9}, {20, 51}}) {
      for (const ResizeFilter filter : {ResizeFilter::kBilinear, ResizeFilter::kBicubic}) {
        const cv::Mat all = whole(image, to_height, to_width, filter);
        const CropBox box{to_height / 3, to_width / 4, to_height / 2, to_width / 2};
        const cv::Mat part = resize_region(image, {to_height, to_width}, filter, box);
        const cv::Rect cut(static_cast<int>(box.left), static_cast<int>(box.top), static_cast<int>(box.width),
                           static_cast<int>(box.height));
        EXPECT_TRUE(same(part, all(cut)))
            << height << " × " << width << " to " << to_height << " × " << to_width;
      }
    }
  }
}

TEST(Resize, ReadsAPartOfALargerImage) {
  const cv::Mat image = pattern(40, 60);
  const cv::Rect rect(7, 11, 30, 20);
  EXPECT_TRUE(same(whole(image(rect), 9, 50, ResizeFilter::kBicubic),
                   whole(image(rect).clone(), 9, 50, ResizeFilter::kBicubic)));
}

TEST(Resize, KeepsFlatColourAndImagesOfTheSameSize) {
  const cv::Mat flat(30, 70, CV_8UC3, cv::Scalar(1, 254, 77));
  for (const auto& [height, width] : {std::pair{7, 9}, {100, 90}, {1, 1}, {30, 3}, {300, 70}}) {
    EXPECT_TRUE(same(whole(flat, height, width, ResizeFilter::kBicubic),
                     cv::Mat(height, width, CV_8UC3, cv::Scalar(1, 254, 77))));
  }
  const cv::Mat image = pattern(12, 15);
  EXPECT_TRUE(same(whole(image, 12, 15, ResizeFilter::kBicubic), image));
}

TEST(Resize, SizesAreCutToWholePixels) {
  const ResizedSize wide = with_shortest_edge(375, 500, 256);
  EXPECT_EQ(wide.height, 256);
  EXPECT_EQ(wide.width, 341);
  const ResizedSize tall = with_shortest_edge(1000, 3, 224);
  EXPECT_EQ(tall.height, 74666);
  EXPECT_EQ(tall.width, 224);
}

}  // namespace
}  // namespace tessera::data
