#include "model/bundle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "language/tokenizer_training.h"
#include "lora/lora.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"
#include "tests/model/small_config.h"
#include "vision/encoder_families.h"

namespace tessera::model {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A checkpoint as a run writes it, with weights that no initialisation has: adapters and gates that act.
class BundleTest : public testing::Test {
 protected:
  Config config(lora::TrainableChoice trainable) const {
    Config config = small_config();
    config.data.train = {(root() / "data" / "train.tar").string()};
    config.data.validation = {(root() / "data" / "val.tar").string()};
    config.run.output_dir = (root() / "runs").string();
    config.vision.trainable = trainable;
    config.language.tokenizer = (root() / "tokenizer.model").string();
    return config;
  }

  fs::path write_checkpoint(lora::TrainableChoice trainable) {
    Config config = this->config(trainable);
    const language::Tokenizer tokenizer =
        language::train_tokenizer({"a small red circle", "a large blue square"}, config.language.tokenizer,
                                  {.vocab_size = 300, .hard_vocab_limit = false});
    config.language.vocab_size = tokenizer.vocab_size();
    BuiltModel built = build_model(config, tokenizer.vocab_size());
    {
      const torch::NoGradGuard no_grad;
      torch::manual_seed(1);
      for (const NamedParameter& parameter : built.model->named_parts()) {
        at::Tensor tensor = parameter.tensor;
        if (parameter.part == Part::kLora) tensor.normal_(0, 0.3);
        if (parameter.part == Part::kGates) tensor.fill_(0.5);
      }
    }
    const fs::path backbone = root() / "run" / "backbone",
                   checkpoint = root() / "run" / "checkpoints" / "last";
    if (trainable != lora::TrainableChoice::kFull) {
      save_backbone(backbone, built.model->vision(), config);
      built.backbone = {backbone, backbone_hash(backbone)};
    }
    fs::create_directories(checkpoint);
    save_weights(checkpoint, *built.model, config, tokenizer, built.backbone);
    return checkpoint;
  }

  /// What a model makes of a fixed image and text.
  static std::vector<at::Tensor> outputs(const LoadedModel& loaded) {
    const torch::NoGradGuard no_grad;
    loaded.model->set_training(false);
    const at::Tensor pixels = torch::arange(3 * 28 * 28).remainder(251).to(torch::kByte).view({1, 3, 28, 28});
    const ImageFeatures image = loaded.model->encode_image(pixels);
    const TextFeatures text = loaded.model->encode_text(loaded.tokenizer.encode_batch({"a red square"}));
    return {image.embedding, text.embedding, loaded.model->patch_embeddings(image),
            loaded.model->match_logits(image.tokens, text.lower, text.attention_mask)};
  }

  /// Whatever is beside the bundle is gone, and the bundle itself is somewhere else.
  fs::path move_away(const fs::path& bundle) {
    const fs::path elsewhere = elsewhere_.path() / "moved";
    fs::rename(bundle, elsewhere);
    fs::remove_all(root());
    return elsewhere;
  }

  const fs::path& root() const { return place_; }

  TemporaryFolder root_;
  fs::path place_ = root_.path();  ///< of everything that a run reads and writes

