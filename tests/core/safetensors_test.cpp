#include "core/safetensors.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Safetensors : public ::testing::Test {
 protected:
  static std::string length_of(std::uint64_t length) {
    std::string bytes;
    for (int i = 0; i < 8; ++i, length >>= 8) {
      bytes.push_back(static_cast<char>(length & 0xff));
    }
    return bytes;
  }
  void write_raw(const std::string& content) const {
    std::filesystem::remove(
        path_);  // ext4 flushes a file that is truncated and written anew: 10 ms each time
    std::ofstream(path_, std::ios::binary) << content;
  }
  void write_file(const std::string& header, const std::string& data) const {
    write_raw(length_of(header.size()) + header + data);
  }
  std::string complaint() const {
    try {
      SafetensorsFile(path_).tensors();
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  void expect_refused(const std::string& header, std::size_t data_size, const std::string& what) const {
    write_file(header, std::string(data_size, '\0'));
    EXPECT_THAT(complaint(), AllOf(HasSubstr(path_.string()), HasSubstr(what))) << header;
  }

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "x.safetensors";
};

TEST_F(Safetensors, GivesBackEveryDtypeBitForBit) {
  TensorMap tensors;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                           at::kChar, at::kByte, at::kBool, at::kUInt64, at::kUInt32, at::kUInt16,
                           at::kComplexFloat, at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
    const std::string name = c10::toString(dtype);
    tensors[name] = at::randint(0, 2, {3, 5}).to(dtype);
    tensors["empty " + name] = at::empty({4, 0, 2}, dtype);
    tensors["scalar " + name] = at::ones({}).to(dtype);
  }
  const StringMap metadata{{"format", "pt"}, {"text", "\"ä\"\n"}};
  write_safetensors(path_, tensors, metadata);
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.names().size(), tensors.size());
  for (const auto& [name, expected] : tensors) {
    const at::Tensor tensor = file.tensor(name);
    ASSERT_EQ(file.dtype(name), expected.scalar_type()) << name;
    ASSERT_EQ(file.shape(name), expected.sizes().vec()) << name;
    ASSERT_EQ(tensor.scalar_type(), expected.scalar_type()) << name;
    ASSERT_EQ(tensor.sizes(), expected.sizes()) << name;
    EXPECT_EQ(0, std::memcmp(tensor.const_data_ptr(), expected.const_data_ptr(), expected.nbytes())) << name;
  }
}

TEST_F(Safetensors, WritesViewsAsTheyRead) {
  const at::Tensor base = at::arange(24, at::kFloat).view({4, 6});
  const TensorMap views{{"transposed", base.t()},
                        {"strided", base.slice(1, 0, 6, 2)},
                        {"expanded", base.slice(0, 0, 1).expand({3, 6})},
                        {"parameter", base.clone().requires_grad_()},
                        {"conjugate", at::complex(base, base).conj()}};
  write_safetensors(path_, views);
  const SafetensorsFile file(path_);
  for (const auto& [name, expected] : views) {
    EXPECT_TRUE(at::equal(file.tensor(name), expected.detach().resolve_conj())) << name;
  }
}

// What the reference writer (safetensors 0.8.0) gives for {"b": int64 [2], "a": float32 [1], "c": uint8 [3]}.
TEST_F(Safetensors, HasTheReferenceWritersLayout) {
  write_safetensors(path_, {{"a", at::ones({1})}, {"b", at::arange(2)}, {"c", at::zeros({3}, at::kByte)}},
                    {{"format", "pt"}});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},)"
      R"("c":{"dtype":"U8","shape":[3],"data_offsets":[20,23]}})";
  const std::string content = read_file(path_);
  const std::size_t padded = (header.size() + 7) / 8 * 8;
  EXPECT_EQ(content.substr(0, 8), length_of(padded));
  EXPECT_EQ(content.substr(8, padded), header + std::string(padded - header.size(), ' '));
  EXPECT_EQ(content.size(), 8 + padded + 23);
}

TEST_F(Safetensors, TensorsOutliveTheFileAndItsReplacement) {
  write_safetensors(path_, {{"x", at::arange(4, at::kFloat)}});
  const at::Tensor x = SafetensorsFile(path_).tensor("x");
  write_safetensors(path_, {{"x", at::zeros({4})}});
  EXPECT_TRUE(at::equal(x, at::arange(4, at::kFloat)));
  x.add_(1);  // never reaches the file
  EXPECT_TRUE(at::equal(SafetensorsFile(path_).tensor("x"), at::zeros({4})));
}

TEST_F(Safetensors, DataThatIsNotAlignedIsRead) {
  const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}})";
  const double value = 1.25;
  std::string data(9, '\7');
  std::memcpy(data.data() + 1, &value, sizeof(value));
  write_file(header, data);
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.tensor("b").item<double>(), value);
  EXPECT_EQ(file.tensor("a").item<int>(), 7);
}

