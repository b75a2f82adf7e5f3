#include "tests/fuzz/readers.h"

#include <ATen/ATen.h>

#include <fstream>
#include <span>
#include <stdexcept>

#include "core/error.h"
#include "core/json_file.h"
#include "core/logging.h"
#include "core/mapped_file.h"
#include "core/pytorch_file.h"
#include "core/safetensors.h"
#include "core/utf8.h"
#include "data/caption_table.h"
#include "data/image_header.h"
#include "data/still_webp.h"
#include "data/tar_index.h"
#include "lora/adapter_files.h"
#include "lora/lora_targets.h"
#include "lora/peft_files.h"
#include "vision/dinov2.h"
#include "vision/dinov2_names.h"
#include "vision/facebook_weights.h"

namespace tessera {

namespace {

void write(std::string_view bytes, const std::filesystem::path& path) {
  std::filesystem::remove(path);  // ext4 flushes a file that is truncated and written anew: 10 ms each time
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// Reads every element: a view that reaches out of its file ends here.
void look_at(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) tensor.clone();
}

/// What a file of that content is then used for.
void load(const TensorMap& tensors) {
  if (!vision::has_facebook_names(tensors)) return;
  const vision::FacebookWeights weights = vision::from_facebook(tensors, "file");
  vision::Dinov2Model model(weights.config);
  model.load_file_tensors(weights.tensors, "file");
}

vision::Dinov2Config small_config() {
  vision::Dinov2Config config = vision::Dinov2Config::from_architecture({});
  config.hidden_size = 8;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 1;
  config.image_size = 28;
  return config;
}

/// Those of an adapter of a classifier.
TensorMap adapter_tensors_of_rank_2() {
  TensorMap tensors = {{"base_model.model.classifier.bias", at::ones({3})},
                       {"base_model.model.dinov2.encoder.layer.0.norm1.weight", at::ones({8})}};
  for (const char* module : {"encoder.layer.0.attention.q_proj", "encoder.layer.1.attention.q_proj"}) {
    tensors[fmt::format("base_model.model.dinov2.{}.lora_A.weight", module)] = at::ones({2, 8});
    tensors[fmt::format("base_model.model.dinov2.{}.lora_B.weight", module)] = at::ones({8, 2});
  }
  return tensors;
}

/// Where nothing but an Error may come of it, and one may well.
template <typename Use>
void try_out(const Use& use) {
  try {
    use();
  } catch (const Error&) {
  }
}

/// What is done with an adapter's configuration: names and expressions looked up, the adapter rewritten.
void use(const lora::AdapterFiles& files) {
  static vision::Dinov2Model model(small_config());
  try_out([&] {
    for (const lora::NamedLinear& module : lora::match_targets(model, files.options)) {
      files.options.rank_of(module.name, model.module_names());
      files.options.alpha_of(module.name, model.module_names());
    }
  });
  try_out([&] { lora::refuse_unused_names(model, files.options); });
  try_out([&] { lora::parameters_beside_adapters(model, files.options); });
  try_out([&] { lora::adapted_modules(files); });
  try_out([&] { lora::convert_adapter(files, lora::ModuleNaming::kLegacy); });
  try_out([&] { lora::convert_adapter(lora::without_head(files), lora::ModuleNaming::kCurrent); });
}

}  // namespace

bool accepts_safetensors(std::string_view bytes, const std::filesystem::path& scratch) {
  write(bytes, scratch);
  try {
    look_at(SafetensorsFile(scratch).tensors());
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool accepts_pytorch_file(std::string_view bytes, const std::filesystem::path& scratch) {
  write(bytes, scratch);
  try {
    const TensorMap tensors = read_pytorch_file(scratch);
    look_at(tensors);
    load(tensors);
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool accepts_adapter_config(std::string_view bytes, const std::filesystem::path&) {
  static const TensorMap tensors = adapter_tensors_of_rank_2();
  std::optional<lora::AdapterFiles> files;
  try {
    const auto json = parse_json<nlohmann::ordered_json>(bytes, "adapter_config.json");
    json_text(json);
    files = lora::AdapterFiles::of(json, tensors, "adapter_config.json", vision::dinov2_module_names());
  } catch (const Error&) {
    return false;
  }
  use(*files);
  return true;
}

bool accepts_image_header(std::string_view bytes, const std::filesystem::path&) {
  try {
    const data::ImageHeader header = data::inspect_image(std::as_bytes(std::span(bytes)), "image");
    if (header.first_frame) data::inspect_image(data::still_webp(*header.first_frame), "frame");
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool accepts_tar(std::string_view bytes, const std::filesystem::path& scratch) {
  write(bytes, scratch);
  try {
    const RegularFile file(scratch);
    const data::TarIndex index = data::index_tar(MappedFile(file));
    for (const data::TarMember& member : index.members) {
      if (member.offset > bytes.size() || member.size > bytes.size() - member.offset) {
        throw std::logic_error("a member outside of its tar");
      }
      file.read(member.offset, member.size);
    }
    return !index.members.empty();
  } catch (const Error&) {
    return false;
  }
}

bool accepts_caption_table(std::string_view bytes, const std::filesystem::path& scratch) {
  write(bytes, scratch);
  for (const char* picture : {"a.jpg", "b.jpg"}) {
    if (!std::filesystem::exists(scratch.parent_path() / picture))
      write("x", scratch.parent_path() / picture);
  }
  data::begins_like_caption_table(bytes, {});
  try {
    const auto table = data::CaptionTable::open({scratch}, {}, null_logger());
    for (std::int64_t i = 0; i < table->size(); ++i) {
      for (const std::string& caption : table->read(i).captions) {
        if (caption.empty() || !is_utf8(caption)) throw std::logic_error("a caption that is none");
      }
    }
  } catch (const Error&) {
    return false;
  }
  return true;
}

}  // namespace tessera