 private:
  TemporaryFolder elsewhere_;
};

TEST_F(BundleTest, IsTheCheckpointBitForBitWithNothingBesideIt) {
  for (const lora::TrainableChoice trainable :
       {lora::TrainableChoice::kLora, lora::TrainableChoice::kNone, lora::TrainableChoice::kFull}) {
    const fs::path checkpoint = write_checkpoint(trainable);
    const std::vector<at::Tensor> expected = outputs(load_model(checkpoint));
    write_bundle(checkpoint, root() / "bundle", {});
    const fs::path bundle = move_away(root() / "bundle");
    const LoadedModel loaded = load_model(bundle);
    EXPECT_EQ(loaded.model->has_lora(), trainable == lora::TrainableChoice::kLora);
    EXPECT_EQ(fs::exists(bundle / "adapter"), trainable == lora::TrainableChoice::kLora);
    const std::vector<at::Tensor> found = outputs(loaded);
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(torch::equal(found[i], expected[i])) << i;
    fs::remove_all(bundle);
    fs::create_directories(root());
  }
}

TEST_F(BundleTest, OfWeightsThatAreNotFiniteNothingIsMade) {
  const fs::path checkpoint = write_checkpoint(lora::TrainableChoice::kLora);
  const fs::path file = checkpoint / "model.safetensors";
  const StringMap metadata = SafetensorsFile(file).metadata();
  TensorMap tensors;
  for (const auto& [name, tensor] : SafetensorsFile(file).tensors()) tensors[name] = tensor.clone();
  tensors.at("compressor.0.bias")[1] = std::nan("");
  write_safetensors(file, tensors, metadata);
  for (const std::string& error : {error_of([&] { load_model(checkpoint); }),
                                   error_of([&] { write_bundle(checkpoint, root() / "bundle", {}); })}) {
    EXPECT_THAT(error, HasSubstr(file.string() + ": tensor 'compressor.0.bias'"));
    EXPECT_THAT(error, HasSubstr("nan at [1]"));
  }
  EXPECT_FALSE(fs::exists(root() / "bundle"));
}

TEST_F(BundleTest, ACheckpointFindsItsBackboneAlsoWhereAnotherRunTookItsPlace) {
  const fs::path checkpoint = write_checkpoint(lora::TrainableChoice::kLora);
  const std::vector<at::Tensor> expected = outputs(load_model(checkpoint));
  fs::rename(root() / "run", root() / "run.previous");
  Config other = small_config();
  other.run.seed = 7;
  save_backbone(root() / "run" / "backbone", build_model(other, std::nullopt).model->vision(), other);
  const std::vector<at::Tensor> found = outputs(load_model(root() / "run.previous" / "checkpoints" / "last"));
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(torch::equal(found[i], expected[i])) << i;
}

TEST_F(BundleTest, MergesTheAdapterIntoTheBackbone) {
  const fs::path checkpoint = write_checkpoint(lora::TrainableChoice::kLora);
  const LoadedModel original = load_model(checkpoint);
  const std::vector<at::Tensor> expected = outputs(original);
  write_bundle(checkpoint, root() / "bundle", {.merge_lora = true});
  const fs::path bundle = move_away(root() / "bundle");
  const LoadedModel loaded = load_model(bundle);
  EXPECT_FALSE(loaded.model->has_lora());
  EXPECT_FALSE(fs::exists(bundle / "adapter"));
  const std::vector<at::Tensor> found = outputs(loaded);
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(torch::allclose(found[i], expected[i], 1e-4, 1e-5)) << i;

  const SafetensorsFile file(bundle / "backbone" / "model.safetensors");
  const torch::NoGradGuard no_grad;
  int adapted = 0;
  for (const lora::NamedLinear& module : lora::adapted_linears(original.model->vision())) {
    const at::Tensor product =
        module.linear->lora_b().to(at::kDouble).mm(module.linear->lora_a().to(at::kDouble));
    const at::Tensor merged =
        (module.linear->weight.to(at::kDouble) + module.linear->lora_options().scaling * product)
            .to(at::kFloat);
    EXPECT_TRUE(torch::equal(file.tensor(module.name + ".weight"), merged)) << module.name;
    EXPECT_FALSE(torch::allclose(merged, module.linear->weight))
        << module.name << ": the adapter must matter";
    ++adapted;
  }
  EXPECT_EQ(adapted, 4);
}

TEST_F(BundleTest, HoldsFoldersThatOthersReadAndNoTraceOfTheRun) {
  write_bundle(write_checkpoint(lora::TrainableChoice::kLora), root() / "bundle", {});
  const fs::path bundle = root() / "bundle";
  EXPECT_EQ(vision::load_encoder(bundle / "backbone")->hidden_size(), 24);
  const auto adapter = nlohmann::json::parse(read_file(bundle / "adapter" / "adapter_config.json"));
  EXPECT_EQ(adapter.at("base_model_name_or_path"), "backbone");
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(bundle)) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(read_file(entry.path()).find(root().string()), std::string::npos) << entry.path();
  }
  const Config config = load_config(bundle / "config.yaml");
  EXPECT_EQ(config.vision.weights, (bundle / "backbone").string());
  EXPECT_EQ(config.lora.adapter, (bundle / "adapter").string());
}

