#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace tessera {

/// What the first bytes of a file say that it is, as far as readers tell these apart.
enum class FileKind {
  kUnknown,
  kEmpty,
  kZeros,    ///< an unfinished download, often
  kPointer,  ///< stands for a file that Git LFS or git-annex keeps elsewhere
  kWebPage,
  kCompressed,
  kZip,
  kTar,
  kSafetensors,
  kImage,
  kText,
  kOther,
};

struct RecognisedFile {
  FileKind kind = FileKind::kUnknown;
  /// For a message: "a Git LFS pointer …; fetch the file itself with …". Empty where the kind is not known.
  std::string description;
};

/// Looks at the first bytes alone, so that any part of a file from its beginning on will do; only for kEmpty
/// it has to be all of it.
RecognisedFile recognise_file(std::string_view content);

/// The description of a file that a reader can't read; empty where the kind is unknown or one of `readable`.
std::string other_kind(std::string_view content, std::initializer_list<FileKind> readable = {});
std::string other_kind(std::span<const std::byte> content, std::initializer_list<FileKind> readable = {});

/// Throws Error "FILE: is no EXPECTED but …" where the content is known to be of a kind that is not one of
/// `readable`. For readers that have found that they can't read a file, or whose formats have no beginning of
/// their own.
void refuse_other_kind(std::string_view content, const std::string& file, const std::string& expected,
                       std::initializer_list<FileKind> readable = {});
void refuse_other_kind(std::span<const std::byte> content, const std::string& file,
                       const std::string& expected, std::initializer_list<FileKind> readable = {});

}  // namespace tessera
