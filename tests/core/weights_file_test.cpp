#include "core/weights_file.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WrappedNames : public ::testing::Test {
 protected:
  static TensorMap tensors(const std::vector<std::string>& names) {
    TensorMap result;
    for (const std::string& name : names) result[name] = at::ones({1});
    return result;
  }
  std::vector<std::string> read(const std::vector<std::string>& names) const {
    write_safetensors(path("a.safetensors"), tensors(names));
    std::vector<std::string> found;
    for (const auto& [name, tensor] : read_weights(path("a.safetensors"))) found.push_back(name);
    return found;
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }

 private:
  TemporaryFolder folder_;
};

TEST_F(WrappedNames, AreThoseOfTheModel) {
  for (const char* wrapper : {"module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.",
                              "_fsdp_wrapped_module._orig_mod.", "module.module."}) {
    EXPECT_THAT(read({std::string(wrapper) + "a.bias", std::string(wrapper) + "b"}),
                ElementsAre("a.bias", "b"))
        << wrapper;
  }
  // A module that was compiled or checkpointed alone, and beside it those that weren't.
  EXPECT_THAT(read({"layer.0._orig_mod.a", "layer.1._checkpoint_wrapped_module.a", "norm"}),
              ElementsAre("layer.0.a", "layer.1.a", "norm"));
  // Words that only begin so, and a tensor's own name.
  EXPECT_THAT(read({"modules_to_save.a", "x.module"}), ElementsAre("modules_to_save.a", "x.module"));
}

TEST_F(WrappedNames, ThatFallTogetherAreRefused) {
  EXPECT_THAT(error_of([&] {
                read({"a", "module.a"});
              }),
              AllOf(HasSubstr("a.safetensors"), HasSubstr("'a'"), HasSubstr("twice")));
}

TEST_F(WrappedNames, ShardsAreFoundByTheNamesOfTheFile) {
  write_safetensors(path("1.safetensors"), tensors({"module.a"}));
  write_safetensors(path("2.safetensors"), tensors({"module.b"}));
  const nlohmann::json index = {
      {"weight_map", {{"module.a", "1.safetensors"}, {"module.b", "2.safetensors"}}}};
  write_file_atomically(path("model.safetensors.index.json"), index.dump());
  const TensorMap found = read_weights(path("model.safetensors.index.json"));
  EXPECT_EQ(found.size(), 2u);
  EXPECT_EQ(found.count("a") + found.count("b"), 2u);
}

TEST(HintAboutPrefix, NamesWhatSetsTheNamesApart) {
  EXPECT_THAT(hint_about_prefix({"a", "b.c"}, {"encoder.a", "encoder.b.c", "head"}),
              AllOf(HasSubstr("\"encoder.\""), HasSubstr("removeprefix")));
  EXPECT_THAT(hint_about_prefix({"model.a", "model.b"}, {"a", "b"}), HasSubstr("lack \"model.\""));
  EXPECT_THAT(hint_about_prefix({"a"}, {"x.y.a"}), HasSubstr("\"x.y.\""));
  EXPECT_EQ(hint_about_prefix({"a", "b"}, {"x.c", "x.d"}), "");
  EXPECT_EQ(hint_about_prefix({}, {"x.c"}), "");
  EXPECT_EQ(hint_about_prefix({"a"}, {}), "");
}

}  // namespace
}  // namespace tessera
