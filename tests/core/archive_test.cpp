#include "core/archive.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ArchiveTest : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "state";
};

TEST_F(ArchiveTest, GivesBackWhatWasPutIn) {
  Archive archive;
  archive.json() = {
      {"step", 12345678901234}, {"rate", 0.1 + 0.2}, {"tiny", 4.9e-324}, {"name", "größe \"x\"\n"}};
  archive.put("moments/exp_avg", at::tensor({1.5f, -0.0f, std::nanf("7")}));
  archive.put("ids", at::arange(5));
  archive.put("empty", at::empty({0, 3}, at::kBFloat16));
  archive.put("transposed", at::arange(6, at::kDouble).view({2, 3}).t());
  archive.write(path_, "optimizer");

  const Archive read = Archive::read(path_, "optimizer");
  EXPECT_EQ(read.json(), archive.json());
  EXPECT_EQ(read.json()["rate"].get<double>(), 0.1 + 0.2);
  ASSERT_EQ(read.tensors().size(), 4u);
  for (const auto& [name, tensor] : archive.tensors()) {
    const at::Tensor back = read.get(name);
    ASSERT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    ASSERT_EQ(back.sizes(), tensor.sizes()) << name;
    EXPECT_EQ(0, std::memcmp(back.data_ptr(), tensor.contiguous().data_ptr(), tensor.nbytes())) << name;
  }
}

TEST_F(ArchiveTest, WhatIsGotMayBeWrittenToAndOutlivesTheArchive) {
  Archive archive;
  archive.put("x", at::ones({3}));
  archive.write(path_, "state");
  at::Tensor x;
  {
    const Archive read = Archive::read(path_, "state");
    x = read.get("x");
    x.add_(1);
    EXPECT_TRUE(at::equal(read.get("x"), at::ones({3})));
  }
  EXPECT_TRUE(at::equal(x, at::full({3}, 2.0f)));
}

TEST_F(ArchiveTest, ComplaintsNameFileAndTensor) {
  Archive().write(path_, "optimizer");
  EXPECT_THAT(error_of([&] { Archive::read(path_, "state"); }),
              AllOf(HasSubstr(path_.string()), HasSubstr("'state'"), HasSubstr("'optimizer'")));
  EXPECT_THAT(error_of([&] { Archive::read(path_, "optimizer").get("x"); }),
              AllOf(HasSubstr(path_.string()), HasSubstr("'x'")));
  EXPECT_THAT(error_of([&] { Archive::read(folder_.path() / "absent", "state"); }), HasSubstr("absent"));
  write_safetensors(path_, {});
  EXPECT_THAT(error_of([&] { Archive::read(path_, "state"); }), HasSubstr("is no Tessera archive"));
  write_safetensors(path_, {}, {{"tessera_archive", "state"}, {"state", "{"}});
  EXPECT_THAT(error_of([&] { Archive::read(path_, "state"); }), HasSubstr("not valid JSON"));
  Archive invalid;
  invalid.json()["text"] = "\xff";
  EXPECT_THAT(error_of([&] { invalid.write(path_, "state"); }), HasSubstr("can't be written as JSON"));
}

}  // namespace
}  // namespace tessera