TEST_F(BundleTest, OfABundleMayBeMergedLaterAndReplacesAnOlderOne) {
  write_bundle(write_checkpoint(lora::TrainableChoice::kLora), root() / "bundle", {});
  const std::vector<at::Tensor> expected = outputs(load_model(root() / "bundle"));
  write_bundle(root() / "bundle", root() / "bundle", {.merge_lora = true});
  EXPECT_FALSE(fs::exists(root() / "bundle" / "adapter"));
  EXPECT_TRUE(torch::allclose(outputs(load_model(root() / "bundle"))[0], expected[0], 1e-4, 1e-5));
  EXPECT_THAT(error_of([&] { write_bundle(root() / "bundle", root() / "again", {.merge_lora = true}); }),
              HasSubstr("no adapter to merge"));
  EXPECT_FALSE(fs::exists(root() / "again"));
}

TEST_F(BundleTest, KeepsWhatOthersPutIntoTheOlderOne) {
  const fs::path checkpoint = write_checkpoint(lora::TrainableChoice::kLora), bundle = root() / "bundle";
  EXPECT_EQ(write_bundle(checkpoint, bundle, {}).count, 0u);
  fs::create_directories(bundle / ".git" / "refs");
  const std::vector<const char*> others = {"NOTES.md", ".git/HEAD", ".git/refs/main", "adapter/README.md"};
  for (const char* name : others) write_file_atomically(bundle / name, name);
  const KeptFiles kept = write_bundle(checkpoint, bundle, {.merge_lora = true});
  EXPECT_EQ(kept.count, others.size());
  for (const char* name : others) EXPECT_EQ(read_file(bundle / name), name);
  EXPECT_FALSE(fs::exists(bundle / "adapter" / "adapter_config.json")) << "of the older bundle";
  EXPECT_FALSE(fs::exists(bundle / "adapter" / "adapter_model.safetensors"));
  EXPECT_FALSE(load_model(bundle).model->has_lora());
}

TEST_F(BundleTest, FolderNamesNeedNotBeUtf8NorPlain) {
  for (const char* name : {"caf\xe9", "100% caf\xe9", "br{1}, epoch=5 @home", "-r"}) {
    place_ = root_.path() / name;
    fs::create_directories(place_);
    const fs::path checkpoint = write_checkpoint(lora::TrainableChoice::kLora);
    const std::vector<at::Tensor> expected = outputs(load_model(checkpoint));
    EXPECT_EQ(backbone_of_checkpoint(checkpoint).path, root() / "run" / "backbone");
    EXPECT_EQ(load_config(checkpoint / "config.yaml").data.train.at(0),
              (root() / "data" / "train.tar").string());
    write_bundle(checkpoint, root() / "bundle", {});
    const std::vector<at::Tensor> found = outputs(load_model(root() / "bundle"));
    for (std::size_t i = 0; i < found.size(); ++i)
      EXPECT_TRUE(torch::equal(found[i], expected[i])) << name << i;
  }
}

TEST_F(BundleTest, NeverReplacesWhatIsNoBundle) {
  const fs::path checkpoint = write_checkpoint(lora::TrainableChoice::kLora);
  for (const fs::path& place : {checkpoint, root() / "run", root()}) {
    EXPECT_THAT(error_of([&] { write_bundle(checkpoint, place, {}); }), HasSubstr("holds something else"));
  }
  EXPECT_NO_THROW(load_model(checkpoint));
  fs::create_directories(root() / "empty");
  write_bundle(checkpoint, root() / "empty", {});
  EXPECT_NO_THROW(load_model(root() / "empty"));
  EXPECT_THAT(error_of([&] { write_bundle(root() / "nowhere", root() / "b", {}); }), HasSubstr("nowhere"));
  EXPECT_FALSE(fs::exists(root() / "b"));
}

TEST_F(BundleTest, TellsThatItsBackboneIsGoneOrAnother) {
  write_bundle(write_checkpoint(lora::TrainableChoice::kLora), root() / "bundle", {});
  const fs::path weights = root() / "bundle" / "backbone" / "model.safetensors";
  const SafetensorsFile file(weights);
  TensorMap tensors;
  for (const auto& [name, tensor] : file.tensors()) tensors[name] = tensor + 1;
  write_safetensors(weights, tensors, file.metadata());
  EXPECT_THAT(error_of([&] { load_model(root() / "bundle"); }), HasSubstr("is not the one"));
  fs::remove_all(root() / "bundle" / "backbone");
  fs::remove_all(root() / "run");
  EXPECT_THAT(error_of([&] { load_model(root() / "bundle"); }), HasSubstr("backbone"));
}

}  // namespace
}  // namespace tessera::model
