#include "core/text_file.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/files.h"
#include "core/utf8.h"

namespace tessera {

namespace {

using std::string_view_literals::operator""sv;

/// "UTF-16" or "UTF-32" where a text is in one of these, by its byte order mark or by the zeros that letters
/// of Latin have in them; else empty.
std::string_view wide_encoding(std::string_view text) {
  if (text.starts_with("\xff\xfe\0\0"sv) || text.starts_with("\0\0\xfe\xff"sv)) return "UTF-32";
  if (text.starts_with("\xff\xfe"sv) || text.starts_with("\xfe\xff"sv)) return "UTF-16";
  constexpr std::size_t kLookedAt = 64;
  const std::string_view seen = text.substr(0, kLookedAt);
  std::array<std::size_t, 2> zeros = {0, 0};
  for (std::size_t i = 0; i < seen.size(); ++i) zeros[i % 2] += seen[i] == '\0' ? 1 : 0;
  const std::size_t half = seen.size() / 2;
  const bool is_wide = half > 1 && std::min(zeros[0], zeros[1]) == 0 && 2 * (zeros[0] + zeros[1]) > half;
  return is_wide ? "UTF-16" : "";
}

}  // namespace

std::string read_text_file(const std::filesystem::path& path) {
  std::string text = read_file(path);
  if (const std::string_view encoding = wide_encoding(text); !encoding.empty()) {
    fail("{}: is {} text, expected UTF-8; convert it: iconv -f {} -t UTF-8", path.string(), encoding,
         encoding);
  }
  if (recognise_file(text).kind == FileKind::kPointer) refuse_other_kind(text, path.string(), "text file");
  if (const std::size_t zero = text.find('\0'); zero != std::string::npos) {
    refuse_other_kind(text, path.string(), "text file", {FileKind::kText});
    fail("{}: is no text file: byte {} is zero", path.string(), zero);
  }
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.emplace_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::vector<std::string> read_lines(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  if (recognise_file(text).kind == FileKind::kWebPage) refuse_other_kind(text, path.string(), "list");
  return lines_of(text);
}

}  // namespace tessera
