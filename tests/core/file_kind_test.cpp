#include "core/file_kind.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/files.h"
#include "core/pytorch_file.h"
#include "core/safetensors.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const std::string kPointerFile =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 346345912\n";

struct KindSample {
  std::string content;
  FileKind kind;
  std::string says;
};

std::vector<KindSample> kind_samples() {
  return {
      {"", FileKind::kEmpty, "an empty file"},
      {std::string(2000, '\0'), FileKind::kZeros, "begins with zeros"},
      {kPointerFile, FileKind::kPointer, "(346345912 bytes); fetch that with 'git lfs pull'"},
      {"/annex/objects/SHA256E-s34--4d7a.bin\n", FileKind::kPointer, "git annex get"},
      {"<!doctype html><html lang=\"en\">", FileKind::kWebPage, "a web page"},
      {"\xef\xbb\xbf\r\n <HTML>", FileKind::kWebPage, "/resolve/"},
      {"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", FileKind::kWebPage, "a refusal"},
      {std::string("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 10), FileKind::kCompressed,
       "gzip archive; unpack"},
      {std::string("\x28\xb5\x2f\xfd\x04\x58", 6), FileKind::kCompressed, "zstd"},
      {std::string("PK\x03\x04\x14\x00\x00\x00\x00\x00", 10), FileKind::kZip, "torch.save"},
      {std::string(257, 'a') + "ustar\00000", FileKind::kTar, "a tar archive"},
      {"\x89PNG\r\n\x1a\n", FileKind::kImage, "a PNG image"},
      {std::string("RIFF\x24\0\0\0WEBPVP8 ", 16), FileKind::kImage, "a WebP image"},
      {std::string("\0\0\0\x18"
                   "ftypheic\0\0\0\0",
                   16),
       FileKind::kOther, "a HEIC image"},
      {"Entry not found", FileKind::kText, "a text that begins 'Entry not found'"},
      {"caf\xc3\xa9\nmore", FileKind::kText, "'caf\xc3\xa9'"},
      {std::string("\x81\x93\x01\xff\x00\x07", 6), FileKind::kUnknown, ""},
      {"caf\xe9", FileKind::kUnknown, ""},
  };
}

TEST(FileKind, FollowsFromTheFirstBytes) {
  for (const KindSample& sample : kind_samples()) {
    const RecognisedFile found = recognise_file(sample.content);
    EXPECT_EQ(found.kind, sample.kind) << sample.content;
    EXPECT_THAT(found.description, HasSubstr(sample.says));
    EXPECT_EQ(other_kind(sample.content, {sample.kind}), "");
    EXPECT_EQ(other_kind(sample.content), found.description);
  }
}

TEST(FileKind, TextIsTextWhereverItIsCut) {
  // A character of three bytes over the place where no more is looked at.
  for (const std::size_t before : {1021, 1022, 1023, 1024}) {
    EXPECT_EQ(recognise_file(std::string(before, 'a') + "\xe2\x82\xac" + "b").kind, FileKind::kText)
        << before;
  }
}

class InPlaceOfWeights : public ::testing::Test {
 protected:
  /// What a reader says of a file of this content.
  template <typename Read>
  std::string message(const std::string& content, const Read& read) const {
    const fs::path path = folder_.path() / "weights";
    std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    return error_of([&] { read(path); });
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(InPlaceOfWeights, ReadersSayWhatTheFileIs) {
  for (const KindSample& sample : kind_samples()) {
    if (sample.kind == FileKind::kUnknown || sample.kind == FileKind::kEmpty) continue;
    const std::string safetensors =
        message(sample.content, [](const fs::path& path) { SafetensorsFile file(path); });
    EXPECT_THAT(safetensors,
                AllOf(HasSubstr("/weights: is no safetensors file but "), HasSubstr(sample.says)));
    // The format of torch.save's first years is a tar.
    if (sample.kind == FileKind::kZip || sample.kind == FileKind::kTar) continue;
    EXPECT_THAT(message(sample.content, read_pytorch_file),
                AllOf(HasSubstr("/weights: was not written by torch.save: it is "), HasSubstr(sample.says)));
  }
  EXPECT_THAT(message("", [](const fs::path& path) { SafetensorsFile file(path); }), HasSubstr("empty"));
  EXPECT_THAT(message("", read_pytorch_file), HasSubstr("empty"));
}

TEST_F(InPlaceOfWeights, ARealFileOfWeightsIsNothingElse) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.safetensors";
  // Lengths of the header that begin like other kinds of files: gzip's 1f 8b, bzip2's "BZh".
  for (const std::size_t length : {0x1f8bu, 0x8b1fu, 0x685a42u & 0xffffu}) {
    write_safetensors(path, {{"a", at::ones({2})}}, {{"filler", std::string(length, 'x')}});
    EXPECT_EQ(recognise_file(read_file(path)).kind, FileKind::kSafetensors);
    EXPECT_NO_THROW(SafetensorsFile file(path));
  }
  EXPECT_THAT(message(read_file(path), read_pytorch_file), HasSubstr("a safetensors file"));
}

}  // namespace
}  // namespace tessera
