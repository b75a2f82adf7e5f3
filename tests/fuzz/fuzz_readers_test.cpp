#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>

#include "core/files.h"
#include "core/safetensors.h"
#include "tests/core/temporary_folder.h"
#include "tests/core/zip_writer.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/readers.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr int kMutations = 12'000;
constexpr long kMostMemory = 400L << 10;  // KiB above what the start took: nothing here is larger than 120 KB

using Accepts = bool (*)(std::string_view, const fs::path&);

long peak_kibibytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

/// Every mutation must be read, or refused with Error; anything else that is thrown ends the test, and what
/// comes of it in memory ends the program (under the asan preset, surely).
/// @return how many were read
int read_or_refuse(const std::vector<std::string>& corpus, Accepts accepts) {
  const TemporaryFolder folder;
  const fs::path scratch = folder.path() / "mutated";
  for (const std::string& file : corpus) EXPECT_TRUE(accepts(file, scratch));
  const long before = peak_kibibytes();
  int accepted = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string& file = corpus[static_cast<std::size_t>(i) % corpus.size()];
    const std::string mutated = Mutator(static_cast<std::uint64_t>(i)).mutate(file, corpus);
    try {
      accepted += accepts(mutated, scratch) ? 1 : 0;
    } catch (const std::exception& error) {
      const fs::path kept = fs::temp_directory_path() / fmt::format("tessera-fuzz-{}", i);
      write_file_atomically(kept, mutated);
      ADD_FAILURE() << "mutation " << i << " (kept as " << kept << "): " << error.what();
      break;
    }
  }
  EXPECT_LT(peak_kibibytes() - before, kMostMemory);
  return accepted;
}

/// Without both, the mutations say nothing: some change values alone, most damage the file.
void expect_some_of_each(int accepted) {
  EXPECT_GT(accepted, kMutations / 100);
  EXPECT_LT(accepted, kMutations * 9 / 10);
}

TEST(FuzzReaders, Safetensors) {
  const TemporaryFolder folder;
  const auto written = [&](const TensorMap& tensors, const StringMap& metadata = {}) {
    write_safetensors(folder.path() / "x", tensors, metadata);
    return read_file(folder.path() / "x");
  };
  expect_some_of_each(read_or_refuse(
      {written({}), written({{"a", at::ones({2, 3})}}, {{"format", "pt"}}),
       written(
           {{"b", at::ones({3}, at::kBool)}, {"h", at::ones({2, 2}, at::kHalf)}, {"e", at::empty({0, 4})}}),
       written({{"long", at::arange(9)}, {"scalar", at::ones({})}, {"byte", at::ones({5}, at::kByte)}})},
      accepts_safetensors));
}

TEST(FuzzReaders, PytorchFiles) {
  std::vector<std::string> corpus;
  for (const char* name : {"state_dict.pth", "parameters.pth", "views.pth", "values.pth", "nested.pth",
                           "protocol4.pth", "facebook_plain.pth"}) {
    corpus.push_back(read_file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints" / name));
  }
  expect_some_of_each(read_or_refuse(corpus, accepts_pytorch_file));
}

/// The same pickles with nothing around them that notices damage first.
TEST(FuzzReaders, Pickles) {
  std::vector<std::string> corpus;
  for (const char* name : {"state_dict.pth", "parameters.pth", "views.pth", "values.pth", "nested.pth"}) {
    const std::string file = read_file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints" / name);
    const std::size_t begin = file.find("\x80\x02");
    corpus.push_back(file.substr(begin, file.find("PK", begin) - begin));
    corpus.back().resize(corpus.back().rfind('.') + 1);
  }
  read_or_refuse(corpus, [](std::string_view pickle, const fs::path& scratch) {
    ZipContents contents = {{"x/data.pkl", std::string(pickle)}};
    for (const std::size_t bytes : {8, 24, 96}) {
      for (int i = 0; i < 2; ++i) {
        contents.emplace_back(fmt::format("x/data/{}", contents.size() - 1), std::string(bytes, '\0'));
      }
    }
    accepts_pytorch_file(zip_of(contents), scratch);
    return true;  // which storages fit is not the point here
  });
}

TEST(FuzzReaders, AdapterConfigurations) {
  expect_some_of_each(read_or_refuse(
      {R"json({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["query", "value"]})json",
       R"json({"peft_type": "LORA", "target_modules": "all-linear", "use_rslora": true, "lora_dropout": 0.1,
           "bias": "none", "rank_pattern": {}, "modules_to_save": null, "inference_mode": true})json",
       R"json({"peft_type": "LORA", "r": 2, "target_modules": ".*\\.(?P<layer>[01])\\.(attention\\.[qk]_proj|mlp\\.fc\\d)",
           "exclude_modules": "encoder\\.layer\\.1\\.mlp\\.(?!fc2).*", "rank_pattern": {"fc1": 3, "layer\\.1.*": 2},
           "alpha_pattern": {".*": 5}, "use_dora": true, "init_lora_weights": "pissa",
           "auto_mapping": {"base_model_class": "Dinov2ForImageClassification"}})json",
       R"json({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "layers_to_transform": [0, 1],
           "layers_pattern": ["layer"], "bias": "lora_only", "modules_to_save": ["classifier", "norm1"]})json",
       R"json({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "revision": "NaN\\\"",
           "eva_config": {"rho": NaN, "tau": [Infinity, -Infinity, null]}, "kasa_config": NaN})json"},
      accepts_adapter_config));
}

