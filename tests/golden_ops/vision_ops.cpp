#include <ATen/ATen.h>

#include <map>
#include <memory>

#include "core/error.h"
#include "lora/lora_targets.h"
#include "lora/module_names.h"
#include "lora/peft_files.h"
#include "tests/golden_ops/golden_case.h"
#include "vision/compressor.h"
#include "vision/dinov2.h"

namespace tessera::golden {

namespace {

vision::PositionInterpolation interpolation_of(const GoldenCase& golden) {
  const std::string name = golden.params.value("position_interpolation", "auto");
  if (name == "auto") {
    return vision::PositionInterpolation::kAuto;
  }
  if (name == "scale_factor") {
    return vision::PositionInterpolation::kScaleFactor;
  }
  if (name == "size") {
    return vision::PositionInterpolation::kSize;
  }
  if (name == "size_antialias") {
    return vision::PositionInterpolation::kSizeAntialias;
  }
  fail("{}: params.position_interpolation: expected auto, scale_factor, size or size_antialias, found \"{}\"",
       golden.name, name);
}

/// Training mode and the seed of what it drops, where the case is one of training.
void train_if_asked(const GoldenCase& golden, torch::nn::Module& model) {
  if (!golden.params.contains("training_seed")) return;
  model.train();
  at::manual_seed(golden.params["training_seed"].get<std::uint64_t>());
}

std::shared_ptr<vision::Dinov2Model> backbone(const GoldenCase& golden) {
  if (!golden.params.contains("config")) {
    fail("{}: params.config is missing", golden.name);
  }
  auto model = std::make_shared<vision::Dinov2Model>(
      vision::Dinov2Config::from_json(golden.params["config"], golden.name), interpolation_of(golden));
  model->load_file_tensors(golden.weights, golden.name);
  model->eval();
  return model;
}

void run_backbone(const GoldenCase& golden, vision::Dinov2Model& model, GoldenResult& result) {
  const at::Tensor hidden_states = model.forward(leaf(golden, "pixel_values", result));
  result.outputs["last_hidden_state"] = hidden_states;
  result.outputs["pooler_output"] = hidden_states.select(1, 0);
}

/// The reference's gradient is of SwiGLU's one inner matrix: the model's two become its halves.
void lead_to_joined_gates(vision::Dinov2Model& model, GoldenResult& result) {
  std::map<std::string, nn::LinearImpl*> linears;
  for (const lora::NamedLinear& module : lora::named_linears(model)) linears[module.name] = module.linear;
  const std::string gate_name = "gate_proj";
  for (const auto& [name, gate] : linears) {
    if (!name.ends_with(gate_name)) continue;
    const std::string place = name.substr(0, name.size() - gate_name.size());
    nn::LinearImpl* up = linears.at(place + "up_proj");
    const auto join = [&, gate = gate](const char* kind, at::Tensor nn::LinearImpl::*parameter) {
      at::Tensor& leaf = result.leaves.at("w." + place + "weights_in." + kind);
      leaf = leaf.detach().clone().set_requires_grad(true);
      const auto halves = leaf.chunk(2, 0);
      gate->*parameter = halves[0];
      up->*parameter = halves[1];
    };
    join("weight", &nn::LinearImpl::weight);
    join("bias", &nn::LinearImpl::bias);
  }
}

GoldenResult dinov2(const GoldenCase& golden) {
  GoldenResult result;
  const auto model = backbone(golden);
  for (const auto& [key, tensor] : model->file_tensors()) {
    result.leaves["w." + key] = tensor;
  }
  lead_to_joined_gates(*model, result);
  run_backbone(golden, *model, result);
  return result;
}

GoldenResult dinov2_lora(const GoldenCase& golden) {
  GoldenResult result;
  const auto model = backbone(golden);
  if (!golden.params.contains("adapter_config")) {
    fail("{}: params.adapter_config is missing", golden.name);
  }
  const lora::LoraOptions options =
      lora::load_adapter(golden.params["adapter_config"], golden.adapter, *model, golden.name);
  for (const auto naming : {lora::ModuleNaming::kLegacy, lora::ModuleNaming::kCurrent}) {
    // SwiGLU's two halves have no names of their own in the old naming.
    if (naming == lora::ModuleNaming::kLegacy && model->config().use_swiglu_ffn) continue;
    const TensorMap tensors = lora::adapter_tensors(*model, options, naming);
    for (const auto& [key, value] : golden.adapter) {
      const std::string path = model->module_names().without_wrapper_prefix(lora::without_peft_prefix(key));
      const auto found = tensors.find(lora::kPeftPrefix + path);
      if (found != tensors.end()) result.leaves["adapter." + key] = found->second;
    }
  }
  if (golden.params.value("merged", false)) {
    for (const lora::NamedLinear& module : lora::adapted_linears(*model)) module.linear->merge();
  }
  train_if_asked(golden, *model);
  run_backbone(golden, *model, result);
  return result;
}

/// The op has one input and one output; what a case calls them is its own affair.
GoldenResult compressor(const GoldenCase& golden) {
  GoldenResult result;
  if (golden.inputs.size() != 1 || golden.outputs.size() != 1) {
    fail("{}: compressor takes one in.* and gives one out.*, found {} and {}", golden.name,
         golden.inputs.size(), golden.outputs.size());
  }
  const at::Tensor hidden_states = leaf(golden, golden.inputs.begin()->first, result);
  const auto weight = [&](const std::string& key) {
    const auto found = golden.weights.find(key);
    if (found == golden.weights.end()) {
      fail("{}: w.{} is missing", golden.name, key);
    }
    return found->second;
  };
  vision::FeatureCompressor model(weight("0.weight").size(1),
                                  vision::CompressorConfig{.hidden_size = weight("0.weight").size(0),
                                                           .output_size = weight("3.weight").size(0)});
  model->eval();
  train_if_asked(golden, *model);
  for (auto& item : model->named_parameters()) {
    const at::NoGradGuard no_grad;
    item.value().copy_(weight(item.key()));
    result.leaves["w." + item.key()] = item.value();
  }
  result.outputs[golden.outputs.begin()->first] = model->forward(hidden_states);
  return result;
}

}  // namespace

void add_vision_ops(GoldenOps& ops) {
  ops["dinov2"] = dinov2;
  ops["dinov2_lora"] = dinov2_lora;
  ops["compressor"] = compressor;
}

}  // namespace tessera::golden
