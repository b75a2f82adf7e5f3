#include "core/pytorch_file.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"
#include "tests/core/zip_writer.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Files that torch wrote (scripts/golden/make_checkpoints.py).
fs::path fixture(const std::string& name) {
  return fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints" / name;
}

std::vector<std::string> names(const TensorMap& tensors) {
  std::vector<std::string> result;
  for (const auto& [name, tensor] : tensors) result.push_back(name);
  return result;
}

void expect_the_linear_module(const TensorMap& tensors) {
  ASSERT_THAT(names(tensors), ElementsAre("bias", "weight"));
  EXPECT_TRUE(at::equal(tensors.at("weight"), at::arange(6, at::kFloat).view({2, 3})));
  EXPECT_TRUE(at::equal(tensors.at("bias"), at::tensor({10.0F, 20.0F})));
}

TEST(PytorchFile, StateDictsAndParametersAreRead) {
  for (const char* name : {"state_dict.pth", "parameters.pth", "protocol4.pth"}) {
    SCOPED_TRACE(name);
    expect_the_linear_module(read_pytorch_file(fixture(name)));
  }
}

TEST(PytorchFile, TheModelIsFoundBesideNumbersAndTheOptimizer) {
  expect_the_linear_module(read_pytorch_file(fixture("nested.pth")));
}

TEST(PytorchFile, WhatIsAmbiguousIsRefusedWithTheNames) {
  EXPECT_THAT(error_of([] { read_pytorch_file(fixture("ambiguous.pth")); }),
              AllOf(HasSubstr("ambiguous.pth"), HasSubstr("'model', 'teacher'")));
}

TEST(PytorchFile, StridesOffsetsAndSharedStoragesAreKept) {
  const TensorMap tensors = read_pytorch_file(fixture("views.pth"));
  const at::Tensor numbers = at::arange(24, at::kFloat).view({4, 6});
  const at::Tensor& whole = tensors.at("whole");
  EXPECT_TRUE(at::equal(whole, numbers));
  EXPECT_TRUE(at::equal(tensors.at("transposed"), numbers.t()));
  EXPECT_TRUE(at::equal(tensors.at("column"), numbers.select(1, 2)));
  EXPECT_TRUE(at::equal(tensors.at("row"), numbers[3]));
  EXPECT_TRUE(at::equal(tensors.at("every_other"), numbers.slice(0, 1, 4, 2).slice(1, 0, 6, 3)));
  EXPECT_EQ(tensors.at("scalar").item<float>(), 17);
  EXPECT_EQ(tensors.at("empty").sizes(), at::IntArrayRef({2, 0, 3}));
  // One copy of the storage: the file's.
  EXPECT_EQ(tensors.at("transposed").const_data_ptr(), whole.const_data_ptr());
  EXPECT_EQ(tensors.at("row").const_data_ptr<float>(), whole.const_data_ptr<float>() + 18);
}

TEST(PytorchFile, EveryTypeIsRead) {
  const TensorMap tensors = read_pytorch_file(fixture("values.pth"));
  EXPECT_EQ(tensors.size(), 16);
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    if (name == "bool") {
      EXPECT_TRUE(at::equal(tensor, at::tensor({0, 1, 1}).to(at::kBool)));
    } else {
      const at::Tensor real = tensor.is_complex() ? at::real(tensor) : tensor;
      EXPECT_TRUE(at::equal(real.to(at::kFloat), at::tensor({0.0F, 1.0F, 3.0F})));
    }
  }
  EXPECT_EQ(tensors.at("bfloat16").scalar_type(), at::kBFloat16);
  EXPECT_EQ(tensors.at("float8_e4m3fn").scalar_type(), at::kFloat8_e4m3fn);
  EXPECT_EQ(tensors.at("uint64").scalar_type(), at::kUInt64);
}

TEST(PytorchFile, TensorsAreViewsThatKeepTheMappedFile) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "renamed.bin";  // the folder in the archive keeps its name
  fs::copy_file(fixture("state_dict.pth"), path);
  const std::string before = read_file(path);
  at::Tensor weight = read_pytorch_file(path).at("weight");
  fs::remove(path);
  EXPECT_EQ(weight[1][2].item<float>(), 5);
  weight.zero_();  // memory of this process, not the file
  EXPECT_EQ(before, read_file(fixture("state_dict.pth")));
}