TEST_F(Safetensors, EmptyFilesAreFiles) {
  write_safetensors(path_, {});
  EXPECT_TRUE(SafetensorsFile(path_).names().empty());
  write_file(R"({"__metadata__":{}}   )", "");
  EXPECT_TRUE(SafetensorsFile(path_).names().empty());
}

TEST_F(Safetensors, AskingForAnAbsentTensorNamesIt) {
  write_safetensors(path_, {{"x", at::ones({1})}});
  const SafetensorsFile file(path_);
  EXPECT_FALSE(file.contains("y"));
  EXPECT_TRUE(file.contains("x"));
  try {
    file.tensor("y");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr(path_.string()), HasSubstr("'y'")));
  }
}

TEST_F(Safetensors, FilesThatAreNoneAreRefused) {
  EXPECT_THAT(complaint(), AllOf(HasSubstr(path_.string()), HasSubstr("can't be opened")));
  write_raw("");
  EXPECT_THAT(complaint(), HasSubstr("0 bytes"));
  write_raw("1234567");
  EXPECT_THAT(complaint(), HasSubstr("a text that begins '1234567'"));
  write_raw("\x81\x93\xff");
  EXPECT_THAT(complaint(), HasSubstr("3 bytes"));
  write_raw(length_of(0));
  EXPECT_THAT(complaint(), HasSubstr("begins with zeros"));
  write_raw(length_of(2) + "[]");
  EXPECT_THAT(complaint(), HasSubstr("begin with '{'"));
  write_raw(length_of(3) + "{}");
  EXPECT_THAT(complaint(), HasSubstr("cut off"));
  write_raw(length_of(100'000'001) + "{}");
  EXPECT_THAT(complaint(), HasSubstr("at most 100000000"));
  write_raw(length_of(~std::uint64_t{0}) + "{}");
  EXPECT_THAT(complaint(), HasSubstr("at most 100000000"));
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  EXPECT_THAT(complaint(), HasSubstr("no regular file"));
}

TEST_F(Safetensors, HeadersThatAreWrongAreRefused) {
  expect_refused(" {}", 0, "begin with '{'");
  expect_refused("{", 0, "no valid JSON");
  expect_refused("{}x", 0, "no valid JSON");
  expect_refused("{\"\xff\":{}}", 0, "no valid JSON");
  expect_refused(R"({"__metadata__":[]})", 0, "'__metadata__' has to be an object");
  expect_refused(R"({"__metadata__":{"a":1}})", 0, "metadata 'a' has to be a string");
  expect_refused(R"({"__metadata__":{"a":"1","a":"2"}})", 0, "'a' is given twice");
  expect_refused(R"({"a":1})", 0, "'a': its description has to be an object");
  expect_refused(R"({"a":{"dtype":"U8","shape":[[[1]]],"data_offsets":[0,1]}})", 1, "nested deeper");
  expect_refused(std::string(1000000, '[').insert(0, R"({"a":)"), 0, "nested deeper");
  const std::string one = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_refused(R"({"a":)" + one + R"(,"a":)" + one + "}", 1, "'a' is given twice");
}

TEST_F(Safetensors, DescriptionsThatAreWrongAreRefused) {
  struct Case {
    const char* dtype;
    const char* shape;
    const char* offsets;
    std::size_t data_size;
    const char* complaint;
  };
  for (const Case& wrong : std::initializer_list<Case>{
           {R"("F31")", "[1]", "[0,4]", 4, "dtype \"F31\" is not known"},
           {"4", "[1]", "[0,4]", 4, "dtype 4 is not known"},
           {R"("F32")", "1", "[0,4]", 4, "'shape' has to be a list"},
           {R"("F32")", "[-1]", "[0,4]", 4, "found -1"},
           {R"("F32")", "[1.0]", "[0,4]", 4, "found 1.0"},
           {R"("F32")", "[\"1\"]", "[0,4]", 4, "found \"1\""},
           {R"("F32")", "[18446744073709551615]", "[0,4]", 4, "too large"},
           {R"("F32")", "[18446744073709551616]", "[0,4]", 4, "a dimension has to be a whole number"},
           {R"("F32")", "[4294967296,4294967296]", "[0,0]", 0, "too many elements"},
           {R"("F32")", "[4611686018427387905]", "[0,4]", 4, "too many elements"},
           {R"("F32")", "[0,9223372036854775807,4]", "[0,0]", 0, "too many elements"},
           {R"("F32")", "[1]", "[0,4,8]", 4, "two numbers"},
           {R"("F32")", "[1]", "{}", 4, "two numbers"},
           {R"("F32")", "[1]", "[-4,0]", 4, "found -4"},
           {R"("F32")", "[1]", "[4,0]", 4, "begins at offset 4, expected 0"},
           {R"("F32")", "[1]", "[0,3]", 3, "takes 4 bytes"},
           {R"("F32")", "[2]", "[0,4]", 4, "takes 8 bytes"},
           {R"("F32")", "[]", "[0,8]", 8, "takes 4 bytes"},
           {R"("F32")", "[1]", "[1,5]", 5, "begins at offset 1, expected 0"},
           {R"("F32")", "[1]", "[0,4]", 3,
            "has 3 bytes of data, its header describes 4 (tensor 'a' is not all there)"},
           {R"("F32")", "[1]", "[0,4]", 5, "has 5 bytes of data, its header describes 4"},
           {R"("F32")", "[1],\"more\":[1]", "[0,4]", 4, "nothing else"},
           {R"("F32")", "[1],\"shape\":[1]", "[0,4]", 4, "'shape' is given twice"},
       }) {
    expect_refused(fmt::format(R"({{"a":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", wrong.dtype,
                               wrong.shape, wrong.offsets),
                   wrong.data_size, wrong.complaint);
  }
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) {
    ones += ",1";
  }
  expect_refused(R"({"a":{"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,1]}})", 1,
                 "65 dimensions");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"offsets":[0,1]}})", 1, "'data_offsets' is missing");
}