TEST(FuzzReaders, ImageHeaders) {
  std::vector<std::string> corpus;
  for (const char* name :
       {"jpeg_xmp_before_exif", "jpeg_exif_against_xmp", "png_xmp", "png_exif_at_the_end", "grey_transparent",
        "webp_exif_and_xmp", "webp_animated_canvas_alpha", "webp_animated_lossy_alpha"}) {
    const SafetensorsFile file(fs::path(TESSERA_SOURCE_DIR) / "tests/golden" /
                               fmt::format("image_file_{}.safetensors", name));
    const at::Tensor bytes = file.tensor("in.file").contiguous();
    corpus.emplace_back(static_cast<const char*>(bytes.data_ptr()), static_cast<std::size_t>(bytes.numel()));
  }
  expect_some_of_each(read_or_refuse(corpus, accepts_image_header));
}

/// A member of a tar, header and content; sizes are in octal, and the checksum is that of the header.
std::string tar_member(const std::string& name, char type, const std::string& content) {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  header.replace(100, 7, "0000644");
  header.replace(124, 11, fmt::format("{:011o}", content.size()));
  header.replace(136, 11, std::string(11, '0'));
  header.replace(148, 8, std::string(8, ' '));
  header[156] = type;
  header.replace(257, 8, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  header.replace(148, 7, fmt::format("{:06o}", sum) + std::string(1, '\0'));
  return header + content + std::string((512 - content.size() % 512) % 512, '\0');
}

TEST(FuzzReaders, Tars) {
  const std::string end(1024, '\0');
  const std::string plain =
      tar_member("a.jpg", '0', std::string(700, 'x')) + tar_member("a.txt", '0', "text") + end;
  const std::string pax =
      tar_member("pax", 'x', "17 path=long.jpg\n") + tar_member("short.jpg", '0', "picture") + end;
  const std::string gnu =
      tar_member("././@LongLink", 'L', std::string(150, 'n')) + tar_member("short.jpg", '0', "picture") + end;
  EXPECT_GT(read_or_refuse({plain, pax, gnu, plain + gnu}, accepts_tar), kMutations / 100);
}

TEST(FuzzReaders, CaptionTables) {
  expect_some_of_each(read_or_refuse(
      {"image,caption\na.jpg,one\nb.jpg,\"two, \"\"three\"\"\nand four\"\na.jpg,five\n",
       "a.jpg\tA 12\" disc\r\nb.jpg\t\"Quick!\" she said\r\n",
       "\xef\xbb\xbfimage_id;text;file_name\n7;caf\xc3\xa9;a.jpg\n;\"x;y\";./b.jpg\n7;z;a.jpg\n",
       "a.jpg#0|one\rb.jpg#1|two\r"},
      accepts_caption_table));
}

}  // namespace
}  // namespace tessera
