#include "data/table_columns.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <span>

#include "core/error.h"
#include "core/utf8.h"
#include "data/file_names.h"

namespace tessera::data {
namespace {

constexpr std::array<const char*, 9> kImageNames = {
    "image", "image_path", "image_name", "file_name", "filename", "file_path", "filepath", "file", "path"};
constexpr std::array<const char*, 6> kCaptionNames = {"caption",  "text",    "title",
                                                      "sentence", "comment", "description"};
constexpr std::array<const char*, 1> kImageIdNames = {"image_id"};

/// The column of the first of these names that the header has.
std::optional<std::size_t> usual_column(const std::vector<std::string>& header,
                                        std::span<const char* const> names) {
  for (const char* name : names) {
    for (std::size_t i = 0; i < header.size(); ++i) {
      if (lower_case(header[i]) == name) return i;
    }
  }
  return std::nullopt;
}

/// The column that the configuration names, or one of the usual ones.
std::optional<std::size_t> column_of(const std::vector<std::string>& header, const std::string& name,
                                     const char* key, std::span<const char* const> usual) {
  if (name.empty()) return usual_column(header, usual);
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) {
    fail("data.table.{}: there is no column '{}'; the first row has '{}'", key, name,
         fmt::join(header, "', '"));
  }
  if (std::find(found + 1, header.end(), name) != header.end()) {
    fail("data.table.{}: several columns are called '{}'", key, name);
  }
  return static_cast<std::size_t>(found - header.begin());
}

}  // namespace

std::string picture_path(const std::string& field) {
  const std::size_t mark = field.rfind('#');
  if (mark == std::string::npos || mark + 1 == field.size()) return field;
  const bool is_number = field.find_first_not_of("0123456789", mark + 1) == std::string::npos;
  const std::string path = field.substr(0, mark);
  return is_number && is_image_extension(lower_extension(path)) ? path : field;
}

TableColumns columns_of(const std::vector<std::string>& first_row, const TableConfig& options) {
  TableColumns columns;
  columns.count = first_row.size();
  const std::string found = fmt::format("{}", fmt::join(first_row, "', '"));
  const auto image = column_of(first_row, options.image, "image", kImageNames);
  const auto caption = column_of(first_row, options.caption, "caption", kCaptionNames);
  const auto image_id = column_of(first_row, options.image_id, "image_id", kImageIdNames);
  if (image && caption) {
    if (*image == *caption) fail("the images and the captions are in one column, '{}'", first_row[*image]);
    columns.image = *image;
    columns.caption = *caption;
    columns.image_id = image_id;
    columns.has_header = true;
    return columns;
  }
  const bool is_named = !options.image.empty() || !options.caption.empty() || !options.image_id.empty();
  if (!is_named && first_row.size() > 1 &&
      is_image_extension(lower_extension(picture_path(first_row.front())))) {
    return columns;
  }
  fail(
      "the first row ('{}') is neither a header with columns of images ({}) and captions ({}) nor a picture "
      "(.jpg, .jpeg, .png, .webp) and its caption; name the columns with data.table.image and "
      "data.table.caption (on command lines: --table)",
      found, fmt::join(kImageNames, ", "), fmt::join(kCaptionNames, ", "));
}

std::string columns_text(const TableColumns& columns, const std::vector<std::string>& first_row) {
  if (!columns.has_header) return "without a header, a picture and its caption a row";
  std::string text = fmt::format("images from '{}', captions from '{}'", first_row[columns.image],
                                 first_row[columns.caption]);
  if (columns.image_id) text += fmt::format(", image ids from '{}'", first_row[*columns.image_id]);
  return text;
}

}  // namespace tessera::data