TEST_F(Safetensors, TensorsMayNeitherOverlapNorLeaveAHole) {
  const auto two = [](int begin, int end) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                       R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       end - begin, begin, end);
  };
  expect_refused(two(2, 6), 6, "'b': begins at offset 2, expected 4");
  expect_refused(two(0, 4), 4, "begins at offset 0, expected 4");
  expect_refused(two(5, 6), 6, "'b': begins at offset 5, expected 4");
  write_file(two(4, 6), std::string(6, 'x'));
  EXPECT_EQ(complaint(), "accepted");
}

TEST_F(Safetensors, BooleansThatAreNeitherAreRefused) {
  write_file(R"({"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", std::string("\1\2"));
  EXPECT_THAT(complaint(), AllOf(HasSubstr("'a'"), HasSubstr("0 or 1, found 2 at element 1")));
}

TEST_F(Safetensors, WritingWhatCannotBeWrittenLeavesTheOldFile) {
  write_safetensors(path_, {{"x", at::ones({1})}});
  const std::string before = read_file(path_);
  EXPECT_THROW(write_safetensors(path_, {{"x", at::Tensor()}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"x", at::ones({1}, at::kComplexDouble)}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"x", at::ones({2, 2}).to_sparse()}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"__metadata__", at::ones({1})}}), Error);
  EXPECT_THROW(write_safetensors(path_, {{"\xff", at::ones({1})}}), Error);
  EXPECT_THROW(write_safetensors(folder_.path() / "absent" / "x", {}), Error);
  EXPECT_EQ(read_file(path_), before);
  const std::filesystem::directory_iterator entries(folder_.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << "a temporary file was left behind";
}

// Any bytes at all give a file or an Error: whatever is accepted can be read to its last byte.
TEST_F(Safetensors, MutatedFilesGiveAFileOrAnError) {
  write_safetensors(path_,
                    {{"weight", at::arange(6, at::kFloat).view({2, 3})},
                     {"flags", at::ones({3}, at::kBool)},
                     {"empty", at::empty({0, 2}, at::kLong)}},
                    {{"format", "pt"}});
  const std::string valid = read_file(path_);
  const std::string tokens[] = {"-", "9", "0", "\"",  "[",  "]",    "{",
                                "}", ",", ":", "1e9", "\\", "\xc3", "null"};
  int accepted = 0;
  int refused = 0;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    CounterRandom random(1, RandomPurpose::kShapes, 0, i);
    std::string content = valid;
    for (std::uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      const std::size_t place = random.below(content.size());
      switch (random.below(4)) {
        case 0:
          content[place] = static_cast<char>(random());
          break;
        case 1:
          content.replace(place, random.below(3), tokens[random.below(std::size(tokens))]);
          break;
        case 2:
          content.erase(place, 1 + random.below(8));
          break;
        default:
          content.insert(place, content.substr(random.below(content.size()), random.below(40)));
      }
      content.resize(std::max<std::size_t>(content.size(), 1));
    }
    if (random.below(2) == 0 && content.size() > 8) {  // keep the length right, so that the JSON is reached
      const std::uint64_t length = valid.size() - 8 - (24 + 3);
      content.replace(0, 8, length_of(std::min<std::uint64_t>(length, content.size() - 8)));
    }
    write_raw(content);
    try {
      const SafetensorsFile file(path_);
      for (const auto& [name, tensor] : file.tensors()) {
        const std::string bytes(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
        EXPECT_EQ(bytes.size(), static_cast<std::size_t>(tensor.numel()) * tensor.element_size()) << name;
      }
      ++accepted;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(path_.string()));
      ++refused;
    }
  }
  EXPECT_GT(accepted, 20);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace tessera
