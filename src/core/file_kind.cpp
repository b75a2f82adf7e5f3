#include "core/file_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

#include "core/error.h"
#include "core/utf8.h"

namespace tessera {

namespace {

using std::string_view_literals::operator""sv;

/// Of a file, what is looked at; a tar has its mark at 257.
constexpr std::size_t kSeen = 1024;

struct FileSignature {
  std::size_t offset;
  std::string_view bytes;
  FileKind kind;
  const char* description;
};

constexpr const char* kUnpack = "; unpack it first";

constexpr std::array kSignatures = {
    FileSignature{0, "\x1f\x8b"sv, FileKind::kCompressed, "a gzip archive"},
    FileSignature{0, "BZh"sv, FileKind::kCompressed, "a bzip2 archive"},
    FileSignature{0,
                  "\xfd"
                  "7zXZ\0"sv,
                  FileKind::kCompressed, "an xz archive"},
    FileSignature{0, "\x28\xb5\x2f\xfd"sv, FileKind::kCompressed, "a zstd archive"},
    FileSignature{0, "7z\xbc\xaf\x27\x1c"sv, FileKind::kCompressed, "a 7z archive"},
    FileSignature{0, "Rar!\x1a\x07"sv, FileKind::kCompressed, "a RAR archive"},
    FileSignature{0, "PK\x03\x04"sv, FileKind::kZip,
                  "a zip archive (those that torch.save writes are to be named .bin, .pth or .pt)"},
    FileSignature{0, "PK\x05\x06"sv, FileKind::kZip, "an empty zip archive"},
    FileSignature{257, "ustar"sv, FileKind::kTar, "a tar archive"},
    FileSignature{0, "\x89PNG\r\n\x1a\n"sv, FileKind::kImage, "a PNG image"},
    FileSignature{0, "\xff\xd8\xff"sv, FileKind::kImage, "a JPEG image"},
    FileSignature{8, "WEBP"sv, FileKind::kImage, "a WebP image"},
    FileSignature{0, "GIF8"sv, FileKind::kOther, "a GIF image"},
    FileSignature{0, "II*\0"sv, FileKind::kOther, "a TIFF image"},
    FileSignature{0, "MM\0*"sv, FileKind::kOther, "a TIFF image"},
    FileSignature{4, "ftypavif"sv, FileKind::kOther, "an AVIF image"},
    FileSignature{4, "ftypavis"sv, FileKind::kOther, "an AVIF image"},
    FileSignature{4, "ftyphei"sv, FileKind::kOther, "a HEIC image"},
    FileSignature{4, "ftypmif1"sv, FileKind::kOther, "a HEIF image"},
    FileSignature{4, "ftyp"sv, FileKind::kOther, "a film (MP4)"},
    FileSignature{0, "%PDF"sv, FileKind::kOther, "a PDF document"},
    FileSignature{0, "GGUF"sv, FileKind::kOther, "a GGUF file"},
    FileSignature{0, "\x89HDF\r\n\x1a\n"sv, FileKind::kOther, "an HDF5 file"},
    FileSignature{0, "\x93NUMPY"sv, FileKind::kOther, "a NumPy array"},
    FileSignature{0,
                  "\x7f"
                  "ELF"sv,
                  FileKind::kOther, "a program"},
    FileSignature{0, "\x80\x02"sv, FileKind::kOther, "a Python pickle"},
    FileSignature{0, "\x80\x03"sv, FileKind::kOther, "a Python pickle"},
    FileSignature{0, "\x80\x04"sv, FileKind::kOther, "a Python pickle"},
    FileSignature{0, "\x80\x05"sv, FileKind::kOther, "a Python pickle"},
};

/// Without a byte order mark and white space in front.
std::string_view begun(std::string_view text) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  return text;
}

bool starts_with_in_any_case(std::string_view text, std::string_view lower) {
  return text.size() >= lower.size() &&
         std::equal(lower.begin(), lower.end(), text.begin(), [](char expected, char found) {
           return expected == static_cast<char>(std::tolower(static_cast<unsigned char>(found)));
         });
}

bool is_web_page(std::string_view content) {
  const std::string_view text = begun(content);
  for (const std::string_view tag : {"<!doctype html"sv, "<html"sv, "<head"sv, "<body"sv}) {
    if (starts_with_in_any_case(text, tag)) return true;
  }
  // Storage servers answer in XML, and some pages are.
  return text.starts_with("<?xml") && (text.find("<Error>") != text.npos || text.find("<html") != text.npos);
}

/// The line of a pointer that begins with a word and a space, without these.
std::string_view pointer_field(std::string_view content, std::string_view word) {
  const std::size_t at = content.find("\n" + std::string(word) + " ");
  if (at == std::string_view::npos) return {};
  const std::string_view rest = content.substr(at + word.size() + 2);
  return rest.substr(0, std::min(rest.find_first_of("\r\n"), rest.size()));
}

/// What stands for a file that is kept elsewhere.
std::optional<std::string> pointer(std::string_view content) {
  const bool is_lfs = content.starts_with("version https://git-lfs.github.com/spec/") ||
                      content.starts_with("version https://hawser.github.com/spec/");
  if (is_lfs) {
    const std::string_view size = pointer_field(content, "size");
    return fmt::format(
        "a Git LFS pointer, which stands for the file itself{}; fetch that with 'git lfs pull' in the "
        "repository that was cloned (Git LFS has to be installed), or download it",
        size.empty() ? "" : fmt::format(" ({} bytes)", size.substr(0, 20)));
  }
  const std::string_view text = begun(content);
  if (text.starts_with("/annex/objects/") || text.starts_with("../.git/annex/objects/")) {
    return "a git-annex pointer, which stands for the file itself; fetch that with 'git annex get'";
  }
  return std::nullopt;
}

/// A header's length in eight bytes, little end first, and then the header.
bool is_safetensors(std::string_view content) {
  constexpr std::size_t kLength = 8;
  if (content.size() <= kLength || content[kLength] != '{') return false;
  return content.substr(4, 4) == "\0\0\0\0"sv;
}

/// @param is_cut  the bytes that are seen are not all, and may end inside a character
bool is_text(std::string_view seen, bool is_cut) {
  const std::size_t tries = is_cut ? 4 : 1;
  for (std::size_t cut = 0; cut < tries && cut < seen.size(); ++cut) {
    if (!is_utf8(seen.substr(0, seen.size() - cut))) continue;
    return std::none_of(seen.begin(), seen.end(), [](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return byte == 0x7f || (byte < 0x20 && (byte < '\t' || byte > '\r') && byte != 0x1b);
    });
  }
  return false;
}

std::string first_line(std::string_view content) {
  const std::string_view text = begun(content);
  return quoted(std::string(text.substr(0, std::min(text.find_first_of("\r\n"), text.size()))));
}

std::string_view characters(std::span<const std::byte> content) {
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

}  // namespace

RecognisedFile recognise_file(std::string_view content) {
  if (content.empty()) return {FileKind::kEmpty, "an empty file (0 bytes)"};
  const std::string_view seen = content.substr(0, kSeen);
  if (const auto description = pointer(seen)) return {FileKind::kPointer, *description};
  if (is_web_page(seen)) {
    return {
        FileKind::kWebPage,
        "a web page: what was downloaded is a page about the file, or a refusal, and not the file (links "
        "to files have /resolve/ in place of /blob/ on Hugging Face, /raw/ on GitHub; some need a login)"};
  }
  if (is_safetensors(seen)) return {FileKind::kSafetensors, "a safetensors file"};
  for (const FileSignature& signature : kSignatures) {
    if (seen.size() < signature.offset || !seen.substr(signature.offset).starts_with(signature.bytes))
      continue;
    const bool is_packed = signature.kind == FileKind::kCompressed;
    return {signature.kind, std::string(signature.description) + (is_packed ? kUnpack : "")};
  }
  if (std::all_of(seen.begin(), seen.end(), [](char c) { return c == '\0'; })) {
    return {FileKind::kZeros, "a file that begins with zeros; was its download or copy ended early?"};
  }
  if (is_text(seen, seen.size() == kSeen)) return {FileKind::kText, "a text that begins " + first_line(seen)};
  return {};
}

std::string other_kind(std::string_view content, std::initializer_list<FileKind> readable) {
  RecognisedFile found = recognise_file(content);
  const bool is_readable = std::find(readable.begin(), readable.end(), found.kind) != readable.end();
  return is_readable ? std::string() : std::move(found.description);
}

std::string other_kind(std::span<const std::byte> content, std::initializer_list<FileKind> readable) {
  return other_kind(characters(content), readable);
}

void refuse_other_kind(std::string_view content, const std::string& file, const std::string& expected,
                       std::initializer_list<FileKind> readable) {
  const std::string found = other_kind(content, readable);
  if (!found.empty()) fail("{}: is no {} but {}", file, expected, found);
}

void refuse_other_kind(std::span<const std::byte> content, const std::string& file,
                       const std::string& expected, std::initializer_list<FileKind> readable) {
  refuse_other_kind(characters(content), file, expected, readable);
}

}  // namespace tessera
