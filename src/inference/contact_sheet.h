#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

namespace tessera::inference {

/// A line of text under a picture, drawn green or red where it is right or wrong, grey where it is neither.
struct SheetLine {
  enum class Mark { kNone, kRight, kWrong };

  std::string text;
  Mark mark = Mark::kNone;
};

struct SheetCell {
  at::Tensor pixels;  ///< [3, H, W] uint8 RGB
  std::vector<SheetLine> lines;
};

/// Draws cells in rows as one PNG, written atomically. Text that is too wide is wrapped; characters outside
/// ASCII, which OpenCV's fonts lack, are drawn as '?'.
/// @throws Error naming the file where it can't be written
void write_contact_sheet(const std::filesystem::path& path, const std::vector<SheetCell>& cells, int columns);

}  // namespace tessera::inference
