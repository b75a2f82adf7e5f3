#include "core/safetensors_rows.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SafetensorsRowsTest : public ::testing::Test {
 protected:
  std::vector<std::filesystem::path> files() const {
    return {std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()};
  }

  const TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "rows.safetensors";
  const StringMap metadata_ = {{"images", R"(["a \"b\"", "é"])"}, {"format", "pt"}};
};

TEST_F(SafetensorsRowsTest, AreOneTensorInTheEnd) {
  const at::Tensor values = at::randn({7, 3, 2});
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    SafetensorsRows rows(path_, "tokens", dtype, SafetensorsRows::metadata_size(metadata_));
    EXPECT_THAT(rows.shape(), IsEmpty());
    rows.append(values.slice(0, 0, 4));
    rows.append(values.slice(0, 4, 7).transpose(1, 2).contiguous().transpose(1, 2));
    EXPECT_EQ(rows.shape(), (std::vector<std::int64_t>{7, 3, 2}));
    rows.commit(metadata_);
    const SafetensorsFile file(path_);
    EXPECT_EQ(file.names(), std::vector<std::string>{"tokens"});
    EXPECT_TRUE(at::equal(file.tensor("tokens"), values.to(dtype)));
    EXPECT_EQ(file.metadata(), metadata_);
    EXPECT_EQ(files().size(), 1u);
  }
}

TEST_F(SafetensorsRowsTest, AppearAtTheEndOrNotAtAll) {
  {
    SafetensorsRows rows(path_, "x", at::kFloat, 0);
    rows.append(at::zeros({2, 2}));
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
  EXPECT_THAT(files(), IsEmpty());
  {
    SafetensorsRows rows(path_, "x", at::kFloat, 0);
    EXPECT_THAT(error_of([&] { rows.commit({}); }), HasSubstr("no rows"));
    rows.append(at::zeros({2, 2}));
    EXPECT_THAT(error_of([&] { rows.commit({{"too long", std::string(5000, 'a')}}); }), HasSubstr("bytes"));
    EXPECT_THROW(rows.append(at::zeros({2, 3})), c10::Error);
  }
  EXPECT_THAT(files(), IsEmpty());
  EXPECT_THAT(error_of([&] { SafetensorsRows(path_, "__metadata__", at::kFloat, 0); }), HasSubstr("named"));
  EXPECT_THAT(error_of([&] { SafetensorsRows(path_, "x", at::kQInt8, 0); }), HasSubstr("dtype"));
  EXPECT_THAT(error_of([&] { SafetensorsRows(path_, "x", at::kFloat, 100'000'000); }),
              HasSubstr("several files"));
  EXPECT_THAT(error_of([&] { SafetensorsRows(folder_.path() / "no" / "x", "x", at::kFloat, 0); }),
              HasSubstr("can't be written"));
}

}  // namespace
}  // namespace tessera
