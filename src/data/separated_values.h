#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

/// A row of a table of separated values.
struct TableRow {
  std::int64_t line = 0;            ///< where it begins, from 1
  std::vector<std::string> fields;  ///< at least one that is not empty
  /// Has quotes that RFC 4180 does not know, and without their meaning another number of fields than the
  /// first row.
  bool broken = false;
};

/// What separates a table's fields: a tab where its first line has one, else the first comma, semicolon or
/// bar outside quotes; a comma where there is none of these.
char separator_of(std::string_view text);

/// Calls `use` for each row, in order; blank ones are passed over. Rows are those of RFC 4180, each with as
/// many fields as it has: a field in quotes may hold separators, line ends and doubled quotes. White space
/// around a field is dropped. In a row with other quotes (`a 12" disc`, `"Quick!" she said`), or with one
/// that is not closed within 100 lines, quotes are letters like others, and the row ends with its line.
void read_rows(std::string_view text, char separator, const std::function<void(const TableRow&)>& use);

}  // namespace tessera::data
