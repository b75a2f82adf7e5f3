#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

#include "inference/explanation.h"

namespace tessera::inference {

/// An image with what is said of it and where its words are.
struct ExplainedImage {
  std::string name;
  at::Tensor pixels;  ///< [3, H, W] uint8 RGB, as the model saw it
  std::string caption;
  std::string note;  ///< where the caption is from, and how sure the model was
  std::vector<HeatMap> maps;
};

/// The ends of the colour scale that all heat maps of one image share, so that they can be compared: the
/// least and the greatest similarity among them. {0, 0} where there are none.
struct ColourRange {
  double low = 0;
  double high = 0;
};
ColourRange colour_range(const std::vector<HeatMap>& maps);

/// One PNG, a row an image: the image with its caption and the colour scale, then a heat map a word. Written
/// atomically.
/// @throws Error naming the file where it can't be written
void write_explanation_sheet(const std::filesystem::path& path, const std::vector<ExplainedImage>& images);

/// The same as a web page that holds its pictures itself. Written atomically.
/// @param title  above it
void write_explanation_page(const std::filesystem::path& path, const std::string& title,
                            const std::vector<ExplainedImage>& images);

}  // namespace tessera::inference
