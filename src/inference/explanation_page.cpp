#include <ATen/ATen.h>

#include <cstdint>
#include <opencv2/core.hpp>

#include "core/error.h"
#include "core/files.h"
#include "inference/drawing.h"
#include "inference/explanation_pages.h"

namespace tessera::inference {

namespace {

constexpr int kPagePicture = 252;
constexpr int kPageTile = 168;

constexpr const char* kStyle = R"(
  body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
         color: #222; background: #fff; }
  h1 { font-size: 1.3rem; font-weight: 600; }
  article { display: flex; gap: 1.5rem; padding: 1.5rem 0; border-top: 1px solid #ddd; }
  .image { flex: none; width: 252px; }
  .maps { display: flex; flex-wrap: wrap; gap: 1rem; align-content: flex-start; }
  figure { margin: 0; width: 168px; }
  img { display: block; width: 100%; border-radius: 4px; }
  .caption { font-size: 1.05rem; margin: .6rem 0 .2rem; }
  .note, .range, .scale { color: #777; font-size: .8rem; overflow-wrap: anywhere; }
  .scale { margin-top: .8rem; }
  .scale img { height: 10px; margin-bottom: .2rem; }
  .ends { display: flex; justify-content: space-between; }
)";

/// RFC 4648, section 4.
std::string base64(const std::string& bytes) {
  static constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += i + k <= bytes.size() ? kAlphabet[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

std::string escaped(const std::string& text) {
  std::string html;
  for (const char c : text) {
    switch (c) {
      case '&':
        html += "&amp;";
        break;
      case '<':
        html += "&lt;";
        break;
      case '>':
        html += "&gt;";
        break;
      case '"':
        html += "&quot;";
        break;
      default:
        html += c;
    }
  }
  return html;
}

std::string image_element(const cv::Mat& picture, const std::string& description) {
  return fmt::format("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escaped(description),
                     base64(png_bytes(picture)));
}

std::string map_element(const ExplainedImage& image, const HeatMap& map, const ColourRange& range) {
  const cv::Mat picture =
      drawn_heat_map(image.pixels, map.similarity, range.low, range.high, kPageTile, kPageTile);
  return fmt::format(
      "<figure>{}<figcaption>{}{}<div class=\"range\">{:.2f} … {:.2f}</div></figcaption></figure>\n",
      image_element(picture, "where the model sees: " + map.word), escaped(map.word),
      map.in_text ? "" : " <span class=\"note\">(by itself)</span>", map.similarity.min().item<double>(),
      map.similarity.max().item<double>());
}

std::string article(const ExplainedImage& image) {
  const ColourRange range = colour_range(image.maps);
  std::string html = fmt::format(
      "<article>\n<div class=\"image\">{}\n<div class=\"caption\">{}</div>\n<div "
      "class=\"note\">{}<br>{}</div>\n",
      image_element(drawn_picture(image.pixels, kPagePicture, kPagePicture), image.caption),
      image.caption.empty() ? "(no words)" : escaped(image.caption), escaped(image.note),
      escaped(image.name));
  if (!image.maps.empty()) {
    html += fmt::format(
        "<div class=\"scale\">{}<div class=\"ends\"><span>{:.2f}</span><span>similarity</span>"
        "<span>{:.2f}</span></div></div>\n",
        image_element(drawn_colour_scale(kPagePicture, 10), "colour scale"), range.low, range.high);
  }
  html += "</div>\n<div class=\"maps\">\n";
  for (const HeatMap& map : image.maps) html += map_element(image, map, range);
  return html + "</div>\n</article>\n";
}

}  // namespace

void write_explanation_page(const std::filesystem::path& path, const std::string& title,
                            const std::vector<ExplainedImage>& images) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" "
      "content=\"width=device-width\">\n<title>{0}</title>\n<style>{1}</style>\n</head>\n"
      "<body>\n<h1>{0}</h1>\n"
      "<p>Each small picture shows how similar the image's patches are to a word, by the embeddings that "
      "MaxSim compares (mean over the word's tokens of the inner product). All of one image share a colour "
      "scale; each has its own lowest and highest value beneath it.</p>\n",
      escaped(title), kStyle);
  for (const ExplainedImage& image : images) html += article(image);
  write_file_atomically(path, html + "</body>\n</html>\n");
}

}  // namespace tessera::inference
