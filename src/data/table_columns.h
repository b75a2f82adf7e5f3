#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "data/data_config.h"

namespace tessera::data {

/// Where a table of captions has what, by its first row.
struct TableColumns {
  std::size_t image = 0;
  std::size_t caption = 1;
  std::optional<std::size_t> image_id;
  std::size_t count = 0;
  bool has_header = false;
};

/// The columns that `options` names, or else those of a usual name (in any case); the first two where the row
/// is no header but a picture and its caption.
/// @throws Error, which doesn't name the table, where there is no such column (with those that there are), or
///         the row is neither
TableColumns columns_of(const std::vector<std::string>& first_row, const TableConfig& options);

/// "images from 'photo', captions from 'words'", for the log.
std::string columns_text(const TableColumns& columns, const std::vector<std::string>& first_row);

/// A picture's path without the number of its caption: "a.jpg" of "a.jpg#0".
std::string picture_path(const std::string& field);

}  // namespace tessera::data