TEST(PytorchFile, WhatWouldHaveToBeExecutedIsRefusedByName) {
  EXPECT_THAT(error_of([] { read_pytorch_file(fixture("whole_module.pth")); }),
              AllOf(HasSubstr("whole_module.pth"), HasSubstr("'torch.nn.modules.linear.Linear'"),
                    HasSubstr("state_dict()")));
}

TEST(PytorchFile, TensorsThatAreNotWhatTheirBytesSayAreRefused) {
  EXPECT_THAT(error_of([] { read_pytorch_file(fixture("conjugated.pth")); }),
              AllOf(HasSubstr("conjugated.pth"), HasSubstr("'a'"), HasSubstr("conjugated")));
  EXPECT_THAT(error_of([] { read_pytorch_file(fixture("expanded.pth")); }),
              AllOf(HasSubstr("'a'"), HasSubstr("[5]"), HasSubstr("expanded")));
}

/// Archives and pickles made by hand.
class HandMade : public ::testing::Test {
 protected:
  std::string complaint(const std::string& content) const {
    fs::remove(path_);
    std::ofstream(path_, std::ios::binary) << content;
    const std::string message = error_of([&] { read_pytorch_file(path_); });
    EXPECT_THAT(message, HasSubstr(path_.string()));
    return message;
  }
  std::string complaint_of_pickle(const std::string& pickle) const {
    return complaint(zip_of({{"x/data.pkl", pickle}, {"x/data/0", std::string(16, '\0')}}));
  }

  static std::string text(const std::string& value) {
    return fmt::format("X{}{}", little_endian(value.size(), 4), value);
  }
  static std::string number(std::int64_t value) {
    return "\x8a\x08" + little_endian(static_cast<std::uint64_t>(value), 8);
  }
  static std::string tuple(const std::vector<std::int64_t>& values) {
    std::string pickle = "(";
    for (const std::int64_t value : values) pickle += number(value);
    return pickle + "t";
  }

