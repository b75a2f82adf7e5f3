#include "data/separated_values.h"

#include <csv.h>

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "core/error.h"

namespace tessera::data {
namespace {

constexpr char kQuote = '"';
/// Of one row. A quote that is open for longer was never meant to be one, and would swallow rows silently.
constexpr std::int64_t kMostLines = 100;

using RowFields = std::vector<std::string>;

/// libcsv's parser, fed line by line so that it is known where a row begins.
class LineParser {
 public:
  enum class Outcome { kRowGoesOn, kRowEnds, kMalformed };

  /// @param quote  zero: there are no quotes
  LineParser(char separator, char quote) {
    // CSV_REPALL_NL: the callback for the end of a row is called for every line end outside quotes.
    if (csv_init(&parser_, CSV_STRICT | CSV_REPALL_NL) != 0) fail("libcsv: can't be initialised");
    csv_set_delim(&parser_, static_cast<unsigned char>(separator));
    csv_set_quote(&parser_, static_cast<unsigned char>(quote));
  }
  ~LineParser() { csv_free(&parser_); }
  LineParser(const LineParser&) = delete;
  LineParser& operator=(const LineParser&) = delete;

  /// @param line  with its end, which the last line of a text may lack
  Outcome feed(std::string_view line) {
    row_ends_ = false;
    if (!parse(line) || (!line.ends_with('\n') && !parse("\n"))) return Outcome::kMalformed;
    return row_ends_ ? Outcome::kRowEnds : Outcome::kRowGoesOn;
  }

  /// The rows that have ended since the last call: one, or several where carriage returns alone end them.
  std::vector<RowFields> take_rows() { return std::exchange(rows_, {}); }

 private:
  bool parse(std::string_view text) {
    if (csv_parse(&parser_, text.data(), text.size(), on_field, on_row, this) == text.size()) return true;
    if (csv_error(&parser_) != CSV_EPARSE) throw std::bad_alloc();
    return false;
  }

  static void on_field(void* field, std::size_t size, void* self) {
    static_cast<LineParser*>(self)->fields_.emplace_back(static_cast<const char*>(field), size);
  }

  static void on_row(int end, void* self) {
    auto& parser = *static_cast<LineParser*>(self);
    parser.row_ends_ = end == '\n';
    RowFields fields = std::exchange(parser.fields_, {});
    const bool is_blank =
        std::all_of(fields.begin(), fields.end(), [](const std::string& field) { return field.empty(); });
    if (!is_blank) parser.rows_.push_back(std::move(fields));
  }

  csv_parser parser_{};
  RowFields fields_;
  std::vector<RowFields> rows_;
  bool row_ends_ = false;
};

std::size_t line_size(std::string_view text) { return std::min(text.find('\n'), text.size() - 1) + 1; }

}  // namespace

char separator_of(std::string_view text) {
  const std::string_view line = text.substr(0, text.find_first_of("\r\n"));
  if (line.find('\t') != std::string_view::npos) return '\t';
  bool is_quoted = false;
  for (const char c : line) {
    if (c == kQuote) is_quoted = !is_quoted;
    if (!is_quoted && (c == ',' || c == ';' || c == '|')) return c;
  }
  return ',';
}

void read_rows(std::string_view text, char separator, const std::function<void(const TableRow&)>& use) {
  using Outcome = LineParser::Outcome;
  std::optional<LineParser> parser(std::in_place, separator, kQuote);
  std::size_t fields_of_first = 0;
  std::int64_t line = 1;
  while (!text.empty()) {
    Outcome outcome = Outcome::kRowGoesOn;
    std::size_t size = 0;
    std::int64_t lines = 0;
    for (; outcome == Outcome::kRowGoesOn && size < text.size() && lines < kMostLines; ++lines) {
      const std::string_view next = text.substr(size, line_size(text.substr(size)));
      outcome = parser->feed(next);
      size += next.size();
    }
    std::vector<RowFields> rows = parser->take_rows();
    const bool is_plain = outcome != Outcome::kRowEnds;
    if (is_plain) {
      parser.emplace(separator, kQuote);
      LineParser plain(separator, '\0');
      size = line_size(text);
      lines = 1;
      plain.feed(text.substr(0, size));
      rows = plain.take_rows();
    }
    for (RowFields& fields : rows) {
      if (fields_of_first == 0) fields_of_first = fields.size();
      const bool is_broken = is_plain && fields.size() != fields_of_first;
      use({line, std::move(fields), is_broken});
    }
    text.remove_prefix(size);
    line += lines;
  }
}

}  // namespace tessera::data
