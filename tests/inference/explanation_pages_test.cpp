#include "inference/explanation_pages.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <opencv2/imgcodecs.hpp>

#include "core/error.h"
#include "core/files.h"
#include "inference/drawing.h"
#include "tests/core/temporary_folder.h"

namespace tessera::inference {
namespace {

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

HeatMap map(const std::string& word, std::vector<float> values) {
  return {word, true, torch::tensor(values).view({2, 2})};
}

ExplainedImage explained(const std::string& caption, std::vector<HeatMap> maps) {
  return {"folder/one.png", torch::full({3, 28, 28}, 200, torch::kByte), caption, "log p -1",
          std::move(maps)};
}

/// The bytes behind a page's n-th picture, by a decoder of the test's own.
std::vector<unsigned char> picture_of(const std::string& html, int number) {
  const std::string prefix = "base64,",
                    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::size_t at = 0;
  for (int i = 0; i <= number; ++i) at = html.find(prefix, at) + prefix.size();
  std::vector<unsigned char> bytes;
  std::uint32_t bits = 0;
  int held = 0;
  for (; html[at] != '"' && html[at] != '='; ++at) {
    bits = bits << 6 | static_cast<std::uint32_t>(alphabet.find(html[at]));
    held += 6;
    if (held >= 8) bytes.push_back(static_cast<unsigned char>(bits >> (held -= 8) & 255));
  }
  return bytes;
}

TEST(ColourRange, IsThatOfAllMapsTogether) {
  const ColourRange range = colour_range({map("a", {0.1F, 0.2F, 0.3F, 0.2F}), map("b", {-0.5F, 0, 0, 0})});
  EXPECT_FLOAT_EQ(range.low, -0.5F);
  EXPECT_FLOAT_EQ(range.high, 0.3F);
  EXPECT_EQ(colour_range({}).high, 0);
}

TEST(DrawnHeatMap, IsBrightWhereTheSimilarityIs) {
  const at::Tensor pixels = torch::full({3, 28, 28}, 128, torch::kByte);
  const cv::Mat drawn = drawn_heat_map(pixels, torch::tensor({{0.0F, 1.0F}, {0.0F, 0.0F}}), 0, 1, 64, 64);
  const auto light = [&](int y, int x) {
    const cv::Vec3b pixel = drawn.at<cv::Vec3b>(y, x);
    return pixel[0] + pixel[1] + pixel[2];
  };
  EXPECT_GT(light(4, 60), light(4, 4) + 100);
  EXPECT_EQ(light(4, 4), light(60, 4));
  // Beyond the scale is the scale's end; a map without any range is low everywhere.
  const cv::Mat beyond = drawn_heat_map(pixels, torch::full({2, 2}, 7.0F), 0, 1, 64, 64);
  EXPECT_EQ(beyond.at<cv::Vec3b>(4, 4), drawn.at<cv::Vec3b>(2, 62));
  const cv::Mat flat = drawn_heat_map(pixels, torch::full({2, 2}, 0.5F), 0.5, 0.5, 64, 64);
  EXPECT_EQ(flat.at<cv::Vec3b>(4, 4), drawn.at<cv::Vec3b>(4, 4));
}

TEST(ExplanationPage, HoldsItsPicturesAndEscapesItsText) {
  const TemporaryFolder folder;
  write_explanation_page(
      folder.path() / "page.html", "a & b",
      {explained("a <b>bold</b> \"claim\"", {map("bold", {0, 1, 0, 0}), map("<", {0, 0, 0, 1})}),
       explained("", {})});
  const std::string html = read_file(folder.path() / "page.html");
  EXPECT_EQ(count(html, "<article>"), 2);
  EXPECT_EQ(count(html, "<figure>"), 2);
  EXPECT_EQ(count(html, "data:image/png;base64,"), 5);  // two images, one scale, two maps
  EXPECT_EQ(count(html, "http"), 0) << "nothing is loaded from elsewhere";
  EXPECT_NE(html.find("a &lt;b&gt;bold&lt;/b&gt; &quot;claim&quot;"), std::string::npos);
  EXPECT_EQ(html.find("<b>"), std::string::npos);
  EXPECT_NE(html.find("<h1>a &amp; b</h1>"), std::string::npos);
  for (int number = 0; number < 5; ++number) {
    EXPECT_FALSE(cv::imdecode(picture_of(html, number), cv::IMREAD_COLOR).empty()) << number;
  }
}

TEST(ExplanationSheet, GrowsWithItsWordsAndImages) {
  const TemporaryFolder folder;
  const auto height = [&](const std::vector<ExplainedImage>& images) {
    write_explanation_sheet(folder.path() / "sheet.png", images);
    return cv::imread((folder.path() / "sheet.png").string()).rows;
  };
  const std::vector<HeatMap> many(20, map("word", {0, 1, 2, 3}));
  const int one = height({explained("a caption", {map("caption", {0, 1, 2, 3})})});
  EXPECT_GT(one, 100);
  EXPECT_GT(height({explained("a caption", many)}), one + 100);
  EXPECT_EQ(height({explained("a caption", {map("caption", {0, 1, 2, 3})}), explained("", {})}) > one + 100,
            true);
  EXPECT_THROW(write_explanation_sheet(folder.path() / "nowhere" / "sheet.png", {explained("a", {})}), Error);
}

TEST(WrappedText, KeepsEveryWordWithinTheWidth) {
  const std::string text = "a small red circle is left of a large blue square above a green triangle";
  std::string again;
  for (const std::string& line : wrapped_text(text, 120, 0.4)) {
    EXPECT_LE(line_width(line, 0.4), 120) << line;
    again += (again.empty() ? "" : " ") + line;
  }
  EXPECT_EQ(again, text);
  EXPECT_EQ(wrapped_text("caf\u00e9", 120, 0.4).front(), "caf?");
}

}  // namespace
}  // namespace tessera::inference
