#include "core/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

fs::path written(const TemporaryFolder& folder, const std::string& name, std::size_t size) {
  std::ofstream(folder.path() / name, std::ios::binary) << std::string(size, 'x');
  return folder.path() / name;
}

TEST(RegularFile, ReadsByPlace) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "a", std::ios::binary) << "0123456789";
  const RegularFile file(folder.path() / "a");
  EXPECT_EQ(file.size(), 10u);
  const auto text = [](const std::vector<std::byte>& bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  EXPECT_EQ(text(file.read(3, 4)), "3456");
  EXPECT_EQ(text(file.read()), "0123456789");
  EXPECT_EQ(text(file.read(10, 0)), "");
}

TEST(RegularFile, WhatCantBeOpenedIsNamed) {
  const TemporaryFolder folder;
  written(folder, "empty", 0);
  for (const char* name : {"absent", "empty", "."}) {
    const std::string path = (folder.path() / name).string();
    EXPECT_THAT(error_of([&] { RegularFile file(path); }), HasSubstr(path)) << name;
    EXPECT_THAT(error_of([&] { MappedFile file{fs::path(path)}; }), HasSubstr(path)) << name;
  }
}

TEST(RegularFile, AFileThatShrinksIsAnErrorThatNamesIt) {
  const TemporaryFolder folder;
  const fs::path path = written(folder, "shard.tar", 100'000);
  const RegularFile file(path);
  fs::resize_file(path, 50'000);
  EXPECT_EQ(file.read(0, 50'000).size(), 50'000u);
  EXPECT_THAT(error_of([&] { file.read(40'000, 20'000); }),
              AllOf(HasSubstr(path.string()), HasSubstr("shorter"), HasSubstr("100000 bytes")));
}

TEST(RegularFile, StaysReadableWhereItIsReplaced) {
  const TemporaryFolder folder;
  const fs::path path = written(folder, "a", 10);
  const RegularFile file(path);
  write_file_atomically(path, "new");
  EXPECT_EQ(file.read().size(), 10u);
  fs::remove(path);
  EXPECT_EQ(file.read().size(), 10u);
}

TEST(RegularFile, MoreFilesThanTheShellsLimit) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  constexpr rlim_t kFew = 64;
  if (before.rlim_max < 4 * kFew) GTEST_SKIP() << "at most " << before.rlim_max << " open files here";
  const TemporaryFolder folder;
  const fs::path path = written(folder, "a", 10);
  const rlimit few{kFew, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  {
    std::vector<RegularFile> files;
    for (rlim_t i = 0; i < 2 * kFew; ++i) files.emplace_back(path);
    EXPECT_EQ(files.back().read().size(), 10u);
  }
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST(MappedFile, OneThatShrinksEndsTheProgramWithItsName) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TemporaryFolder folder;
  const fs::path path = written(folder, "model.safetensors", 100'000);
  const auto look_at_the_end = [&] {
    MappedFile first{path, MappedFile::Access::kCopyOnWrite};
    const MappedFile file = std::move(first);
    fs::resize_file(path, 10);
    // The look must not be left out by the compiler.
    const volatile std::byte* last = file.bytes().data() + file.bytes().size() - 1;
    static_cast<void>(*last);
  };
  EXPECT_EXIT(look_at_the_end(), ::testing::ExitedWithCode(1),
              "error: .*model.safetensors: can't be read any more: the file was shortened");
}

TEST(MappedFile, OtherBusErrorsAreNotItsConcern) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TemporaryFolder folder;
  const fs::path path = written(folder, "a", 10);
  const auto raise_another = [&] {
    const MappedFile file{path};
    ::raise(SIGBUS);
    ::raise(SIGBUS);  // the first gave the signal back to whoever had it
  };
  EXPECT_DEATH(raise_another(), "");
}

}  // namespace
}  // namespace tessera