  struct Tensor {
    std::string storage = "torch\nFloatStorage\n";
    std::string key = "0";
    std::int64_t count = 4;  // of the storage
    std::int64_t offset = 0;
    std::vector<std::int64_t> sizes = {4};
    std::vector<std::int64_t> strides = {1};
  };
  static std::string value_of(const Tensor& tensor) {
    return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "c" + tensor.storage +
           text(tensor.key) + text("cpu") + number(tensor.count) + "tQ" + number(tensor.offset) +
           tuple(tensor.sizes) + tuple(tensor.strides) + "\x89" + "ccollections\nOrderedDict\n)RtR";
  }
  static std::string dict_of(const Tensor& tensor) {
    return "\x80\x02}" + text("a") + value_of(tensor) + "s.";
  }
  std::string complaint_of(const Tensor& tensor) const {
    const std::string message = complaint_of_pickle(dict_of(tensor));
    EXPECT_THAT(message, HasSubstr("tensor 'a'"));
    return message;
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "x.pth";
};

TEST_F(HandMade, SmallestFileIsReadAlsoWhereNothingIsAligned) {
  const at::Tensor values = at::tensor({1.0F, 2.0F, 3.0F, 4.0F});
  const std::string bytes(static_cast<const char*>(values.const_data_ptr()), 16);
  for (const char* padding : {"", "1", "12", "123"}) {
    std::ofstream(path_, std::ios::binary)
        << zip_of({{"x/padding", padding}, {"x/data.pkl", dict_of({})}, {"x/data/0", bytes}});
    EXPECT_TRUE(at::equal(read_pytorch_file(path_).at("a"), values));
    fs::remove(path_);
  }
}

TEST_F(HandMade, FilesOfOtherKindsAreRefused) {
  EXPECT_THAT(error_of([&] { read_pytorch_file(path_); }),
              AllOf(HasSubstr(path_.string()), HasSubstr("opened")));
  EXPECT_THAT(complaint(""), HasSubstr("empty"));
  EXPECT_THAT(complaint("text"), HasSubstr("not written by torch.save"));
  EXPECT_THAT(complaint("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."),
              AllOf(HasSubstr("before torch 1.6"), HasSubstr("torch.save(torch.load(\"x.pth\"")));
  EXPECT_THAT(complaint("PK"), HasSubstr("no directory"));
  EXPECT_THAT(complaint(zip_of({})), HasSubstr("0 members FOLDER/data.pkl"));
  EXPECT_THAT(complaint(zip_of({{"a/b/data.pkl", "."}})), HasSubstr("0 members FOLDER/data.pkl"));
  EXPECT_THAT(complaint(zip_of({{"a/data.pkl", "."}, {"b/data.pkl", "."}})), HasSubstr("2 members"));
  EXPECT_THAT(complaint(zip_of({{"x/data.pkl", "."}, {"x/constants.pkl", "."}})), HasSubstr("TorchScript"));
  EXPECT_THAT(complaint(zip_of({{"x/data.pkl", dict_of({})}, {"x/byteorder", "big"}})),
              HasSubstr("byte order 'big'"));
  EXPECT_THAT(complaint(zip_of({{"x/data.pkl", dict_of({})}}, 8)), HasSubstr("compressed (method 8)"));
}

TEST_F(HandMade, TheArchiveIsNotTrusted) {
  const std::string sound = zip_of({{"x/data.pkl", dict_of({})}, {"x/data/0", std::string(16, '\0')}});
  const auto edited = [&](std::size_t at, const std::string& bytes) {
    return complaint(std::string(sound).replace(at, bytes.size(), bytes));
  };
  const std::size_t end = sound.size() - 22;
  const std::size_t directory = sound.find("PK\x01\x02");
  const std::size_t last_entry = sound.rfind("PK\x01\x02");
  EXPECT_THAT(complaint(sound.substr(0, sound.size() - 1)), HasSubstr("no directory"));
  EXPECT_THAT(complaint("PK" + sound), HasSubstr("does not end where"));
  EXPECT_THAT(edited(end + 10, little_endian(3, 2)), HasSubstr("has 2 entries"));
  EXPECT_THAT(edited(end + 4, little_endian(1, 2)), HasSubstr("in several"));
  EXPECT_THAT(edited(end + 16, little_endian(~0U, 4)), HasSubstr("does not end where"));
  EXPECT_THAT(edited(directory, "QQ"), HasSubstr("damaged"));
  EXPECT_THAT(edited(directory + 28, little_endian(0xffff, 2)), HasSubstr("past its end"));
  EXPECT_THAT(edited(directory + 8, little_endian(1, 2)), HasSubstr("encrypted"));
  EXPECT_THAT(edited(last_entry + 20, little_endian(17, 4)), HasSubstr("two sizes"));
  EXPECT_THAT(edited(last_entry + 20, little_endian(17, 4) + little_endian(17, 4)), HasSubstr("reach past"));
  EXPECT_THAT(edited(last_entry + 20, little_endian(~0ULL, 8)), HasSubstr("reach past"));
  EXPECT_THAT(edited(last_entry + 42, little_endian(0, 4)), HasSubstr("overlaps"));
  EXPECT_THAT(edited(last_entry + 42, little_endian(7, 4)), HasSubstr("'x/data/0'"));
  EXPECT_THAT(edited(last_entry + 46, "y"), HasSubstr("another name"));
  EXPECT_THAT(complaint(zip_of({{"x/data.pkl", dict_of({})}, {"x/data.pkl", dict_of({})}})),
              HasSubstr("'x/data.pkl' is there twice"));
}

TEST_F(HandMade, ThePickleIsNotTrusted) {
  EXPECT_THAT(complaint_of_pickle(""), HasSubstr("is cut off"));
  EXPECT_THAT(complaint_of_pickle("."), HasSubstr("where there is none"));
  EXPECT_THAT(complaint_of_pickle("\x80\x01."), HasSubstr("protocol 1"));
  EXPECT_THAT(complaint_of_pickle("N.N"), HasSubstr("goes on after its end"));
  EXPECT_THAT(complaint_of_pickle("X" + little_endian(~0U, 4)), HasSubstr("is cut off"));
  EXPECT_THAT(complaint_of_pickle("h\x05."), HasSubstr("entry 5 of the memo"));
  EXPECT_THAT(complaint_of_pickle("t."), HasSubstr("a mark where there is none"));
  EXPECT_THAT(complaint_of_pickle("}Ns."), HasSubstr("where there is none"));
  EXPECT_THAT(complaint_of_pickle("}(Nu."), HasSubstr("a key without a value"));
  EXPECT_THAT(complaint_of_pickle("NNNs."), HasSubstr("adds items to None"));
  EXPECT_THAT(complaint_of_pickle("N)R."), HasSubstr("calls None"));
  EXPECT_THAT(complaint_of_pickle("NNb."), HasSubstr("attributes of None"));
  EXPECT_THAT(complaint_of_pickle("I1\n."), HasSubstr("opcode 0x49"));
  EXPECT_THAT(complaint_of_pickle("cos\nsystem\n" + text("true") + "\x85R."), HasSubstr("'os.system'"));
  EXPECT_THAT(complaint_of_pickle(text("posix") + text("system") + "\x93" + text("true") + "\x85R."),
              HasSubstr("'posix.system'"));
  EXPECT_THAT(complaint_of_pickle("\x8a\x09" + std::string(9, '\1') + "."), HasSubstr("integer of 9 bytes"));
  EXPECT_THAT(complaint_of_pickle("]q\x01h\x01"
                                  "a."),
              HasSubstr("holds a list"));  // a list in itself
  EXPECT_THAT(complaint_of_pickle("N."), HasSubstr("holds None"));
  EXPECT_THAT(complaint_of_pickle("}."), HasSubstr("holds no tensors"));
  EXPECT_THAT(complaint_of_pickle("}" + value_of({}) + value_of({}) + "s."), HasSubstr("named by an object"));
  EXPECT_THAT(complaint_of_pickle("}" + text("a") + value_of({}) + "s" + text("a") + value_of({}) + "s."),
              HasSubstr("tensor 'a' is there twice"));
  EXPECT_THAT(complaint_of_pickle("}" + text("a") + "ctorch._utils\n_rebuild_tensor_v2\n)Rs."),
              HasSubstr("described by 0 values"));
  EXPECT_THAT(complaint_of_pickle("}" + text("a") + "ctorch._utils\n_rebuild_parameter\n)Rs."),
              HasSubstr("no parameter"));
  // Nested deeper than any stack is.
  EXPECT_THAT(complaint_of_pickle(std::string(1'000'000, '(') + "N" + std::string(1'000'000, 't') + "."),
              HasSubstr("holds a tuple"));
}

TEST_F(HandMade, SizesStridesAndOffsetsStayInTheStorage) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  EXPECT_THAT(complaint_of({.key = "1"}), HasSubstr("'x/data/1' is missing"));
  EXPECT_THAT(complaint_of({.key = "../data.pkl"}), HasSubstr("is missing"));
  EXPECT_THAT(complaint_of({.storage = "torch.storage\nUntypedStorage\n"}),
              HasSubstr("no storage with a type"));
  EXPECT_THAT(complaint_of({.storage = "torch\nfloat32\n"}), HasSubstr("no storage with a type"));
  EXPECT_THAT(complaint_of({.count = 5}), HasSubstr("has 16 bytes, 5 elements of Float"));
  EXPECT_THAT(complaint_of({.count = kHuge}), HasSubstr("has 16 bytes"));
  EXPECT_THAT(complaint_of({.count = -4}), HasSubstr("whole number"));
  EXPECT_THAT(complaint_of({.offset = 1}), HasSubstr("from offset 1 reach past"));
  EXPECT_THAT(complaint_of({.offset = kHuge}), HasSubstr("reach past"));
  EXPECT_THAT(complaint_of({.offset = -1}), HasSubstr("whole number"));
  EXPECT_THAT(complaint_of({.sizes = {5}}), HasSubstr("more elements"));
  EXPECT_THAT(complaint_of({.sizes = {-1}}), HasSubstr("whole number"));
  EXPECT_THAT(complaint_of({.strides = {2}}), HasSubstr("reach past"));
  EXPECT_THAT(complaint_of({.strides = {kHuge}}), HasSubstr("reach past"));
  EXPECT_THAT(complaint_of({.sizes = {2, 2}}), HasSubstr("2 sizes and 1 strides"));
  EXPECT_THAT(complaint_of({.sizes = {kHuge, kHuge, 4}, .strides = {0, 0, 1}}),
              HasSubstr("too many elements"));
  EXPECT_THAT(complaint_of({.sizes = {kHuge, kHuge, 0}, .strides = {0, 0, 1}}),
              HasSubstr("too many elements"));
  EXPECT_THAT(complaint_of({.sizes = std::vector<std::int64_t>(65, 1)}), HasSubstr("at most 64"));
  const std::string bools = zip_of({{"x/data.pkl", dict_of({.storage = "torch\nBoolStorage\n"})},
                                    {"x/data/0", std::string("\0\1\2\1", 4)}});
  EXPECT_THAT(complaint(bools), AllOf(HasSubstr("tensor 'a'"), HasSubstr("neither true nor false")));
}

}  // namespace
}  // namespace tessera
