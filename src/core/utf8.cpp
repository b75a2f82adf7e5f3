#include "core/utf8.h"

#include <array>
#include <charconv>
#include <cstdint>

#include "core/error.h"

namespace tessera {

namespace {

constexpr std::string_view kScheme = "file://";

/// Of the lead bytes from `first` to `last`: how many bytes follow, and from where to where the first of
/// these may be; the others are 80 to BF.
struct Lead {
  std::uint8_t first, last;
  std::size_t following;
  std::uint8_t least, most;
};

constexpr std::array<Lead, 9> kLeads = {{
    {0x00, 0x7f, 0, 0, 0},
    {0xc2, 0xdf, 1, 0x80, 0xbf},
    {0xe0, 0xe0, 2, 0xa0, 0xbf},
    {0xe1, 0xec, 2, 0x80, 0xbf},
    {0xed, 0xed, 2, 0x80, 0x9f},
    {0xee, 0xef, 2, 0x80, 0xbf},
    {0xf0, 0xf0, 3, 0x90, 0xbf},
    {0xf1, 0xf3, 3, 0x80, 0xbf},
    {0xf4, 0xf4, 3, 0x80, 0x8f},
}};

/// Bytes of the character that a text begins with; 0 where it begins with none.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  for (const Lead& lead : kLeads) {
    if (byte(0) < lead.first || byte(0) > lead.last) continue;
    if (text.size() <= lead.following) return 0;
    for (std::size_t i = 1; i <= lead.following; ++i) {
      const bool is_first = i == 1;
      if (byte(i) < (is_first ? lead.least : 0x80) || byte(i) > (is_first ? lead.most : 0xbf)) return 0;
    }
    return 1 + lead.following;
  }
  return 0;
}

/// Where the first byte is that belongs to no character; the text's size where there is none.
std::size_t first_wrong(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t size = character_size(text.substr(at));
    if (size == 0) return at;
    at += size;
  }
  return at;
}

}  // namespace

bool is_utf8(std::string_view text) { return first_wrong(text) == text.size(); }

void check_utf8(std::string_view text, const std::string& where) {
  const std::size_t wrong = first_wrong(text);
  if (wrong == text.size()) return;
  fail(
      "{}: expected UTF-8, found the byte 0x{:02x} after {}; convert the file, from Latin-1 for instance "
      "with iconv -f ISO-8859-1 -t UTF-8",
      where, static_cast<std::uint8_t>(text[wrong]), quoted(std::string(text.substr(0, wrong))));
}

std::string lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

std::string as_utf8(std::string_view name) {
  if (is_utf8(name)) return std::string(name);
  std::string result;
  while (!name.empty()) {
    const std::size_t size = character_size(name);
    if (size == 0 || name.front() == '%') {
      result += fmt::format("%{:02X}", static_cast<std::uint8_t>(name.front()));
      name.remove_prefix(1);
    } else {
      result += name.substr(0, size);
      name.remove_prefix(size);
    }
  }
  return result;
}

std::string path_to_utf8(const std::filesystem::path& path) {
  const std::string& bytes = path.native();
  return is_utf8(bytes) ? bytes : std::string(kScheme) + as_utf8(bytes);
}

std::filesystem::path path_from_utf8(const std::string& text) {
  if (!text.starts_with(kScheme)) return text;
  std::string bytes;
  for (std::size_t i = kScheme.size(); i < text.size(); ++i) {
    std::uint8_t byte = 0;
    const char* digits = text.data() + i + 1;
    const bool is_escape = text[i] == '%' && text.size() - i > 2 &&
                           std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2;
    bytes += is_escape ? static_cast<char>(byte) : text[i];
    if (is_escape) i += 2;
  }
  return bytes;
}

}  // namespace tessera
