#include "model/bundle.h"

#include <algorithm>

#include "config/config.h"
#include "core/error.h"
#include "core/publish_folder.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "model/adaptable_parts.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "vision/encoder_families.h"

namespace tessera::model {

namespace fs = std::filesystem;

namespace {

constexpr const char* kBackboneFolder = "backbone";

/// What stands in the way is replaced, so it must be something that this function wrote before.
void check_place(const fs::path& output) {
  if (!fs::exists(output)) return;
  if (!fs::is_directory(output)) fail("{}: is no folder", output.string());
  if (fs::is_empty(output)) return;
  for (const char* name : {"config.yaml", "model.safetensors", "tokenizer.model", kBackboneFolder}) {
    if (!fs::exists(output / name)) {
      fail("{}: holds something else than a bundle (there is no {}); name a new folder", output.string(),
           name);
    }
  }
}

/// The configuration as it is true of the bundle. What says where the run's data and files were says nothing
/// to whoever has the bundle alone.
Config bundle_config(Config config, const BundleOptions& options) {
  const RunConfig defaults;
  config.run.output_dir = defaults.output_dir;
  config.run.log_dir = defaults.log_dir;
  config.data.train.clear();
  config.data.validation.clear();
  config.init_from.clear();
  config.vision.weights = kBackboneFolder;
  config.language.weights = "language_model";
  config.language.tokenizer = "tokenizer.model";
  for (const AdaptablePart& part : adaptable_parts()) {
    const bool keeps_adapter = part.is_adapted(config) && !options.merge_lora;
    part.lora.of(config).adapter = keeps_adapter ? part.folder : "";
    // A part that has become whole again holds nothing that would have to stay.
    if (part.is_adapted(config) && !keeps_adapter) part.trainable.of(config) = lora::TrainableChoice::kFull;
  }
  // The backbone is in a folder of its own, which is what that says of it.
  if (config.lora.adapter.empty()) config.vision.trainable = lora::TrainableChoice::kNone;
  return config;
}

/// Files of an older bundle that a new one may be without.
bool is_of_an_adapter(const fs::path& name) {
  return std::any_of(adaptable_parts().begin(), adaptable_parts().end(), [&](const AdaptablePart& part) {
    const fs::path folder = part.folder;
    return name == folder / lora::kAdapterConfigFile || name == folder / lora::kAdapterWeightsFile;
  });
}

}  // namespace

KeptFiles write_bundle(const fs::path& checkpoint, const fs::path& output, const BundleOptions& options) {
  check_place(output);
  const LoadedModel loaded = load_model(checkpoint);
  Stage1Model& model = *loaded.model;
  if (options.merge_lora) {
    bool merged = false;
    for (const AdaptablePart& part : adaptable_parts()) {
      if (part.options(model) == nullptr) continue;
      lora::merge_lora(part.module(model));
      merged = true;
    }
    if (!merged) fail("{}: there is no adapter to merge", checkpoint.string());
  }
  const Config config = bundle_config(loaded.config, options);
  KeptFiles kept;
  publish_folder(output, [&](const fs::path& folder) {
    if (model.has_lora() && !options.merge_lora) {
      // As it was before the adapter, which may have taken its own beginning out of it, or trained parts of
      // it.
      save_backbone(folder / kBackboneFolder,
                    *vision::load_encoder(backbone_of_checkpoint(checkpoint).path,
                                          config.vision.position_interpolation),
                    config);
    } else {
      save_backbone(folder / kBackboneFolder, model.vision(), config);
    }
    save_weights(
        folder, model, config, loaded.tokenizer,
        {kBackboneFolder, backbone_hash(folder / kBackboneFolder),
         (options.merge_lora && model.has_lora()) || backbone_of_checkpoint(checkpoint).has_merged_adapter});
    if (fs::exists(output)) kept = keep_other_files(output, folder, is_of_an_adapter);
  });
  return kept;
}

}  // namespace tessera::model
